"""Outcomes: the results of an act. Losing a race is an everyday answer, so these are values.

Exceptions are for failures that no caller can plan for: see `StoreDown` and `StoreFull`.
"""

from dataclasses import dataclass
from typing import Literal

from dibs.words import Claim, Free, Loss, Task

Losses = tuple[Loss, ...]
Verdict = Literal["held", "cooling", "done", "turn", "blocked"]


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

    verdict: Verdict
    claim: Claim | Free
    retry_after_s: int | None
    position: int | None
    """Our place in the queue, 1 being next; None without a ticket."""
    needs: tuple[Claim | Free, ...] = ()
    """Those that are not done, where they are why; the first of them."""


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
    blocked: int
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
class NoRoom(Negative):
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
    """One claim that ended."""

    task: Task
    state: str
    already: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The claims ended, now or before."""

    releases: tuple[Release, ...]
    lost: Losses = ()


@dataclass(frozen=True, slots=True)
class Moved(Negative):
    """The fence that a break named is not the current one."""

    now: Claim | Free


@dataclass(frozen=True, slots=True)
class Written:
    """The list is written down: what that changed, in the order of the request."""

    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Circle(Negative):
    """Tasks that need each other, in a circle, each the next one. Nothing was written."""

    path: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Backlog:
    """A snapshot of what is listed; see Page."""

    tasks: tuple[Claim | Free, ...]
    seq: str
    cursor: str | None
    damaged: tuple[Task, ...] = ()


@dataclass(frozen=True, slots=True)
class Whole:
    """A task with what it needs, and what needs it."""

    now: Claim | Free
    needs: tuple[Claim | Free, ...]
    dependents: tuple[Claim | Free, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A snapshot of a project's claims. `seq` is the last event that it includes."""

    claims: tuple[Claim, ...]
    seq: str
    cursor: str | None
    damaged: tuple[Task, ...] = ()
    """Tasks on the page whose record nobody can read."""
