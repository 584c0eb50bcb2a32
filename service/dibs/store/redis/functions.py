"""The functions that a server keeps for us, where it keeps any; see store/library.py.

Nothing depends on them: a server that has none, gives us no right to them, is full or takes no
writes is sent scripts, as one that is too old. Whether it has them is found out by asking, once for
each connection.
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
"""After a refusal that may pass (a full store, a replica) scripts are sent for so long."""
KEPT = 12
"""So many libraries stay in a server, the latest."""
YOUNG_S = 3600
"""And those that were loaded within this time: several versions of dibs at once never take turns
at loading theirs more often. One that is gone too early the next who needs it loads again."""

REFUSALS = (ResponseError, StoreDown, StoreFull)
"""What a refused command raises."""


class FunctionServer(Protocol):
    """What is needed of a link to one server."""

    async def command(self, *parts: str | int) -> Any:
        """See Link."""
        ...


class Functions:
    """Whether one server keeps functions for us, as far as it is known."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._not_before_s = 0.0

    @property
    def used(self) -> bool:
        """Say if the server is to be asked for functions now."""
        return self._not_before_s == 0.0 or self._not_before_s <= self._now()

    def ask_again(self) -> None:
        """Forget what the server refused: it may be another one, or a newer one."""
        self._not_before_s = 0.0

    async def amend(self, server: FunctionServer, library: Library, error: Exception) -> bool:
        """Say if an act is to be given again, whose function was refused with `error`.

        It did not run then. Either the server knows the function now, or `used` is False. Raises
        StoreDown.
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
            if reply is None:  # the act that it is for was not sent
                raise StoreDown(str(error), sent=False) from error
            if "already exists" not in str(reply):  # another was faster
                self._refused(error, library)

    def _refused(self, error: Exception, library: Library) -> None:
        passes = isinstance(error, StoreFull | StoreDown) and not isinstance(error, Withheld)
        self._not_before_s = self._now() + PAUSE_S if passes else math.inf
        if not passes:
            log.info(
                "functions_refused name=%s why=%r: scripts are sent", library.name, said(error)
            )

    async def _tidy(self, server: FunctionServer, now_s: int) -> None:
        """Delete libraries of ours that are old; who needs one again loads it again."""
        try:
            libraries = await server.command("FUNCTION", "LIST", "LIBRARYNAME", f"{PREFIX}*")
            for name in _old(libraries, now_s):
                await server.command("FUNCTION", "DELETE", name)
        except REFUSALS as error:
            if reply_of(error) is None:
                raise
            # No right to it, or another has deleted it.


def _old(libraries: Sequence[Any], now_s: int) -> list[str]:
    """Return the names of libraries of ours that are neither young nor of the latest."""
    dated = sorted(filter(_is_ours, map(_dated, libraries)), reverse=True)
    return [name for loaded_s, name in dated[KEPT:] if loaded_s + YOUNG_S < now_s]


def _dated(library: Any) -> tuple[int, str]:
    """Return when a library was loaded (0: it is none of ours), and its name."""
    told = _by_name(library)
    described = [str(_by_name(each).get("description")) for each in told.get("functions", ())]
    known = [int(description) for description in described if description.isdigit()]
    return max(known, default=0), str(told["library_name"])


def _is_ours(dated: tuple[int, str]) -> bool:
    return dated[0] > 0


def _by_name(fields: Any) -> dict[str, Any]:
    """Return the fields of a reply, which come as a mapping or one after the other."""
    if isinstance(fields, dict):
        return fields
    return dict(zip(fields[::2], fields[1::2], strict=False))
