"""Classifies failed commands, and reports whether a failed command may have taken effect."""

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
"""Exceptions that an unusable connection raises."""

_IN_SCRIPT = re.compile(r"on @user_(?:script|function)|^(ERR )?Error running script")
"""Matches an error that occurred while a script or function ran."""
_INNER = re.compile(r"@user_script: ?\d+: -?([A-Z]{2}[A-Z_]*) ")
"""The code of such an error within the text of an ERR, as Redis 6 sends it."""
_DENIED_INNER = re.compile(r"ACL failure in script|The user executing the script can't")
"""A NOPERM of a command in a script, within the text of an ERR."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")
NO_REDIS = "The server at DIBS_REDIS_URL is not Redis or Valkey."
_OTHERS = (
    ('"H"', "speaks HTTP: it is not Redis or Valkey"),
    ("\\x15", "speaks TLS: use a URL that begins with rediss://"),
)
"""Texts in hiredis's errors about the first byte of a peer that is not a Redis."""
_SAYS = {
    "READONLY": "The store is a replica and accepts no writes",
    "NOREPLICAS": "The store accepts no writes: it has fewer replicas than its "
    "min-replicas-to-write requires",
    "MISCONF": "The store accepts no writes because it could not write to its disk; its log has "
    "the reason",
    "CLUSTERDOWN": "The store's cluster is incomplete",
    "MASTERDOWN": "The store is a replica that has lost its primary",
    "TRYAGAIN": "The store is moving this project to another node",
    "BUSY": "The store is busy running a script of another client",
    "NOAUTH": "The store requires a password, but its URL has none",
    "WRONGPASS": "The store rejects the user or the password in its URL",
    "DENIED": "The store refuses connections from other hosts: it is in protected mode",
}
"""Sentences for the codes that a retry or another URL may resolve. The store changed nothing."""
_SAYS_TEXT = (
    ("DB index is out of range", "The store has no database with the number in its URL"),
    ("without any password configured", "The store has no password, but its URL has one"),
    ("no password is set", "The store has no password, but its URL has one"),
    ("SELECT is not allowed in cluster mode", "The store is a cluster, which has only database 0"),
    ("max number of clients reached", "The store has reached its limit of clients (maxclients)"),
)
"""Sentences for such errors without a specific code."""
_UNKNOWN = re.compile(
    r"unknown (?:redis )?command(?: called from|,? [`'\"]?([^`',\"]+))", re.IGNORECASE
)
_DENIED = re.compile(r"run the '([^']+)' command")
_NO_KEY = ("permissions to access", "access at least one of the keys")
_OF_SCRIPT = re.compile(r"\.? script: .*on @user_(?:script|function):\d+\.?$")
"""The place in a script that newer servers add to an error."""


class StoreDown(Exception):
    """The store cannot answer. `sent`: the call may still have taken effect."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class SlotMoved(StoreDown):
    """Another node of the cluster serves this key now."""


class Moving(StoreDown):
    """The cluster is moving this key to another node."""


class Withheld(StoreDown):
    """The store lacks a command, or dibs's user has no right to it."""

    def __init__(self, what: str, *, no_right: bool, sent: bool) -> None:
        name = what or "a command that dibs needs"
        super().__init__(
            f"The store's user has no right to {name} (NOPERM)."
            if no_right
            else f"The store does not support {name}.",
            sent=sent,
        )
        self.what, self.no_right = what, no_right
        """The withheld command or keys ('' where the store does not name them), and the reason."""


class Unwilling(StoreDown):
    """The store answers, but it may lose claims, so dibs grants none."""

    def __init__(self, reason: str, *, sent: bool = False) -> None:
        super().__init__(reason, sent=sent)


class Damaged(StoreDown):
    """The store's data of a task or of a project cannot be read."""

    def __init__(
        self, reason: str, *, sent: bool, task: str = "", lost: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(reason, sent=sent)
        self.task, self.lost = task, lost
        """The damaged task ('' for a project), and the losses to report in the answer."""


class StoreFull(Exception):
    """The store is at its memory limit and refused a write; nothing was changed."""


class ErrorReply(ResponseError):
    """An error reply of the store: its code (`OOM`, `READONLY`, …) and its sentence."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.split(" ", 1)[0]


def code_of(error: Exception) -> str:
    """Return the code of an error reply.

    redis-py removes the code from the sentence of some errors but not of others. An error within a
    script has its code in the middle of the text.
    """
    said = str(error)
    if inner := _INNER.findall(said):
        return str(inner[-1])
    if _DENIED_INNER.search(said):
        return "NOPERM"
    found = getattr(error, "code", None) or getattr(error, "status_code", None)
    return str(found or said.split(" ", 1)[0])


def failure(error: Exception, *, sent: bool) -> Exception:
    """Return the exception to raise for a failed command.

    StoreDown (or a subclass) or StoreFull: the cause is in the store. NoScriptError: the script has
    to be sent. Else `error` itself: a defect in dibs, or a refusal that the caller expects.
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
    """Return the error reply that caused a failure; None where no reply came."""
    for each in (error, error.__cause__):
        if isinstance(each, ResponseError | AuthenticationError):
            return each
    return None


def begun(reply: RedisError) -> bool:
    """Return whether this error came from within a script or function, which may have written."""
    return bool(_IN_SCRIPT.search(str(reply)))


def _unreachable(error: Exception) -> str:
    """Return why there is no connection, in a sentence."""
    if isinstance(error, RedisTimeoutError | TimeoutError):
        return "The store does not answer."
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        return f"The store's certificate is not trusted: {why}."
    if isinstance(error, ssl.SSLError):
        if error.reason in _NO_TLS:
            return (
                "The server at DIBS_REDIS_URL does not speak TLS: use a URL that begins with "
                "redis://."
            )
        return f"The TLS handshake with the store failed: {error.reason or error}."
    if isinstance(error, socket.gaierror):
        return "The store cannot be reached: the host in DIBS_REDIS_URL has no address."
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "The store ended the connection."
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return f"The store cannot be reached: {os.strerror(error.errno)}."
    return "The store cannot be reached."


def _no_redis(text: str) -> str:
    """Return a sentence about a peer that does not speak the Redis protocol."""
    for mark, what in _OTHERS:
        if mark in text:
            return f"The server at DIBS_REDIS_URL {what}."
    return NO_REDIS


def _refused(error: RedisError) -> Exception:
    """Return the exception for an error reply. In nearly every case the store changed nothing."""
    code, text = code_of(error), str(error)
    if isinstance(error, MovedError) or code == "MOVED":
        return SlotMoved("Another node of the store's cluster now serves this project.", sent=False)
    if isinstance(error, AskError) or code == "ASK":
        # Never followed: the project's keys are split between two nodes, so a script on the other
        # node would find held tasks free.
        return Moving("The store is moving this project to another node.", sent=False)
    if code == "NOSCRIPT":
        return NoScriptError(text)
    if code == "OOM":
        return StoreFull(text)
    if code == "WRONGTYPE":
        return Damaged(
            "A key of this project has a value that dibs did not write (WRONGTYPE). `dibs purge` "
            "deletes the project.",
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
    """Return Withheld for the error of a forbidden or missing command, else None."""
    # In a script, earlier commands may have run.
    midway = bool(_IN_SCRIPT.search(text))
    if code == "NOPERM":
        what = ""
        if any(said in text for said in _NO_KEY):
            what = "keys that begin with dibs:"
        elif found := _DENIED.search(text):
            what = found[1].upper().replace("|", " ")
        return Withheld(what, no_right=True, sent=midway)
    if found := _UNKNOWN.search(text):  # without a name if a script ran the command
        return Withheld((found[1] or "").upper(), no_right=False, sent=midway)
    return None


def said(error: Exception) -> str:
    """Return an error reply in one line, without the place in dibs's script that newer stores
    add."""
    return _OF_SCRIPT.sub("", str(error)).strip().rstrip(".")
