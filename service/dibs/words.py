"""The words of dibs: names that are checked once, and the values that the layers pass on.

Nothing here knows HTTP, Redis or a clock. A name that is wrong is refused with a sentence,
never repaired: two clients must not think of different tasks under one name.
"""

import re
import unicodedata
from datetime import datetime
from typing import Annotated, Literal, NewType

import msgspec

Project = NewType("Project", str)
Task = NewType("Task", str)
Session = NewType("Session", str)
"""The secret UUID. It is hashed at the door of the store and shown nowhere."""
Fence = NewType("Fence", int)

Instant = Annotated[datetime, msgspec.Meta(tz=True)]

State = Literal["held", "parked", "lapsed", "done", "free"]
Outcome = Literal["released", "abandoned", "done"]

STATES: tuple[State, ...] = ("held", "parked", "lapsed", "done")
OUTCOMES: tuple[Outcome, ...] = ("released", "abandoned", "done")

TASK_CHARS = 200
NOTE_CHARS = 1000
TASKS_PER_CLAIM = 32
MAX_FENCE = 2**53 - 1
"""Above this a JSON number is no longer exact in every reader (RFC 8259, section 6)."""
LAPSES_FLAGGED = 3

_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_UUID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-([0-9a-f])[0-9a-f]{3}-([0-9a-f])[0-9a-f]{3}-[0-9a-f]{12}"
)
_DURATION = re.compile(r"([0-9]{1,9})([smh]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600}
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Refused(ValueError):
    """A name or value that breaks a rule; the message says which rule, in a sentence."""


def project(text: str) -> Project:
    """Return `text` as a project name, or raise Refused."""
    if not _PROJECT.fullmatch(text):
        raise Refused(
            "A project is 1 to 100 of A-Z a-z 0-9 . _ - and starts with a letter or a digit, "
            "like owner.repo."
        )
    return Project(text)


def task(text: str) -> Task:
    """Return `text` as a task name, or raise Refused."""
    if not 1 <= len(text) <= TASK_CHARS:
        raise Refused(f"A task has 1 to {TASK_CHARS} characters; this one has {len(text)}.")
    plain_text(text, "A task")
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        raise Refused("A task is written in Unicode NFC; send it composed (NFC).")
    if text[0].isspace() or text[-1].isspace():
        raise Refused("A task has no blank at its start or end.")
    return Task(text)


def plain_text(text: str, what: str, *, newlines: bool = False) -> str:
    """Return `text` if it holds no control characters (line breaks where `newlines`)."""
    if text.isascii() and text.isprintable():
        return text
    for char in text:
        if newlines and char in "\n\t":
            continue
        if char in _BIDI or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp"):
            raise Refused(f"{what} has no control characters; U+{ord(char):04X} is one.")
    return text


def session(text: str) -> Session:
    """Return `text` as a session, or raise Refused with the reason.

    Versions 4 (random) and 8 (the client's HMAC) cannot be guessed; the others can (RFC 9562).
    """
    found = _UUID.fullmatch(text.lower())
    if not found:
        raise Refused(
            "Dibs-Session is a UUID like xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx; "
            "make one with `uuidgen` or Python's uuid.uuid4()."
        )
    version, variant = found.groups()
    if version not in "48" or variant not in "89ab":
        kind = "nil" if not text.strip("0-") else f"version {int(version, 16)}"
        raise Refused(
            f"Dibs-Session is a secret: UUID version 4 (random) or 8 (HMAC). A {kind} UUID can be "
            "guessed; make one with `uuidgen` or Python's uuid.uuid4()."
        )
    return Session(found.group())


def duration_s(value: object, what: str = "A duration") -> int:
    """Return whole seconds for 90, "90", "90s", "30m" or "2h", or raise Refused."""
    value = _whole(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        seconds = value
    elif isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        seconds = int(found[1]) * _UNIT_S[found[2]]
    else:
        raise Refused(f"{what} is whole seconds or text like 90s, 30m, 2h.")
    return seconds


def _whole(value: object) -> object:
    """A number that JSON wrote with a fraction of zero is the whole number (RFC 8259 knows one)."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fence(value: object) -> Fence:
    """Return `value` (a whole number, or its digits) as a fence, or raise Refused."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
        value = int(value)
    value = _whole(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_FENCE:
        raise Refused("A fence is the whole number that the claim's reply gave, 1 to 2^53 - 1.")
    return Fence(value)


class Holder(msgspec.Struct, frozen=True):
    """The public face of a session."""

    ref: str
    label: str | None = None
    branch: str | None = None
    url: str | None = None


class Previous(msgspec.Struct, frozen=True):
    """How the tenure before this one ended."""

    outcome: str
    holder: Holder
    note: str | None
    at: Instant


class Waiter(msgspec.Struct, frozen=True):
    """A session with a ticket in a task's queue."""

    ref: str
    label: str | None
    since: Instant


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A session's lease on a task, as everybody may see it. Fields are the wire's, in its order."""

    project: Project
    task: Task
    state: State
    fence: Fence
    holder: Holder
    mine: bool
    ttl: int
    expires_in: int
    expires_at: Instant
    acquired_at: Instant
    heartbeat_at: Instant
    stale: bool
    note: str | None
    pr: str | None
    ended_at: Instant | None
    waiters: int
    queue: tuple[Waiter, ...]
    grants: int
    lapses: int
    flag: str | None
    previous: Previous | None


class Free(msgspec.Struct, frozen=True, kw_only=True):
    """A task that nobody holds, with what is known of it."""

    project: Project
    task: Task
    state: Literal["free"] = "free"
    grants: int = 0
    lapses: int = 0
    waiters: int = 0
    previous: Previous | None = None


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that a session no longer has: when, why and to whom it went."""

    task: Task
    fence: Fence
    reason: str
    at: Instant
    by: Holder | None
    note: str | None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One transition, as the stream of a project tells it."""

    id: str
    type: str
    task: Task
    at: Instant
    fence: int
    holder: Holder | None
    note: str | None = None
    reason: str | None = None
    by: str | None = None
    pr: str | None = None
