"""The domain values: names, checked once, and the records that the layers pass on.

Nothing here knows HTTP, Redis or a clock. A wrong name is refused with a sentence, never repaired:
two clients must not mean different tasks by one name.
"""

import re
import unicodedata
from datetime import datetime
from typing import Annotated, Literal, NewType

import msgspec

from dibs import text as characters

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
LABEL_CHARS = 64
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
_LABEL_ASCII = re.compile(r"[A-Za-z0-9_.@:/+ -]*")

_HEX = 16
_RANDOM = 30
"""Hex digits of a UUID that may be random."""
_ONES = int("1" * _RANDOM, _HEX)
_RUN = re.compile(r"(.)\1{7}")
_DIGITS_LEAST, _STEPS_MOST = 6, 12
_JUDGED: set[int] = set()
"""Sessions that follow no pattern, and call again and again: their hashes, because no secret is
kept longer than the request that carries it."""
_JUDGED_MOST = 4_096


class _Alike:
    """Counts the digits that are alike at some distances, all of them in one long number.

    It holds the digits once for each distance, with room between; a product with a number that has
    a 1 at each place lays them there.
    """

    def __init__(self, *apart: int) -> None:
        rooms = [(1 << 4 * (_RANDOM + max(apart)) * turn, each) for turn, each in enumerate(apart)]
        self._earlier = sum(room for room, _ in rooms)
        self._later = sum(room << 4 * each for room, each in rooms)
        self._compared = sum((_ONES >> 4 * each << 4 * each) * room for room, each in rooms)
        self._most = self._compared.bit_count()

    def count(self, later: int, earlier: int) -> int:
        """Count the digits of `later` that are those of `earlier` so many places before."""
        differ = later * self._later ^ earlier * self._earlier
        differ |= differ >> 2
        differ |= differ >> 1
        return self._most - (differ & self._compared).bit_count()


_REPEATS, _EACH_REPEAT = _Alike(1, 2, 4, 8), [_Alike(1), _Alike(2), _Alike(4), _Alike(8)]
_STEPS, _EACH_STEP = _Alike(1, 2), [_Alike(1), _Alike(2)]
# Of RFC 9562 and 4122, and of the documentation of PostgreSQL, Python, npm's uuid and OpenAPI.
# Without version and variant: people and language models copy them and make these right.
_EXAMPLES = frozenset(
    """
    c232ab00-9414-1ec-3c8-9f6bdeced846
    5df41881-3aed-515-8a7-2f4a814cf09e
    919108f7-52d1-320-bac-f847db4148a8
    1ec9414c-232a-b00-3c8-9f6bdeced846
    017f22e2-79b0-cc3-8c4-dc0c0c07398f
    2489e9ad-2ee2-e00-ec9-32d5f69181c0
    5c146b14-3c52-afd-38a-375d0df1fbf6
    f81d4fae-7dec-1d0-765-00a0c91e6bf6
    6ba7b810-9dad-1d1-0b4-00c04fd430c8
    123e4567-e89b-2d3-456-426614174000
    550e8400-e29b-1d4-716-446655440000
    f47ac10b-58cc-372-567-0e02b2c3d479
    de305d54-75b4-31b-db2-eb6b9e546014
    a0eebc99-9c0b-ef8-b6d-6bb9bd380a11
    40e6215d-b5c6-896-87c-f30f3678f608
    6ecd8c99-4036-03d-f84-cf8400f67836
    3f333df6-90a4-fda-dd3-9485d27cee36
    a8098c1a-f86e-1da-d1a-00112444be1e
    6fa459ea-ee8a-ca4-94e-db77e160355e
    16fd2706-8baf-33b-2eb-8c7fada847da
    886313e1-3b8a-372-b90-0c9aee199e5d
    9b1deb4d-3b7d-bad-bdd-2b0d7b3dcb6d
    1b9d6bcd-bbfd-b2d-b5d-ab8dfbbd4bed
    10ba038e-48da-87b-6e8-8d3b99b6d18a
    109156be-c4fb-1ea-1b4-efe1671c5836
    7c9e6679-7425-0de-44b-e07fc1f90ae7
    3fa85f64-5717-562-3fc-2c963f66afa6
    """.replace("-", "").split()
)


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


def label(text: str) -> str:
    """Return `text` as a label ('' is none), or raise Refused."""
    if len(text) > LABEL_CHARS:
        raise Refused(f"A label has at most {LABEL_CHARS} characters; this has {len(text)}.")
    if _LABEL_ASCII.fullmatch(text):
        return text
    plain_text(text, "A label")
    for char in text:
        is_letter = unicodedata.category(char)[0] in "LM" and not char.isascii()
        if not is_letter and not _LABEL_ASCII.fullmatch(char):
            raise Refused(
                f"A label is letters, ASCII digits, blanks and _ . @ : / + -; U+{ord(char):04X} is "
                "not allowed."
            )
    return text


def plain_text(text: str, what: str) -> str:
    """Return `text` if it can be a name, or raise Refused."""
    if fault := characters.fault_of_name(text):
        raise Refused(f"{what} {fault}.")
    return text


def prose(text: str, what: str) -> str:
    """Return `text`, which people and models read, without what shows nothing; or raise Refused."""
    if fault := characters.fault_of_prose(text):
        raise Refused(f"{what} {fault}.")
    return characters.shown(text)


def session(text: str) -> Session:
    """Return `text` as a session, or raise Refused with the reason.

    Versions 4 (random) and 8 (the client's HMAC) cannot be guessed; the others can (RFC 9562), and
    so can examples and patterns.
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


def is_guessable(uuid: str) -> bool:
    """Say if a UUID (in lower case, with its hyphens) is a known example, or follows a pattern.

    Of 10^6 random ones less than one is taken for a pattern. This runs at every call, so two looks
    at several patterns together come first, which clear 19 of 20 random ones.
    """
    digits = uuid[:8] + uuid[9:13] + uuid[15:18] + uuid[20:23] + uuid[24:]
    if digits in _EXAMPLES or "deadbeef" in digits or "cafebabe" in digits:
        return True
    if len(set(digits)) <= _DIGITS_LEAST:
        return True
    number = int(digits, _HEX)
    following = ((number & 7 * _ONES) + _ONES) ^ (number & 8 * _ONES)  # each digit + 1, of 16
    repeats = _REPEATS.count(number, number)
    if repeats <= _STEPS_MOST and (
        _STEPS.count(number, following) + _STEPS.count(following, number) <= _STEPS_MOST
    ):
        return False
    return (
        any(one.count(number, number) > _STEPS_MOST for one in _EACH_REPEAT)
        or any(one.count(number, following) > _STEPS_MOST for one in _EACH_STEP)
        or any(one.count(following, number) > _STEPS_MOST for one in _EACH_STEP)
        or _RUN.search(digits) is not None
    )


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


class Claim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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
    resembles: tuple[Task, ...] = ()
    """Names in use that looked like this one when it was new; left out where there are none."""


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
