"""The limits of the scripts, in the scripts' units."""

import re
from dataclasses import dataclass

_RULE = re.compile(r"RULES\.(\w+)")


@dataclass(frozen=True, slots=True)
class Rules:
    """One number per rule; spans in ms. The service writes them into its scripts.

    Each service runs its own scripts, so services with different settings may share a store.
    """

    ttl_ms: int = 30 * 60_000
    park_ms: int = 4 * 3_600_000
    review_ms: int = 7 * 24 * 3_600_000
    grace_ms: int = 30_000
    handover_ms: int = 60_000
    max_hold_ms: int = 24 * 3_600_000
    retention_ms: int = 24 * 3_600_000
    done_retention_ms: int = 90 * 24 * 3_600_000
    history_ms: int = 90 * 24 * 3_600_000
    """How long ended tenures are kept; never shorter than the two retentions above."""
    claims_per_session: int = 50
    claims_per_project: int = 2_000
    claims_per_address: int = 500
    """Most live claims of one address in a project; 0: no limit."""
    record_bytes: int = 18 << 20
    """Bytes of records at which a project gets no new claim."""
    event_bytes: int = 6 << 20
    """Bytes of events at which a project drops its oldest events."""
    rate_per_session: int = 20
    """Claims a second of one session, and separately its heartbeats and releases; 0: no limit."""
    rate_per_project: int = 500
    """The same for all sessions of a project. Calls of a session for a task that it holds are
    exempt; 0: no limit."""
    holding: int = 0
    """1 in the scripts that sessions call for claims they hold: these have separate rates."""
    burst_ms: int = 2_000
    """Most of its rate that a quiet caller can save up."""
    ticket_ms: int = 5 * 60_000
    """How long a ticket keeps its place after the session's last call."""
    fresh_ms: int = 60_000
    """A waiter that called within this time before its hand-over window gets the whole window."""
    stale_ms: int = 5_000
    """Hand-over window of any other waiter, so that the task is not idle for long."""
    tickets_per_task: int = 100
    max_attempts: int = 5
    """Failed tenures after which a task without its own number is failed; 0: no limit."""
    brief_ms: int = 60_000
    """A listed task that is released within this time counts as given up."""
    waiting_most: int = 0
    """Tasks waiting for people at which `next` grants no more; 0: no limit."""
    tenures_kept: int = 20
    """Latest tenures kept of each task."""
    replicas: int = 0
    """Replicas that must have an act's writes before it is answered."""
    stall_ms: int = 5_000
    """Longest time between two readings of the clock that counts; a longer one is a stall."""
    events_kept: int = 10_000
    """Events kept per project, or slightly fewer: each weighs at least its share of event_bytes."""
    recount_ms: int = 6 * 3_600_000
    """How often the sweep counts what a project keeps, instead of trusting the sums."""
    recount_most: int = 1_000
    """Tasks counted in one run, about 20 ms, so that a large project blocks no other call."""
    endings_kept: int = 10_000
    """Ended claims kept per project, about, so that a repeated call is recognised."""
    alike_kept: int = 8
    """Names remembered for one skeleton; a claim of another such name is answered with those in
    use."""
    list_scan: int = 5_000
    """Most claims that one page of a filtered list reads."""

    def fill(self, script: str) -> str:
        """Return a script with each RULES.name replaced by its number."""

        def number(found: "re.Match[str]") -> str:
            return str(getattr(self, found[1]))

        return _RULE.sub(number, script)

    @property
    def event_least(self) -> int:
        """Least bytes that an event counts for, so that events_kept events fit in event_bytes."""
        return -(-self.event_bytes // self.events_kept)
