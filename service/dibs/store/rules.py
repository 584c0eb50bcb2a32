"""The limits that the scripts use, in their units."""

import re
from dataclasses import dataclass

_RULE = re.compile(r"RULES\.(\w+)")


@dataclass(frozen=True, slots=True)
class Rules:
    """One number per rule; spans in ms. They are written into every script.

    So services with different settings may share a store: each runs scripts of its own.
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
    """What is kept of each tenure; never less than the two before."""
    claims_per_session: int = 50
    claims_per_project: int = 2_000
    claims_per_address: int = 500
    """Live claims in a project that count for one address; 0 for no limit."""
    record_bytes: int = 18 << 20
    """What the records of a project may weigh; at it no claim is granted anew."""
    event_bytes: int = 6 << 20
    """What its events may weigh; at it the oldest go."""
    rate_per_session: int = 20
    """Claims a second, and beside them heartbeats and releases; 0 for no limit."""
    rate_per_project: int = 500
    """Of those, what is asked by sessions that do not hold what they ask for; each kind."""
    holding: int = 0
    """1 in the scripts of those who hold something."""
    burst_ms: int = 2_000
    """How much of its rate a quiet caller has saved up at most."""
    ticket_ms: int = 5 * 60_000
    """A place in a queue is kept this long after the session asked last."""
    fresh_ms: int = 60_000
    """Who asked within this time before its window has all of it."""
    stale_ms: int = 5_000
    """And the others have so much, so that the task is not idle for long."""
    tickets_per_task: int = 100
    max_attempts: int = 5
    """Tenures that may fail before a task is failed, where it has no number of its own; 0: any."""
    brief_ms: int = 60_000
    """A task of the list that is released within this time was given up."""
    waiting_most: int = 0
    """Tasks that may wait for people before `next` gives no more; 0: any."""
    tenures_kept: int = 20
    """Of each task, the latest."""
    replicas: int = 0
    """How many have what an act wrote before it is answered."""
    stall_ms: int = 5_000
    """Nobody saw the clock for longer than this: the time between does not count."""
    events_kept: int = 10_000
    """Events kept per project, a little less: none weighs less than its part of event_bytes."""
    recount_ms: int = 6 * 3_600_000
    """So often the sweep looks what is there, instead of trusting the sums."""
    recount_most: int = 1_000
    """Tasks that it looks at in one run, some 20 ms, so that nobody waits for a project of many."""
    endings_kept: int = 10_000
    """Ends kept per project, about, so that a repeat is told that it was one."""
    alike_kept: int = 8
    """Names with one skeleton that are known, and so told to who claims another."""
    list_scan: int = 5_000
    """Claims that one page of a filtered list looks at, at most."""

    def fill(self, script: str) -> str:
        """Return a script with each RULES.name in it as its number."""

        def number(found: "re.Match[str]") -> str:
            return str(getattr(self, found[1]))

        return _RULE.sub(number, script)

    @property
    def event_least(self) -> int:
        """Bytes that each event counts for at least, so that all that are kept have room."""
        return -(-self.event_bytes // self.events_kept)
