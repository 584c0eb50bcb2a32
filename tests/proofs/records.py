"""The model's data, and its input for each act."""

from dataclasses import dataclass, field
from typing import Any

HELD = ("held", "parked", "review")
GIVEN_UP = ("released", "abandoned", "done")
Answer = tuple[str, Any]
"""The result of an act, and its facts, whose form depends on the act."""
Told = tuple[str, Any, list[tuple[str, int, str, str, str]]]
"""An answer, and the losses that are reported with it."""


@dataclass(frozen=True)
class Step:
    """One act, at its place in the order in which acts took effect."""

    act: str
    args: dict[str, Any]
    now: int
    """Lease time, ms."""
    stalls: tuple[tuple[int, int], ...] = ()
    """The spans of lease time (from, to) in which nobody could renew."""
    session: str = ""
    request: str = ""
    fences: dict[str, int] = field(default_factory=dict)
    """The new fence of each task that the act granted: the one fact that no model can predict."""
    full: bool = False
    """The store had no room."""
    lost_us: int = 0
    """Microseconds that did not count, so far."""
    losses_us: tuple[int, ...] = ()
    """The same before each stall."""


@dataclass
class Ticket:
    """A place in a task's queue."""

    session: str
    label: str
    joined: int
    until: int


@dataclass
class ModelLoss:
    """A loss that a session is to be told: a claim that it no longer has."""

    task: str
    fence: int
    reason: str
    by: str = ""
    note: str = ""
    open: bool = False
    """Lapsed, and not claimed by another: not lost yet."""
    kept_until: int = 0
    told: str | None = None
    """The request that reported the loss; a retry of the same request reports it again."""


@dataclass(frozen=True)
class ModelHold:
    """A person's hold on a task or the project, until an instant, or without an end (None)."""

    by: str
    reason: str
    until: int | None
    at: int


@dataclass
class ModelTenure:
    """A session's time with a task. The latest tenure of a task represents the task."""

    owner: str
    fence: int
    ttl: int
    due: int
    since: int
    beat: int
    label: str
    note: str
    state: str = "held"
    """The last recorded state: a deadline may have passed since."""
    grants: int = 1
    lapses: int = 0
    failures: int = 0
    """Failed tenures before this one, and this one if it failed."""
    anew: int = 0
    """The instant from which max_hold counts, if the claim came back from its review."""
    open_until: int = 0
    """The deadline of the review, which holds even if the claim leaves the review."""
    pr: str = ""
    branch: str = ""
    was: str = ""
    """The earlier outcome, if a person let the task be tried again."""
    merged: bool = False
    """Its pull request was merged."""
    ended: int = 0
    reason: str = ""
    turns_from: int = 0
    queue: list[Ticket] = field(default_factory=list)
    previous: "ModelTenure | None" = None
    attempt: int = 1
    log: list[tuple[int, str]] = field(default_factory=list)
    """The states and the instants from which they held."""

    @property
    def outcome(self) -> str:
        """The outcome."""
        return self.was or self.state

    def spent(self, state: str) -> int:
        """Return the time in a state, in ms."""
        pairs = zip(self.log, self.log[1:], strict=False)
        return sum(then - since for (since, was), (then, _) in pairs if was == state)


@dataclass(frozen=True)
class PastTenure:
    """An ended tenure in the project's history."""

    fence: int
    outcome: str
    ended: int
    attempt: int
    held: int
    parked: int

    @classmethod
    def of(cls, tenure: ModelTenure) -> "PastTenure":
        """Return the history's entry of a tenure."""
        held, parked = tenure.spent("held"), tenure.spent("parked")
        return cls(tenure.fence, tenure.outcome, tenure.ended, tenure.attempt, held, parked)
