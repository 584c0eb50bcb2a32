"""Counts of a project's claims, tasks and tickets."""

from dataclasses import dataclass
from datetime import datetime

from dibs.model import Project


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts that a sweep of one project returns."""

    held: int
    parked: int
    review: int
    lapsed: int
    done: int
    tickets: int
    lapses: int
    """All lapses since the project began."""
    breaks: int
    """All breaks since the project began."""

    @property
    def busy(self) -> bool:
        """Whether time alone will soon change something in the project."""
        return self.held + self.parked + self.review + self.lapsed + self.tickets > 0


@dataclass(frozen=True, slots=True)
class Overview:
    """A summary of a project: how many of its tasks are in each state now."""

    project: Project
    held: int
    parked: int
    review: int
    lapsed: int
    done: int
    """Tasks done in the last 24 hours; the other counts are of the present."""
    failed: int
    ready: int
    """Listed tasks that may be claimed, including those whose claim lapsed."""
    blocked: int
    on_hold: bool
    """A person has put the whole project on hold."""
    changed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Pulse:
    """A project's counts of the last 24 hours, and the store's time."""

    now_ms: int
    done: int
    avoided: int
    """Refused claims of tasks that another session held or had done; see CollisionCounter."""
