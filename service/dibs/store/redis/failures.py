"""Classifies failed commands, and says whether one may have taken effect."""

import asyncio
import os
import re
import socket
import ssl
from typing import Any

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

_IN_SCRIPT = re.compile(r"on @user_(?:script|function)|^(ERR )?Error running script")
"""Marks an error that a script or a function met in the middle."""
_INNER = re.compile(r"@user_script: ?\d+: -?([A-Z]{2}[A-Z_]*) ")
"""The code of such an error in the text of an ERR, as Redis 6 sends it."""
_DENIED_INNER = re.compile(r"ACL failure in script|The user executing the script can't")
"""NOPERM of a command in a script, in the text of an ERR."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")
NO_REDIS = "What answers at DIBS_REDIS_URL is no Redis or Valkey."
_OTHERS = (
    ('"H"', "speaks HTTP, and is no Redis"),
    ("\\x15", "speaks TLS: its URL begins with rediss://"),
)
"""What hiredis says of the first byte of a peer that is no Redis."""
_SAYS = {
    "READONLY": "The store is a replica, which takes no writes",
    "NOREPLICAS": "The store takes no writes: fewer replicas follow it than its "
    "min-replicas-to-write asks for",
    "MISCONF": "The store takes no writes: it could not write to its disk, and its own log says "
    "why",
    "CLUSTERDOWN": "The store's cluster is not whole",
    "MASTERDOWN": "The store is a replica that has lost its primary",
    "TRYAGAIN": "The store is moving this project to another node",
    "BUSY": "The store is busy with a script that somebody runs there",
    "NOAUTH": "The store asks for a password, and its URL has none",
    "WRONGPASS": "The store does not know the user or the password in its URL",
    "DENIED": "The store lets nobody in from another host: it is in protected mode",
}
"""What the codes mean for which asking again may help, or another URL. Nothing was changed."""
_SAYS_TEXT = (
    ("DB index is out of range", "The store has no database of the number in its URL"),
    ("without any password configured", "The store asks for no password, but its URL has one"),
    ("no password is set", "The store asks for no password, but its URL has one"),
    ("SELECT is not allowed in cluster mode", "The store is a cluster, which has database 0 alone"),
    ("max number of clients reached", "The store has as many clients as it takes (maxclients)"),
)
"""The same for those that have no code of their own."""
_UNKNOWN = re.compile(
    r"unknown (?:redis )?command(?: called from|,? [`'\"]?([^`',\"]+))", re.IGNORECASE
)
_DENIED = re.compile(r"run the '([^']+)' command")
_NO_KEY = ("permissions to access", "access at least one of the keys")
_OF_SCRIPT = re.compile(r"\.? script: .*on @user_(?:script|function):\d+\.?$")
"""What newer servers add."""


class StoreDown(Exception):
    """The store cannot answer. `sent`: the call may have taken effect all the same."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class SlotMoved(StoreDown):
    """Another node of the cluster serves this key now."""


class Moving(StoreDown):
    """This key is on its way to another node of the cluster."""


class Withheld(StoreDown):
    """The store has no such command, or our user has no right to it."""

    def __init__(self, what: str, *, no_right: bool, sent: bool) -> None:
        name = what or "a command that dibs needs"
        super().__init__(
            f"The store's user has no right to {name} (NOPERM)."
            if no_right
            else f"The store does not have {name}.",
            sent=sent,
        )
        self.what, self.no_right = what, no_right
        """What is withheld ('' where the store does not name it), and why."""


class Unwilling(StoreDown):
    """The store answers, but what it would be told it may not keep: nothing is granted there."""

    def __init__(self, reason: str, *, sent: bool = False) -> None:
        super().__init__(reason, sent=sent)


class Damaged(StoreDown):
    """What the store holds in the place of a task, or of a project, nobody can read."""

    def __init__(
        self, reason: str, *, sent: bool, task: str = "", lost: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(reason, sent=sent)
        self.task, self.lost = task, lost
        """Which task, where it is one; and the losses that the answer tells."""


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

    StoreDown, StoreFull or SlotMoved where the store is at fault, NoScriptError where it has to be
    given the script, else `error` itself: a defect of ours, or a refusal that the caller expects.
    """
    if isinstance(error, NoScriptError | StoreDown | StoreFull):
        return error
    if isinstance(error, ResponseError | AuthenticationError):
        meant = _refused(error)
        if meant is not error:
            meant.__cause__ = error
        return meant
    if isinstance(error, LOST):
        return StoreDown(_unreachable(error), sent=sent)
    if isinstance(error, InvalidResponse):
        return StoreDown(_no_redis(str(error)), sent=sent)
    return error


def reply_of(error: Exception) -> RedisError | None:
    """Return the error reply that a failure comes from; None where no answer came."""
    for each in (error, error.__cause__):
        if isinstance(each, ResponseError | AuthenticationError):
            return each
    return None


def begun(reply: RedisError) -> bool:
    """Say if a script or function had begun when it met this error, and may have written."""
    return bool(_IN_SCRIPT.search(str(reply)))


def _unreachable(error: Exception) -> str:
    """Return why there is no connection, in a sentence."""
    if isinstance(error, RedisTimeoutError | TimeoutError):
        return "The store does not answer."
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        return f"The store's certificate is not to be trusted: {why}."
    if isinstance(error, ssl.SSLError):
        if error.reason in _NO_TLS:
            return (
                "What answers at DIBS_REDIS_URL speaks no TLS: a URL without begins with redis://."
            )
        return f"The store and dibs do not agree on TLS: {error.reason or error}."
    if isinstance(error, socket.gaierror):
        return "The store cannot be reached: the host in DIBS_REDIS_URL has no address."
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "The store ended the connection."
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return f"The store cannot be reached: {os.strerror(error.errno)}."
    return "The store cannot be reached."


def _no_redis(text: str) -> str:
    """Return what a peer is that answers with something else, in a sentence."""
    for mark, what in _OTHERS:
        if mark in text:
            return f"What answers at DIBS_REDIS_URL {what}."
    return NO_REDIS


def _refused(error: RedisError) -> Exception:
    """Return what an error reply means; next to always, that nothing was changed."""
    code, text = code_of(error), str(error)
    if isinstance(error, MovedError) or code == "MOVED":
        return SlotMoved("The store serves this project elsewhere now.", sent=False)
    if isinstance(error, AskError) or code == "ASK":
        # Never followed: half of the project's keys are here and half there, so that a script
        # there would find tasks free that are held.
        return Moving("The store is moving this project to another node.", sent=False)
    if code == "NOSCRIPT":
        return NoScriptError(text)
    if code == "OOM":
        return StoreFull(text)
    if code == "WRONGTYPE":
        return Damaged(
            "The store holds something that dibs did not put there (WRONGTYPE), in the place of a "
            "part of this project. `dibs purge` takes the project out.",
            sent=begun(error),
        )
    if code == "LOADING":
        return StoreDown("The store is loading its data.", sent=False)
    if code in _SAYS:
        return StoreDown(f"{_SAYS[code]} ({code}).", sent=False)
    return _withheld(code, text) or next(
        (StoreDown(f"{says}.", sent=False) for said, says in _SAYS_TEXT if said in text), error
    )


def _withheld(code: str, text: str) -> Withheld | None:
    """Return what a command that we may not run, or that is not there, means."""
    # A command in a script may have followed others that were carried out.
    midway = bool(_IN_SCRIPT.search(text))
    if code == "NOPERM":
        what = ""
        if any(said in text for said in _NO_KEY):
            what = "keys that begin with dibs:"
        elif found := _DENIED.search(text):
            what = found[1].upper().replace("|", " ")
        return Withheld(what, no_right=True, sent=midway)
    if found := _UNKNOWN.search(text):  # unnamed where a script ran it
        return Withheld((found[1] or "").upper(), no_right=False, sent=midway)
    return None


def said(error: Exception) -> str:
    """Return an error reply in one line, without the place in our script that newer stores name."""
    return _OF_SCRIPT.sub("", str(error)).strip().rstrip(".")
