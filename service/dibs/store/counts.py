"""How many there are of what, in a project."""

from dataclasses import dataclass
from datetime import datetime

from dibs.model import Project


@dataclass(frozen=True, slots=True)
class Counts:
    """What a sweep found in one project."""

    held: int
    parked: int
    review: int
    lapsed: int
    done: int
    tickets: int
    lapses: int
    """Ever."""
    breaks: int
    """Ever."""

    @property
    def busy(self) -> bool:
        """Something there changes by time alone, before long."""
        return self.held + self.parked + self.review + self.lapsed + self.tickets > 0


@dataclass(frozen=True, slots=True)
class Overview:
    """A project at a glance: how many claims are in each state now."""

    project: Project
    held: int
    parked: int
    review: int
    lapsed: int
    done: int
    """In the last 24 hours, unlike the others."""
    failed: int
    ready: int
    """Tasks that are listed and may be claimed, lapsed ones among them."""
    blocked: int
    on_hold: bool
    """A person keeps the whole project back."""
    changed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Pulse:
    """What happened in a project in the last 24 hours, and the store's time."""

    now_ms: int
    done: int
    avoided: int
    """Claims refused because somebody else had the task, or had done it; see CollisionCounter."""
