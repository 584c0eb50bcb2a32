"""Decodes the replies of the scripts. Field names are those of lua/record.lua."""

import json
from collections.abc import Sequence
from typing import cast

import msgspec

from dibs.model import (
    LAPSES_FLAGGED,
    PRIORITY,
    Claim,
    Fence,
    Free,
    Hold,
    Holder,
    Listed,
    Loss,
    Previous,
    Project,
    State,
    Task,
    Tenure,
    Waiter,
)
from dibs.results import Refusal, RefusalReason
from dibs.store.clock import ClockReading

REF_CHARS = 10
UNREADABLE = (ValueError, TypeError, AttributeError, KeyError)
"""The exceptions of JSON that is damaged, or has another shape than expected."""
LIVE = ("held", "parked", "review")
_HOLDERS = (*LIVE, "lapsed", "done")
"""States of a record that still names a holder: the present one or the last one."""


def seconds(ms: int) -> int:
    """Return whole seconds, rounded up, so that waiting for them is long enough."""
    return -(-ms // 1000)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A task's record, and what to_json() in lua/record.lua adds; instants are in lease ms."""

    task: Task
    state: str
    owner: str = ""
    """The session's hash; '' for a task that is listed or on hold and was never claimed."""
    fence: Fence = Fence(0)
    ttl: int = 0
    since: int = 0
    beat: int = 0
    due: int = 0
    now: str = ""
    """The task's state, where it depends on more than the record; else ''."""
    listing: str = ""
    body: str | None = None
    grants: int = 1
    lapses: int = 0
    failures: int = 0
    kept_back: str = ""
    """The hold on the task (by whom and why), as JSON."""
    was: str = ""
    """The record's state before a person let the task be tried again; else ''."""
    label: str | None = None
    branch: str | None = None
    url: str | None = None
    note: str | None = None
    pr: str | None = None
    merged: str = ""
    reason: str | None = None
    ended: int = 0
    queue: str = ""
    """A line for each ticket: session, instant of joining, label."""
    waiting: int = 0
    """The number of tickets, where `queue` is left out."""
    position: int | None = None
    """The place of the calling session among those tickets."""
    resembles: str = ""
    """A line for each name that this one resembled when it was new."""
    last_outcome: str | None = None
    last_owner: str = ""
    last_label: str | None = None
    last_note: str | None = None
    last_branch: str | None = None
    last_url: str | None = None
    last_pr: str | None = None
    last_ended: int = 0

    def holder(self) -> Holder:
        """Return the present holder, or the last one."""
        return Holder(self.owner[:REF_CHARS], self.label, self.branch, self.url)


def _texts(kept: str) -> dict[str, str]:
    """Return a JSON object whose values are all strings. Raises ValueError for anything else."""
    entry = json.loads(kept)
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise ValueError("not a JSON object of strings")
    return entry


def _tasks(lines: str) -> tuple[Task, ...]:
    return tuple(map(Task, lines.split("\n"))) if lines else ()


def _listed(rec: Record) -> Listed | None:
    """Return the task's listing, or None where the script left it out or it is damaged."""
    try:
        return listed(rec.listing, rec.body) if rec.listing else None
    except UNREADABLE:
        return None  # a damaged listing does not affect the claim


def listed(kept: str, body: str | None = None) -> Listed:
    """Decode a task's listing; see lua/listing.lua. Raises one of UNREADABLE."""
    entry = json.loads(kept)
    return Listed(
        title=entry.get("title"),
        body=body,
        priority=int(entry.get("priority", PRIORITY)),
        needs=_tasks(entry.get("needs", "")),
        tags=tuple(filter(None, entry.get("tags", "").split("\n"))),
        url=entry.get("url"),
        source=entry.get("source"),
        max_attempts=int(entry["attempts"]) if "attempts" in entry else None,
        dropped="dropped" in entry,
    )


# The store keeps only text, so numbers arrive as digits in quotes.
_records = msgspec.json.Decoder(Record, strict=False)


class ReplyDecoder:
    """Decodes the records of one reply, for the session that called, the project and the instant
    of the call."""

    def __init__(
        self, project: Project, session: str, now_ms: int, reading: ClockReading, *, unsure: bool
    ):
        self.project, self.session, self.now_ms = project, session, now_ms
        self.reading, self.unsure = reading, unsure
        """An earlier try of the act got no answer, so it may have taken effect."""

    def claim(self, view: str) -> Claim | Free:
        """Decode a view (see lua/record.lua) into a claim, or into a free task, as shown to any
        viewer."""
        rec = _records.decode(view)
        state = self._state(rec)
        if state in ("free", "ready", "blocked", "on-hold", "failed"):
            queue = self._queue(rec)
            return Free(
                project=self.project,
                task=rec.task,
                state=state,
                grants=rec.grants if rec.owner else 0,
                lapses=rec.lapses + self._is_overdue(rec),
                waiters=len(queue) or rec.waiting,
                previous=self._ended(rec) if rec.owner else None,
                attempt=self._attempt(rec),
                hold=self._hold(rec),
                listed=_listed(rec),
                queue=queue,
            )
        return self._claim(rec, state)

    def tenure(self, view: str) -> Claim:
        """Decode a view of a task with a holder, present or last, as a list of claims shows it."""
        rec = _records.decode(view)
        return self._claim(rec, self._state(rec))

    def _is_overdue(self, rec: Record) -> bool:
        return rec.state in LIVE and rec.due <= self.now_ms

    def _attempt(self, rec: Record) -> int:
        return rec.failures + self._is_overdue(rec) + 1

    def _hold(self, rec: Record) -> Hold | None:
        return self.readable_hold(rec.kept_back) if rec.kept_back else None

    def readable_hold(self, kept: str) -> Hold | None:
        """Decode a hold; return None where it is damaged."""
        try:
            return self.hold(kept)
        except UNREADABLE:
            return None

    def hold(self, kept: str) -> Hold:
        """Decode a hold on a task or project; see lua/holds.lua. Raises one of UNREADABLE."""
        entry = _texts(kept)
        until_ms = entry.get("until_ms")
        return Hold(
            by=entry["by"],
            reason=entry["reason"],
            at=self.reading.instant(int(entry["at"])),
            until=self.reading.instant(int(until_ms)) if until_ms else None,
        )

    def tenures(self, kept: Sequence[str]) -> tuple[Tenure, ...]:
        """Decode ended tenures, and leave out damaged ones."""
        return tuple(one for one in map(self.ended, kept) if one)

    def ended(self, kept: str) -> Tenure | None:
        """Decode an ended tenure, see lua/archive.lua; return None where it is damaged."""
        try:
            return self._ended_tenure(_texts(kept))
        except UNREADABLE:
            return None

    def _ended_tenure(self, entry: dict[str, str]) -> Tenure:
        face = (entry.get(name) for name in ("label", "branch", "url"))
        since, ended = int(entry["since"]), int(entry["ended"])
        return Tenure(
            fence=int(entry["fence"]),
            holder=Holder(entry["ref"], *face),
            acquired_at=self.reading.instant(since),
            ended_at=self.reading.instant(ended),
            attempt=int(entry.get("attempt", 1)),
            held_seconds=int(entry.get("worked", ended - since)) // 1000,
            parked_seconds=int(entry.get("parked", 0)) // 1000,
            outcome=entry["outcome"],
            note=entry.get("note"),
            pr=entry.get("pr"),
            reason=entry.get("reason"),
            by=entry.get("by"),
        )

    def _state(self, rec: Record) -> State:
        if rec.now:
            return cast(State, rec.now)
        if self._is_overdue(rec):
            return "lapsed"
        return cast(State, rec.state) if rec.state in _HOLDERS else "free"

    def _claim(self, rec: Record, state: State) -> Claim:
        overdue = self._is_overdue(rec)
        lapses = rec.lapses + overdue
        ended = rec.due if overdue else rec.ended
        at = self.reading.instant
        queue = self._queue(rec)
        return Claim(
            project=self.project,
            task=rec.task,
            state=state,
            fence=rec.fence,
            holder=rec.holder(),
            mine=rec.owner == self.session and rec.state in _HOLDERS,
            ttl=rec.ttl // 1000,
            expires_in=max(0, seconds(rec.due - self.now_ms)) if rec.state != "done" else 0,
            expires_at=at(rec.due),
            acquired_at=at(rec.since),
            heartbeat_at=at(rec.beat),
            stale=state == "held" and self.now_ms - rec.beat > rec.ttl // 2,
            note=rec.note,
            pr=rec.pr,
            ended_at=at(ended) if ended else None,
            waiters=len(queue) or rec.waiting,
            queue=queue,
            grants=rec.grants,
            lapses=lapses,
            flag="repeated-lapses" if lapses >= LAPSES_FLAGGED else None,
            previous=self._previous(rec),
            attempt=self._attempt(rec),
            hold=self._hold(rec),
            merged=state == "done" and bool(rec.merged),
            resembles=_tasks(rec.resembles),
            listed=_listed(rec),
        )

    def _queue(self, rec: Record) -> tuple[Waiter, ...]:
        if not rec.queue:
            return ()
        tickets = (line.split(" ", 2) for line in rec.queue.split("\n"))
        return tuple(
            Waiter(session[:REF_CHARS], label or None, self.reading.instant(int(joined)))
            for session, joined, label in tickets
        )

    def _previous(self, rec: Record) -> Previous | None:
        if rec.last_outcome is None:
            return None
        return Previous(
            outcome=rec.last_outcome,
            holder=Holder(
                rec.last_owner[:REF_CHARS], rec.last_label, rec.last_branch, rec.last_url
            ),
            note=rec.last_note,
            at=self.reading.instant(rec.last_ended),
            pr=rec.last_pr,
        )

    def _ended(self, rec: Record) -> Previous:
        return Previous(
            outcome="lapsed" if self._is_overdue(rec) else rec.was or rec.state,
            holder=rec.holder(),
            note=rec.reason or rec.note,
            at=self.reading.instant(rec.due if self._is_overdue(rec) else rec.ended),
            pr=rec.pr,
        )

    def loss(self, text: str) -> Loss:
        """Decode an entry of the session's losses."""
        entry = json.loads(text)
        by = None
        if entry.get("by_ref") or entry.get("by_label"):
            by = Holder(entry.get("by_ref", ""), entry.get("by_label") or None)
        return Loss(
            task=Task(entry["task"]),
            fence=Fence(int(entry["fence"])),
            reason=entry["reason"],
            at=self.reading.instant(int(entry["at"])),
            by=by,
            note=entry.get("note") or None,
            pr=entry.get("pr") or None,
        )

    def refusal(self, reason: str, view: str, free_in_ms: str, *facts: str) -> Refusal:
        """Return why a task was refused; claim.lua documents the `facts` of each reason."""
        if not view:  # the task was never claimed, and the project is on hold
            view = json.dumps({"task": facts[2], "state": "new"})
        rec = _records.decode(view)
        # `free` means here: free, but in another session's hand-over window.
        claim: Claim | Free
        if reason in ("blocked", "on-hold", "failed"):
            claim = self.claim(view)
        else:
            claim = self._claim(rec, self._state(rec))
        position = rec.position
        for place, line in enumerate(rec.queue.splitlines(), 1):
            if line.startswith(self.session + " "):
                position = place
        return Refusal(
            reason=cast(RefusalReason, reason),
            claim=claim,
            retry_after_s=max(1, seconds(int(free_in_ms))) if free_in_ms else None,
            position=position,
            needs=self._needs(facts) if reason == "blocked" else (),
            hold=self.readable_hold(facts[1]) if reason == "on-hold" and facts[1] else None,
            of=facts[0] if reason == "on-hold" else "",
            tenures=self.tenures(facts) if reason == "failed" else (),
        )

    def _needs(self, facts: Sequence[str]) -> tuple[Claim | Free, ...]:
        return tuple(
            self.claim(one) if one else Free.unknown(self.project, Task(need))
            for need, one in zip(facts[::2], facts[1::2], strict=True)
        )
