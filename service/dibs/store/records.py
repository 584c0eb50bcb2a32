"""From what the scripts answer to the words of dibs. Field names are those of lua/common.lua."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from dibs.outcomes import Refusal, Verdict
from dibs.store.clock import Facts
from dibs.words import (
    LAPSES_FLAGGED,
    Claim,
    Event,
    Fence,
    Free,
    Holder,
    Loss,
    Previous,
    Project,
    State,
    Task,
    Waiter,
)

REF_CHARS = 10


@dataclass(frozen=True, slots=True)
class Counts:
    """What a sweep found in one project."""

    held: int
    parked: int
    lapsed: int
    done: int
    tickets: int
    lapses: int
    """Ever."""
    breaks: int
    """Ever."""


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """Return [k, v, k, v …] as a dict."""
    each = iter(flat)
    return dict(zip(each, each, strict=True))


def seconds(ms: int) -> int:
    """Return whole seconds, rounded up: a wait of them is long enough."""
    return -(-ms // 1000)


class Reader:
    """Reads the records of one reply: whose eyes, which project, and when."""

    def __init__(self, project: Project, session: str, now_ms: int, facts: Facts, grace_ms: int):
        self.project, self.session, self.now_ms = project, session, now_ms
        self.facts, self.grace_ms = facts, grace_ms

    def claim(self, flat: Sequence[str]) -> Claim | Free:
        """Return a view (see common.lua) as everybody may see it."""
        rec = pairs(flat)
        state = self._state(rec)
        if state == "free":
            return Free(
                project=self.project,
                task=Task(rec["task"]),
                grants=int(rec["grants"]),
                lapses=int(rec.get("lapses", 0)),
                waiters=len(self._queue(rec)),
                previous=self._ended(rec),
            )
        return self._claim(rec, state)

    def _state(self, rec: dict[str, str]) -> State:
        state = rec["state"]
        if state in ("held", "parked") and int(rec["due_at"]) <= self.now_ms:
            return "lapsed"
        if state in ("held", "parked", "lapsed", "done"):
            return cast(State, state)
        return "free"

    def _claim(self, rec: dict[str, str], state: State) -> Claim:
        due, ttl, beat = int(rec["due_at"]), int(rec["ttl"]), int(rec["beat"])
        noted = state == "free" or rec["state"] == state
        lapses = int(rec.get("lapses", 0)) + (not noted)
        ended = rec.get("ended") if noted else rec["due_at"]
        at = self.facts.instant
        queue = self._queue(rec)
        return Claim(
            project=self.project,
            task=Task(rec["task"]),
            state=state,
            fence=Fence(int(rec["fence"])),
            holder=_holder(rec),
            mine=rec["owner"] == self.session and state != "free",
            ttl=ttl // 1000,
            expires_in=max(0, seconds(due - self.now_ms)) if state != "done" else 0,
            expires_at=at(due),
            acquired_at=at(int(rec["since"])),
            heartbeat_at=at(beat),
            stale=state == "held" and self.now_ms - beat > ttl // 2,
            note=rec.get("note"),
            pr=rec.get("pr"),
            ended_at=at(int(ended)) if ended else None,
            waiters=len(queue),
            queue=queue,
            grants=int(rec["grants"]),
            lapses=lapses,
            flag="repeated-lapses" if lapses >= LAPSES_FLAGGED else None,
            previous=self._previous(rec),
        )

    def _queue(self, rec: dict[str, str]) -> tuple[Waiter, ...]:
        waiting = []
        for line in rec.get("queue", "").splitlines():
            session, joined, label = line.split(" ", 2)
            waiting.append(
                Waiter(session[:REF_CHARS], label or None, self.facts.instant(int(joined)))
            )
        return tuple(waiting)

    def _previous(self, rec: dict[str, str]) -> Previous | None:
        if "last_outcome" not in rec:
            return None
        return Previous(
            outcome=rec["last_outcome"],
            holder=Holder(rec["last_owner"][:REF_CHARS], rec.get("last_label")),
            note=rec.get("last_note"),
            at=self.facts.instant(int(rec["last_ended"])),
        )

    def _ended(self, rec: dict[str, str]) -> Previous:
        return Previous(
            outcome=rec["state"],
            holder=_holder(rec),
            note=rec.get("reason") or rec.get("note"),
            at=self.facts.instant(int(rec["ended"])),
        )

    def loss(self, text: str) -> Loss:
        """Return an entry of the session's losses."""
        entry = json.loads(text)
        by = None
        if entry.get("by_ref") or entry.get("by_label"):
            by = Holder(entry.get("by_ref", ""), entry.get("by_label") or None)
        return Loss(
            task=Task(entry["task"]),
            fence=Fence(int(entry["fence"])),
            reason=entry["reason"],
            at=self.facts.instant(int(entry["at"])),
            by=by,
            note=entry.get("note") or None,
        )

    def refusal(self, verdict: str, flat: Sequence[str], free_in_ms: str) -> Refusal:
        """Return why a task was not granted."""
        rec = pairs(flat)
        claim = self.claim(flat)
        if isinstance(claim, Free):  # freed, and in somebody else's hand-over window
            claim = self._claim(rec, "free")
        position = None
        for place, line in enumerate(rec.get("queue", "").splitlines(), 1):
            if line.startswith(self.session + " "):
                position = place
        return Refusal(
            verdict=cast(Verdict, verdict),
            claim=claim,
            retry_after_s=max(1, seconds(int(free_in_ms))) if free_in_ms else None,
            position=position,
        )


def _holder(rec: dict[str, str]) -> Holder:
    return Holder(rec["owner"][:REF_CHARS], rec.get("label"), rec.get("branch"), rec.get("url"))


def event(epoch: str, entry_id: str, flat: Sequence[str], facts: Facts) -> Event:
    """Return one entry of a project's stream."""
    rec = pairs(flat)
    return Event(
        id=f"{epoch}-{entry_id}",
        type=rec["type"],
        task=Task(rec["task"]),
        at=facts.instant(int(rec["at"])),
        fence=int(rec["fence"]),
        holder=Holder(rec["ref"], rec["label"] or None) if rec.get("ref") else None,
        note=rec.get("note") or None,
        reason=rec.get("reason") or None,
        by=rec.get("by") or None,
        pr=rec.get("pr") or None,
    )
