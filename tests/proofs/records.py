"""What the model remembers, and what it is told of each act."""

from dataclasses import dataclass, field
from typing import Any

HELD = ("held", "parked", "review")
GIVEN_UP = ("released", "abandoned", "done")
Answer = tuple[str, Any]
"""What an act came to, and the facts that go with it, which are others for each act."""
Told = tuple[str, Any, list[tuple[str, int, str, str, str]]]
"""An answer, and the losses that are told with it."""


@dataclass(frozen=True)
class Step:
    """One act, at its place in the order in which acts took effect."""

    act: str
    args: dict[str, Any]
    now: int
    """Lease time, ms."""
    stalls: tuple[tuple[int, int], ...] = ()
    """Between which instants of lease time nobody could renew."""
    session: str = ""
    request: str = ""
    fences: dict[str, int] = field(default_factory=dict)
    """The new fence of each task that it granted: the one thing that no model can foretell."""
    full: bool = False
    """The store had no room."""
    lost_us: int = 0
    """Time that did not count, so far."""
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
    """What a session will hear of a claim that it no longer has."""

    task: str
    fence: int
    reason: str
    by: str = ""
    note: str = ""
    open: bool = False
    """Lapsed, and nobody took it: not lost yet."""
    kept_until: int = 0
    told: str | None = None
    """The request that heard of it; a retry of the same request hears it again."""


@dataclass(frozen=True)
class ModelHold:
    """A person keeps something from being claimed, until an instant or (None) another word."""

    by: str
    reason: str
    until: int | None
    at: int


@dataclass
class ModelTenure:
    """A session's time with a task. The latest one stands for the task."""

    owner: str
    fence: int
    ttl: int
    due: int
    since: int
    beat: int
    label: str
    note: str
    state: str = "held"
    """What was last written down: a deadline may have passed since."""
    grants: int = 1
    lapses: int = 0
    failures: int = 0
    """Tenures before it that failed, and this one where it did."""
    anew: int = 0
    """Since when max_hold counts, where it came back from its review."""
    open_until: int = 0
    """Until when its pull request is waited for, whatever it does meanwhile."""
    pr: str = ""
    branch: str = ""
    was: str = ""
    """How it had ended, where a person let the task be tried again."""
    merged: bool = False
    """Its pull request was merged."""
    ended: int = 0
    reason: str = ""
    turns_from: int = 0
    queue: list[Ticket] = field(default_factory=list)
    previous: "ModelTenure | None" = None
    attempt: int = 1
    log: list[tuple[int, str]] = field(default_factory=list)
    """From when on it was in which state."""

    @property
    def outcome(self) -> str:
        """How it ended."""
        return self.was or self.state

    def spent(self, state: str) -> int:
        """How long it was in a state, in ms."""
        pairs = zip(self.log, self.log[1:], strict=False)
        return sum(then - since for (since, was), (then, _) in pairs if was == state)


@dataclass(frozen=True)
class PastTenure:
    """A tenure that is over, as its project's history has it."""

    fence: int
    outcome: str
    ended: int
    attempt: int
    held: int
    parked: int

    @classmethod
    def of(cls, tenure: ModelTenure) -> "PastTenure":
        """What is kept of it."""
        held, parked = tenure.spent("held"), tenure.spent("parked")
        return cls(tenure.fence, tenure.outcome, tenure.ended, tenure.attempt, held, parked)
