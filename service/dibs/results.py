"""The results of acts. Losing a race is an everyday answer, so these are values.

Exceptions are for failures that no caller can plan for: see `StoreDown` and `StoreFull`.
"""

from dataclasses import dataclass
from typing import Literal

from dibs.model import Claim, Free, Hold, Loss, Task, Tenure

Losses = tuple[Loss, ...]
RefusalReason = Literal["held", "cooling", "done", "reserved", "blocked", "on-hold", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Negative:
    """An answer that says no."""

    unsure: bool = False
    """The store left an earlier try of the same call unanswered: that one may have taken effect."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The tasks are ours. The first `new` claims are new tenures, the others were renewed."""

    claims: tuple[Claim, ...]
    new: int
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one task was not granted, and in how many seconds that may change (None: it will not)."""

    reason: RefusalReason
    claim: Claim | Free
    retry_after_s: int | None
    position: int | None
    """Our place in the queue, 1 being next; None without a ticket."""
    needs: tuple[Claim | Free, ...] = ()
    """Those that are not done, where they are why; the first of them."""
    hold: Hold | None = None
    of: str = ""
    """What is on hold: the `task`, or the `project`."""
    tenures: tuple[Tenure, ...] = ()
    """The last ones, where its attempts are used up."""


@dataclass(frozen=True, slots=True)
class Conflict(Negative):
    """Nothing was granted."""

    refusals: tuple[Refusal, ...]
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class NothingReady(Negative):
    """No listed task may be claimed now: how many there are in each state that explains it."""

    held: int
    parked: int
    review: int
    blocked: int
    on_hold: int
    failed: int
    cooling: int
    """Free, and kept for a while for their last holder or the head of their queue."""
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
    """So many tasks wait for people that `next` gives no more."""

    limit: int
    parked: int
    review: int
    failed: int
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Full(Negative):
    """No new claims for now. Heartbeats and releases go on."""

    lost: Losses = ()
    why: str = ""
    """A sentence; '' where it is the store's memory."""


@dataclass(frozen=True, slots=True)
class RateLimited(Negative):
    """Too many requests of one session, or in one project."""

    whose: str
    retry_after_s: int


@dataclass(frozen=True, slots=True)
class Renewed:
    """The claims live on."""

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
    """One claim that ended, or one hold; and how the task is now."""

    task: Task | None
    """None: a whole project."""
    state: str | None
    already: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The claims ended, now or before."""

    releases: tuple[Release, ...]
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Moved(Negative):
    """The fence that a person named is not the current one."""

    now: Claim | Free


@dataclass(frozen=True, slots=True)
class Ambiguous(Negative):
    """Two tasks at least are on the pull request, or branch, that was named."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Unmatched(Negative):
    """No session had such a task."""


@dataclass(frozen=True, slots=True)
class StillHeld(Negative):
    """A person would have a task tried again that somebody has."""

    now: Claim | Free


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A task (None: the project) is kept from being claimed, now or `already`."""

    task: Task | None
    hold: Hold
    already: bool


@dataclass(frozen=True, slots=True)
class UntilPassed(Negative):
    """The time until which a person would have kept something back is over."""


@dataclass(frozen=True, slots=True)
class Written:
    """The list is written down: what that changed, in the order of the request."""

    changes: tuple[str, ...]
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Circle(Negative):
    """Tasks that need each other, in a circle, each the next one. Nothing was written."""

    path: tuple[Task, ...]
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Backlog:
    """A snapshot of what is listed; see Page."""

    tasks: tuple[Claim | Free, ...]
    seq: str
    cursor: str | None
    damaged: tuple[Task, ...] = ()


class TaskTenure(Tenure, frozen=True, kw_only=True):
    """A tenure with its task, as the history of a project has it."""

    task: Task


@dataclass(frozen=True, slots=True)
class History:
    """Tenures that ended, the first to end leading. There may be more where there is a cursor."""

    tenures: tuple[TaskTenure, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Whole:
    """A task with what it needs, and what needs it."""

    now: Claim | Free
    needs: tuple[Claim | Free, ...]
    dependents: tuple[Claim | Free, ...]
    tenures: tuple[Tenure, ...]
    """Those that are over, the latest first."""


@dataclass(frozen=True, slots=True)
class Page:
    """A snapshot of a project's claims. `seq` is the last event that it includes."""

    claims: tuple[Claim, ...]
    seq: str
    cursor: str | None
    damaged: tuple[Task, ...] = ()
    """Tasks on the page whose record nobody can read."""
