"""Outcomes: the results of an act. Losing a race is an everyday answer, so these are values.

Exceptions are for failures that no caller can plan for: see `StoreDown` and `StoreFull`.
"""

from dataclasses import dataclass
from typing import Literal

from dibs.words import Claim, Free, Loss, Task

Losses = tuple[Loss, ...]
Verdict = Literal["held", "cooling", "done", "turn"]


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
    claim: Claim
    retry_after_s: int | None
    position: int | None
    """Our place in the queue, 1 being next; None without a ticket."""


@dataclass(frozen=True, slots=True)
class Conflict(Negative):
    """Nothing was granted."""

    refusals: tuple[Refusal, ...]
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
class Page:
    """A snapshot of a project's claims. `seq` is the last event that it includes."""

    claims: tuple[Claim, ...]
    seq: str
    cursor: str | None
    damaged: tuple[Task, ...] = ()
    """Tasks on the page whose record nobody can read."""
