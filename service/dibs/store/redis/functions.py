"""Loads dibs's functions into servers that support them; see store/library.py.

dibs does not depend on functions. It sends scripts to a server that is too old for them, denies
dibs the right to them, is full, or takes no writes. It learns this by trying, once per connection.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from redis.exceptions import ResponseError

from dibs.store.library import PREFIX, Library
from dibs.store.redis.failures import (
    Moving,
    SlotMoved,
    StoreDown,
    StoreFull,
    Withheld,
    begun,
    reply_of,
    said,
)

log = logging.getLogger("dibs.store")

PAUSE_S = 5.0
"""Seconds for which scripts are sent after a temporary refusal (a full store, a replica)."""
KEPT = 12
"""Number of latest libraries that stay on a server."""
YOUNG_S = 3600
"""Libraries loaded within this many seconds also stay, so that several versions of dibs on one
server reload their libraries at most this often. A service that misses its library loads it
again."""

REFUSALS = (ResponseError, StoreDown, StoreFull)
"""Exceptions of a refused command."""


class FunctionServer(Protocol):
    """A link to one server, as far as Functions needs it."""

    async def command(self, *parts: str | int) -> Any:
        """See Link."""
        ...


class Functions:
    """Records whether one server accepts functions, as far as that is known."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._not_before_s = 0.0

    @property
    def used(self) -> bool:
        """Whether to call functions on the server now, instead of scripts."""
        return self._not_before_s == 0.0 or self._not_before_s <= self._now()

    def ask_again(self) -> None:
        """Forget a refusal: the server may be another one, or a newer version."""
        self._not_before_s = 0.0

    async def amend(self, server: FunctionServer, library: Library, error: Exception) -> bool:
        """Return whether to retry an act whose function call failed with `error`.

        If so, the function did not run, and now either the server has the function or `used` is
        False. Raises StoreDown.
        """
        reply = reply_of(error)
        if reply is None or begun(reply) or isinstance(error, SlotMoved | Moving):
            return False
        if "Function not found" in str(reply):
            await self._load(server, library)
        else:
            self._refused(error, library)
        return True

    async def _load(self, server: FunctionServer, library: Library) -> None:
        try:
            now_s = int((await server.command("TIME"))[0])
            await server.command("FUNCTION", "LOAD", library.text(now_s))
            await self._tidy(server, now_s)
        except REFUSALS as error:
            reply = reply_of(error)
            if reply is None:  # no reply; the act itself was not sent
                raise StoreDown(str(error), sent=False) from error
            if "already exists" not in str(reply):  # else another service loaded it first
                self._refused(error, library)

    def _refused(self, error: Exception, library: Library) -> None:
        passes = isinstance(error, StoreFull | StoreDown) and not isinstance(error, Withheld)
        self._not_before_s = self._now() + PAUSE_S if passes else math.inf
        if not passes:
            log.info(
                "functions_refused name=%s why=%r: dibs sends scripts instead",
                library.name,
                said(error),
            )

    async def _tidy(self, server: FunctionServer, now_s: int) -> None:
        """Delete old libraries of dibs; a service that still needs one loads it again."""
        try:
            libraries = await server.command("FUNCTION", "LIST", "LIBRARYNAME", f"{PREFIX}*")
            for name in _old(libraries, now_s):
                await server.command("FUNCTION", "DELETE", name)
        except REFUSALS as error:
            if reply_of(error) is None:
                raise
            # The user has no right to this, or another service has deleted the library.


def _old(libraries: Sequence[Any], now_s: int) -> list[str]:
    """Return the names of dibs's libraries that are older than YOUNG_S, except the latest KEPT."""
    dated = sorted(filter(_is_ours, map(_dated, libraries)), reverse=True)
    return [name for loaded_s, name in dated[KEPT:] if loaded_s + YOUNG_S < now_s]


def _dated(library: Any) -> tuple[int, str]:
    """Return a library's time of loading (0: the library is not dibs's), and its name."""
    told = _by_name(library)
    described = [str(_by_name(each).get("description")) for each in told.get("functions", ())]
    known = [int(description) for description in described if description.isdigit()]
    return max(known, default=0), str(told["library_name"])


def _is_ours(dated: tuple[int, str]) -> bool:
    return dated[0] > 0


def _by_name(fields: Any) -> dict[str, Any]:
    """Return a reply's fields as a dict; servers send a mapping or a flat list."""
    if isinstance(fields, dict):
        return fields
    return dict(zip(fields[::2], fields[1::2], strict=False))
