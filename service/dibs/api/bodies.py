"""Takes the bodies of requests, and keeps the memory that large ones take within bounds."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from dibs.api import smuggling
from dibs.problems import ProblemError

BODIES_MOST = 16 << 20
"""Bytes of large bodies at once: sixteen of the largest."""
_GIVEN_UP = (
    "More large bodies came at once than the service has room for, and this one had been coming "
    "for longest. Nothing was changed. Send it again."
)


async def body_of(
    receive: Any, declared: int, most: int, count: Callable[[int], None] | None = None
) -> bytes:
    """Return a request's body, or raise `too-large`, or `invalid` where a part of it is missing.

    `declared` is what it should have, -1 where nobody says. What is too large is not asked for.
    `count` is told of the bytes that come.
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
    """Memory for the large bodies of strangers, until they are dealt with.

    What has come counts, and not what is to come: who sends slowly keeps nobody out. Where it is
    full, the body that has been coming for longest makes room, because a client that means it
    sends a large body in less than a second.
    """

    def __init__(self, most: int = BODIES_MOST) -> None:
        self._most, self._held = most, 0
        self._coming: dict[asyncio.Timeout, int] = {}
        """What has come of each, in the order in which they began."""

    @asynccontextmanager
    async def body(self, receive: Any, declared: int, most: int) -> AsyncIterator[bytes]:
        """Give a body of at most `most` bytes, which counts until the block ends.

        Raises the problems of body_of, and `unavailable` where it had to make room.
        """
        patience = asyncio.timeout(None)
        try:
            async with patience:
                self._coming[patience] = 0
                body = await body_of(receive, declared, most, partial(self._count, patience))
                if patience not in self._coming:  # it came whole before it could be stopped
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
