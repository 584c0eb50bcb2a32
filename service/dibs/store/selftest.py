"""Checks at start that the store supports every command dibs uses, and that its user may run them.

Servers with the Redis protocol differ in their commands, and users in their rights. The check
reports everything that is missing at once, before the first claim.
"""

import uuid
from collections.abc import Callable
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from dibs.store.redis.failures import (
    NO_REDIS,
    ErrorReply,
    StoreDown,
    StoreFull,
    Withheld,
    failure,
    said,
)
from dibs.store.redis.link import Link
from dibs.store.scripts import Script

_BLOCK_MS = 1


async def lacks(link: Link) -> str:
    """Return what `link`'s store lacks, in sentences, or ''. Raises StoreDown.

    The check writes to its own keys, and removes them. A full store counts as complete.
    """
    key = f"dibs:{{self-test-{uuid.uuid4().hex}}}"
    found = _Lacks()
    script = Script.load("selftest")
    await found.ask("EVALSHA", link.command("EVALSHA", script.sha, 1, key))
    reply = await found.ask("EVAL", link.command("EVAL", script.text, 1, key), list)
    for what, why in zip(reply[::2], reply[1::2], strict=False) if reply else ():
        found.add(str(what), ErrorReply(why) if why else None)
    await found.ask("XINFO STREAM", link.command("XINFO", "STREAM", key))
    read = ("XREAD", "COUNT", 1, "BLOCK", _BLOCK_MS, "STREAMS", key, "0-0")
    # With an entry to read, XREAD returns at once, even if the store's clock stands still.
    if await found.ask("XADD", link.command("XADD", key, "*", "read", "me")):
        await found.ask("XREAD BLOCK", link.command(*read), (list, dict))
        await found.ask("DEL", link.command("DEL", key))
    if link.replicas:
        await found.ask("WAIT", link.command("WAIT", 0, 1), int)
    return found.told()


class _Lacks:
    """Missing commands, by the reason why they are missing."""

    def __init__(self) -> None:
        self._no_right: list[str] = []
        self._absent: list[str] = []
        self._wrong: list[str] = []

    async def ask(self, what: str, answer: Any, kind: Any = None) -> Any:
        """Await a reply of type `kind` (or one of several) and return it; None for an error, which
        is noted. Raises StoreDown where the reply has another type."""
        try:
            reply = await answer
        except (Withheld, ResponseError) as error:
            # NOSCRIPT and "no such key" are the right answers: the script is not loaded yet, and
            # there is no stream.
            if not isinstance(error, NoScriptError) and "no such key" not in str(error):
                self.add(what, error)
            return None
        except StoreFull:
            return None
        if kind and not isinstance(reply, kind):
            raise StoreDown(NO_REDIS, sent=False)
        return reply

    def add(self, what: str, error: Exception | None) -> None:
        """Note that `what` failed. With `error` None, it returned a wrong result."""
        meant = failure(error, sent=False) if error else None
        if isinstance(meant, StoreFull):
            return
        if isinstance(meant, Withheld):
            (self._no_right if meant.no_right else self._absent).append(meant.what or what)
        elif isinstance(meant, StoreDown):
            raise meant
        else:
            self._wrong.append(f"{what} ({said(meant)})" if meant else what)

    def told(self) -> str:
        """Return all failures in one line, or ''."""
        return " ".join(
            say(", ".join(dict.fromkeys(names)))
            for names, say in (
                (self._no_right, _NO_RIGHT),
                (self._absent, _ABSENT),
                (self._wrong, _WRONG),
            )
            if names
        )


_NO_RIGHT: Callable[[str], str] = (
    "The store's user has no right to {}: docs/deploy.md has the rights that dibs needs.".format
)
_ABSENT: Callable[[str], str] = "The store does not support {}, which dibs needs.".format
_WRONG: Callable[[str], str] = "The store does not behave like Redis: {}.".format
