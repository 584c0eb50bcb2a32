"""The domain values: checked names, and the records that the layers pass to each other.

Nothing here depends on HTTP, Redis or a clock. An invalid name is refused with a sentence, never
repaired: two clients must not mean different tasks by one name.
"""

import re
import unicodedata
from datetime import datetime
from typing import Annotated, Literal, NewType

import msgspec

from dibs import characters
from dibs.guessable import is_guessable

Project = NewType("Project", str)
Task = NewType("Task", str)
Session = NewType("Session", str)
"""The secret UUID. The store receives only its hash, and no response contains it."""
Fence = NewType("Fence", int)

Instant = Annotated[datetime, msgspec.Meta(tz=True)]

State = Literal[
    "held", "parked", "review", "lapsed", "failed", "on-hold", "done", "free", "ready", "blocked"
]
Outcome = Literal["released", "abandoned", "done"]

STATES: tuple[State, ...] = ("held", "parked", "review", "lapsed", "failed", "on-hold", "done")
"""States of a task that a session holds or held: those that the list of claims can show."""

TASK_CHARS = 200
NOTE_CHARS = 1000
LABEL_CHARS = 64
TITLE_CHARS, BODY_CHARS, TAG_CHARS = 200, 8_192, 50
NEEDS_MOST, TAGS_MOST, ENTRIES_MOST = 32, 10, 500
PRIORITY, PRIORITY_LAST = 2, 4
ATTEMPTS_MOST, TASKS_PER_CLAIM = 100, 32
MAX_FENCE = 2**53 - 1
"""The largest integer that every JSON parser reads exactly (RFC 8259, section 6)."""
LAPSES_FLAGGED = 3

_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_UUID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-([0-9a-f])[0-9a-f]{3}-([0-9a-f])[0-9a-f]{3}-[0-9a-f]{12}"
)
_DURATION = re.compile(r"([0-9]{1,9})([smh]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600}
_LABEL_ASCII = re.compile(r"[A-Za-z0-9_.@:/+ -]*")

_JUDGED: set[int] = set()
"""Hashes of sessions already checked for patterns, because a session calls many times. The secret
itself is not kept longer than the request that carries it."""
_JUDGED_MOST = 4_096


class Refused(ValueError):
    """A name or value that breaks a rule; the message is a sentence that states the rule."""


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
        raise Refused("A task must be in Unicode NFC; send it composed (NFC).")
    if text[0].isspace() or text[-1].isspace():
        raise Refused("A task must not start or end with a space.")
    return Task(text)


def tag(value: object) -> str:
    """Return `value` as a tag, or raise Refused."""
    if not isinstance(value, str) or not 1 <= len(value) <= TAG_CHARS:
        raise Refused(f"A tag is a text of 1 to {TAG_CHARS} characters.")
    plain_text(value, "A tag")
    if value != value.strip():
        raise Refused("A tag must not start or end with a space.")
    return value


def label(text: str) -> str:
    """Return `text` as a label ('' means no label), or raise Refused."""
    if len(text) > LABEL_CHARS:
        raise Refused(f"A label has at most {LABEL_CHARS} characters; this has {len(text)}.")
    if _LABEL_ASCII.fullmatch(text):
        return text
    plain_text(text, "A label")
    for char in text:
        is_letter = unicodedata.category(char)[0] in "LM" and not char.isascii()
        if not is_letter and not _LABEL_ASCII.fullmatch(char):
            raise Refused(
                "A label may have letters, ASCII digits, spaces and _ . @ : / + -; "
                f"U+{ord(char):04X} is not allowed."
            )
    return text


def plain_text(text: str, what: str) -> str:
    """Return `text` if it can be a name, or raise Refused."""
    if fault := characters.fault_of_name(text):
        raise Refused(f"{what} {fault}.")
    return text


def prose(text: str, what: str) -> str:
    """Return prose for people and models without invisible characters, or raise Refused."""
    if fault := characters.fault_of_prose(text):
        raise Refused(f"{what} {fault}.")
    return characters.shown(text)


def session(text: str) -> Session:
    """Return `text` as a session, or raise Refused with the reason.

    Versions 4 (random) and 8 (the client's HMAC) cannot be guessed. Other versions (RFC 9562),
    examples and patterns can.
    """
    found = _UUID.fullmatch(text.lower())
    if not found:
        raise Refused(
            "Dibs-Session must be a UUID like xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx; "
            "make one with `uuidgen` or Python's uuid.uuid4()."
        )
    version, variant = found.groups()
    if version not in "48" or variant not in "89ab":
        kind = "nil" if not text.strip("0-") else f"version {int(version, 16)}"
        raise Refused(
            f"Dibs-Session is a secret: UUID version 4 (random) or 8 (HMAC). A {kind} UUID can be "
            "guessed; make one with `uuidgen` or Python's uuid.uuid4()."
        )
    known = hash(found.group())
    if known not in _JUDGED:
        if is_guessable(found.group()):
            raise Refused(
                "Dibs-Session is a secret, and this UUID is an example or a pattern, so it can be "
                "guessed; make one with `uuidgen` or Python's uuid.uuid4()."
            )
        if len(_JUDGED) >= _JUDGED_MOST:
            _JUDGED.clear()
        _JUDGED.add(known)
    return Session(found.group())


def duration_s(value: object, what: str = "A duration") -> int:
    """Return whole seconds for 90, "90", "90s", "30m" or "2h", or raise Refused."""
    value = _whole(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        seconds = value
    elif isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        seconds = int(found[1]) * _UNIT_S[found[2]]
    else:
        raise Refused(f"{what} must be whole seconds, or text like 90s, 30m, 2h.")
    return seconds


def _whole(value: object) -> object:
    """Return 90.0 as 90, and any other value unchanged: JSON has one number type (RFC 8259)."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fence(value: object) -> Fence:
    """Return `value` (a whole number, or its digits) as a fence, or raise Refused."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
        value = int(value)
    value = _whole(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_FENCE:
        raise Refused("A fence is the whole number in the claim's reply, 1 to 2^53 - 1.")
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
    pr: str | None = None


class Tenure(msgspec.Struct, frozen=True, kw_only=True):
    """A finished tenure: one session's time with a task."""

    fence: int
    holder: Holder
    acquired_at: Instant
    ended_at: Instant
    outcome: str
    attempt: int = 1
    held_seconds: int = 0
    parked_seconds: int = 0
    note: str | None = None
    pr: str | None = None
    reason: str | None = None
    """The reason given by the person who ended the tenure."""
    by: str | None = None


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold: a person keeps a task, or a project, from being claimed."""

    by: str
    reason: str
    at: Instant
    until: Instant | None = None
    """None: until a person ends the hold."""


class Waiter(msgspec.Struct, frozen=True):
    """A session with a ticket in a task's queue."""

    ref: str
    label: str | None
    since: Instant


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """The listing of a task, written by the team."""

    title: str | None
    body: str | None
    priority: int
    """0 comes first, 4 last."""
    needs: tuple[Task, ...]
    """Tasks that must be done first."""
    tags: tuple[str, ...]
    url: str | None
    source: str | None
    max_attempts: int | None = None
    """None: the service's limit (DIBS_MAX_ATTEMPTS)."""
    dropped: bool = False
    """Whether the task was taken from the list."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The public view of a session's lease on a task. Fields are the wire's, in its order."""

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
    attempt: int
    """The number of this attempt at the task, or of the next one: all before it failed."""
    hold: Hold | None = None
    """The hold that starts to count when this claim ends; left out if there is none."""
    merged: bool = False
    """Whether the task is done because its pull request was merged; left out if false."""
    resembles: tuple[Task, ...] = ()
    """Names in use that looked like this one when it was new; left out if there are none."""
    listed: Listed | None = None
    """Left out for a task that is not listed, and in lists of claims."""


class Free(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task that nobody holds, with its past and its listing."""

    project: Project
    task: Task
    state: Literal["free", "ready", "blocked", "on-hold", "failed"]
    grants: int
    lapses: int
    waiters: int
    previous: Previous | None
    attempt: int
    """See Claim."""
    hold: Hold | None = None
    listed: Listed | None = None
    queue: tuple[Waiter, ...] = ()
    """The sessions that wait for the task; left out if there are none, and in lists."""

    @classmethod
    def unknown(cls, project: Project, task: Task) -> "Free":
        """Return a task that the store has no record of."""
        return cls(
            project=project,
            task=task,
            state="free",
            grants=0,
            lapses=0,
            waiters=0,
            previous=None,
            attempt=1,
        )


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that a session no longer has; `by` caused the loss or has the task now."""

    task: Task
    fence: Fence
    reason: str
    at: Instant
    by: Holder | None
    note: str | None
    pr: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One transition of a claim, as a project's event stream has it."""

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
