"""Reading of request bodies, with a bound on the memory of large ones."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from dibs.api import smuggling
from dibs.problems import ProblemError

BODIES_MOST = 16 << 20
"""Bytes of large bodies in memory at once: sixteen of the largest."""
_GIVEN_UP = (
    "The service received more large bodies at once than it has memory for, and gave up on this "
    "one, the oldest. Nothing was changed. Send it again."
)


async def body_of(
    receive: Any, declared: int, most: int, count: Callable[[int], None] | None = None
) -> bytes:
    """Return a request's body. Raise `too-large`, or `invalid` if a part of it is missing.

    `declared` is its Content-Length, -1 without one; a body declared too large is not read.
    `count` is called with the size of each part that arrives.
    """
    body, more = b"", declared <= most
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ProblemError("invalid", "The request ended before its body was complete.")
        part = message.get("body", b"")
        if count:
            count(len(part))
        body += part
        more = message.get("more_body", False) and len(body) <= most
    if declared > most or len(body) > most:
        raise ProblemError("too-large", "The body is larger than this service accepts.")
    if len(body) != declared >= 0:
        raise smuggling.short(declared, len(body))
    return body


class BodyBudget:
    """A memory budget for large bodies, each counted until it has been processed.

    Bytes that have arrived count, not declared ones: a slow sender keeps nobody out. When the
    budget is exceeded, the oldest body still arriving is dropped, because an honest client sends a
    large body in less than a second.
    """

    def __init__(self, most: int = BODIES_MOST) -> None:
        self._most, self._held = most, 0
        self._coming: dict[asyncio.Timeout, int] = {}
        """Bytes received of each body still arriving, oldest body first."""

    @asynccontextmanager
    async def body(self, receive: Any, declared: int, most: int) -> AsyncIterator[bytes]:
        """Yield a body of at most `most` bytes, which counts until the block ends.

        Raises the problems of body_of, and `unavailable` if the body was dropped.
        """
        patience = asyncio.timeout(None)
        try:
            async with patience:
                self._coming[patience] = 0
                body = await body_of(receive, declared, most, partial(self._count, patience))
                if patience not in self._coming:  # it was complete before the timeout fired
                    raise TimeoutError
        except TimeoutError:
            raise ProblemError("unavailable", _GIVEN_UP, retry_after=1) from None
        finally:
            size = self._coming.pop(patience, 0)
            self._held -= size
        self._held += size
        try:
            yield body
        finally:
            self._held -= size

    def _count(self, patience: asyncio.Timeout, size: int) -> None:
        if patience in self._coming:
            self._coming[patience] += size
            self._held += size
        while self._held > self._most and self._coming:
            oldest = next(iter(self._coming))
            self._held -= self._coming.pop(oldest)
            oldest.reschedule(asyncio.get_running_loop().time())
