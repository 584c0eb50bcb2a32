"""The results of acts. Losing a race is a normal result, so these are values.

Exceptions are for failures that a caller cannot plan for: see `StoreDown` and `StoreFull`.
"""

from dataclasses import dataclass
from typing import Literal

from dibs.model import Claim, Free, Hold, Loss, Task, Tenure

Losses = tuple[Loss, ...]
RefusalReason = Literal["held", "cooling", "done", "reserved", "blocked", "on-hold", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Negative:
    """A refusal."""

    unsure: bool = False
    """Whether an earlier try of the same call got no reply and may have taken effect."""


@dataclass(frozen=True, slots=True)
class Granted:
    """Granted claims: the first `new` are new tenures, the others were renewed."""

    claims: tuple[Claim, ...]
    new: int
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one task was not granted, and the seconds until that may change (None: it will not)."""

    reason: RefusalReason
    claim: Claim | Free
    retry_after_s: int | None
    position: int | None
    """The session's place in the queue, 1 being next; None without a ticket."""
    needs: tuple[Claim | Free, ...] = ()
    """For `blocked`: the first needs that are not done."""
    hold: Hold | None = None
    of: str = ""
    """For `on-hold`: `task` or `project`."""
    tenures: tuple[Tenure, ...] = ()
    """For `failed`: the last tenures."""


@dataclass(frozen=True, slots=True)
class Conflict(Negative):
    """A claim that was refused; nothing was granted."""

    refusals: tuple[Refusal, ...]
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class NothingReady(Negative):
    """No listed task may be claimed now; the counts of tasks in the states that explain why."""

    held: int
    parked: int
    review: int
    blocked: int
    on_hold: int
    failed: int
    cooling: int
    """Free tasks reserved for their last holder or the head of their queue."""
    retry_after_s: int | None
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class OverQuota(Negative):
    """A limit of the session, the project, the address or the task's queue is reached."""

    whose: str
    limit: int
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Waiting(Negative):
    """Too many tasks wait for people, so `next` gives no more."""

    limit: int
    parked: int
    review: int
    failed: int
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Full(Negative):
    """The store is full: no new claims for now. Heartbeats and releases work."""

    lost: Losses = ()
    why: str = ""
    """The reason, a sentence; '' if the store's memory is full."""


@dataclass(frozen=True, slots=True)
class RateLimited(Negative):
    """Too many requests of one session, or in one project."""

    whose: str
    retry_after_s: int


@dataclass(frozen=True, slots=True)
class Renewed:
    """Renewed claims."""

    claims: tuple[Claim, ...]
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class NotMine(Negative):
    """The session does not hold the task, or not with this fence."""

    why: Literal["lost", "not-holder", "moved"]
    now: Claim | Free
    loss: Loss | None
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Release:
    """One ended claim or hold, and the task's state after it."""

    task: Task | None
    """None: the whole project."""
    state: str | None
    already: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """Claims that ended, by this call or before it."""

    releases: tuple[Release, ...]
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Moved(Negative):
    """The fence that a person named is not the current one."""

    now: Claim | Free


@dataclass(frozen=True, slots=True)
class Ambiguous(Negative):
    """A verdict on a pull request or branch of two or more tasks."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Unmatched(Negative):
    """A verdict on a task, pull request or branch that no session had."""


@dataclass(frozen=True, slots=True)
class StillHeld(Negative):
    """A retry of a task that a session holds."""

    now: Claim | Free


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A task (None: the project) was put on hold, by this call or `already`."""

    task: Task | None
    hold: Hold
    already: bool


@dataclass(frozen=True, slots=True)
class UntilPassed(Negative):
    """A hold whose end is in the past."""


@dataclass(frozen=True, slots=True)
class Written:
    """The list was written; the change of each entry, in the order of the request."""

    changes: tuple[str, ...]
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Circle(Negative):
    """Tasks that need each other in a circle, each one the next. Nothing was written."""

    path: tuple[Task, ...]
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Backlog:
    """A snapshot of the listed tasks; see Page."""

    tasks: tuple[Claim | Free, ...]
    seq: str
    cursor: str | None
    damaged: tuple[Task, ...] = ()


class TaskTenure(Tenure, frozen=True, kw_only=True):
    """A tenure with its task, for the history of a project."""

    task: Task


@dataclass(frozen=True, slots=True)
class History:
    """Ended tenures, earliest end first. With a cursor there may be more."""

    tenures: tuple[TaskTenure, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Whole:
    """A task with its needs, its dependents and its past tenures."""

    now: Claim | Free
    needs: tuple[Claim | Free, ...]
    dependents: tuple[Claim | Free, ...]
    tenures: tuple[Tenure, ...]
    """The ended tenures, latest first."""


@dataclass(frozen=True, slots=True)
class Page:
    """A snapshot of a project's claims. `seq` is the last event that it includes."""

    claims: tuple[Claim, ...]
    seq: str
    cursor: str | None
    damaged: tuple[Task, ...] = ()
    """Tasks on the page whose record cannot be read."""
