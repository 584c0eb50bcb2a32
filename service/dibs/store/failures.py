"""What a failed command means to its caller, and whether it may have taken effect."""

import asyncio
import re

from redis.exceptions import (
    AskError,
    AuthenticationError,
    InvalidResponse,
    MovedError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

LOST = (RedisConnectionError, RedisTimeoutError, OSError, asyncio.TimeoutError)
"""What a connection that cannot be used raises."""

_IN_SCRIPT = re.compile(r"on @user_script|^(ERR )?Error running script")
"""In what is said of a command that failed in the middle of a script."""
_INNER = re.compile(r"@user_script: ?\d+: -?([A-Z]{2}[A-Z_]*) ")
"""Its code where all of it is said under ERR, as Redis 6 does."""
_DENIED_INNER = re.compile(r"ACL failure in script|The user executing the script can't")
"""What NOPERM is called in a script, under ERR."""

_AWAY = (
    "READONLY",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "MISCONF",
    "BUSY",
    "NOAUTH",
    "WRONGPASS",
)
_UNKNOWN = re.compile(r"unknown command [`'\"]?([^`',\"]+)", re.IGNORECASE)
_DENIED = re.compile(r"run the '([^']+)' command")


class StoreDown(Exception):
    """The store cannot answer. `sent`: the call may have taken effect all the same."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class Moved(StoreDown):
    """Another node of the cluster serves this key now."""


class Withheld(StoreDown):
    """The store has no such command, or our user has no right to it."""

    def __init__(self, what: str, why: str, *, sent: bool = False) -> None:
        super().__init__(f"The store does not let dibs run {what}: {why}.", sent=sent)
        self.what = what
        """The command, or what else is told of it."""


class Unwilling(StoreDown):
    """The store answers, but what it would be told it may not keep: nothing is granted there."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, sent=False)


class StoreFull(Exception):
    """The store is at its memory limit and refused to grow; nothing was changed."""


class ErrorReply(ResponseError):
    """An error that the store answered with: its code (`OOM`, `READONLY`, …) and its sentence."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.split(" ", 1)[0]


def code_of(error: Exception) -> str:
    """Return the code of an error reply.

    redis-py takes the code off the sentence of some errors and not of others; a script's own
    errors have it in the middle.
    """
    said = str(error)
    if inner := _INNER.findall(said):
        return str(inner[-1])
    if _DENIED_INNER.search(said):
        return "NOPERM"
    found = getattr(error, "code", None) or getattr(error, "status_code", None)
    return str(found or said.split(" ", 1)[0])


def failure(error: Exception, *, sent: bool) -> Exception:
    """Return what a failed command means to the caller.

    StoreDown, StoreFull or Moved where the store is at fault, NoScriptError where it has to be
    given the script, else `error` itself: a defect of ours, or a refusal that the caller expects.
    """
    if isinstance(error, NoScriptError | StoreDown | StoreFull):
        return error
    if isinstance(error, ResponseError | AuthenticationError):
        return _refused(error)
    if isinstance(error, LOST):
        late = isinstance(error, RedisTimeoutError | TimeoutError)
        word = "does not answer" if late else "cannot be reached"
        return StoreDown(f"The store {word}.", sent=sent)
    if isinstance(error, InvalidResponse):
        return StoreDown("What answers where the store should be is no Redis.", sent=sent)
    return error


def _refused(error: RedisError) -> Exception:
    """Return what an error reply means; next to always, that nothing was changed."""
    code = code_of(error)
    if isinstance(error, MovedError) or code == "MOVED":
        return Moved("The store serves this project elsewhere now.", sent=False)
    if isinstance(error, AskError) or code == "ASK":
        # Never followed: half of the project's keys are here and half there, so that a script
        # there would find tasks free that are held.
        return StoreDown("The store is moving this project to another node.", sent=False)
    if code == "NOSCRIPT":
        return NoScriptError(str(error))
    if code == "OOM":
        return StoreFull(str(error))
    if code == "LOADING":
        return StoreDown("The store is loading its data.", sent=False)
    if code in _AWAY:
        return StoreDown(f"The store refuses for now: {code}.", sent=False)
    if code == "NOPERM":
        found = _DENIED.search(str(error))
        what = found[1].upper().replace("|", " ") if found else "what it needs"
        # A command in a script may have followed others that were carried out.
        begun = bool(_IN_SCRIPT.search(str(error)))
        return Withheld(what, "its user has no right to it", sent=begun)
    if found := _UNKNOWN.search(str(error)):
        return Withheld(found[1].upper(), "it has no such command")
    return error
