"""The contract as one sequential program: the answer of each act, given its instant.

No store, no network, no clock. Instants and spans are milliseconds of lease time.
"""

from collections.abc import Sequence

from tests.proofs import seen
from tests.proofs.people import People
from tests.proofs.queues import QUEUED
from tests.proofs.records import (
    GIVEN_UP,
    HELD,
    Answer,
    ModelHold,
    ModelLoss,
    ModelTenure,
    Step,
    Told,
)


class Model(People):
    """One project: the result of every act."""

    def run(self, step: Step) -> Told:
        """Return (answer, facts, lost). Any call of a session reports each of its losses once."""
        self.look(step)
        lost = []
        for _, loss in sorted(self.losses.get(self.me, {}).items()):
            fresh = loss.kept_until > self.now and loss.told in (None, step.request)
            if step.act != "show" and not loss.open and fresh:
                loss.told = step.request
                lost.append(loss)
        act = getattr(self, step.act)
        if step.act == "tasks_":  # it calls noted() itself, for each change
            answer, facts = act(**step.args)
        else:
            answer, facts = self.noted(lambda: act(**step.args))
        return answer, facts, [seen.loss(loss) for loss in lost]

    def sorted_out(
        self, tasks: Sequence[str], mode: str, reopen: bool
    ) -> tuple[list[str], list[str], list[tuple[str, str, int | None]]]:
        """Return the free tasks, the session's own, and those that it is refused."""
        free: list[str] = []
        mine: list[str] = []
        refused: list[tuple[str, str, int | None]] = []
        for task in tasks:
            verdict, until = self.verdict(task, reopen)
            if verdict in ("free", "mine"):
                (free if verdict == "free" else mine).append(task)
            else:
                refused.append((task, verdict, until))
            if mode == "any" and verdict == "mine":
                break
        return free, mine, refused

    def claim(
        self,
        tasks: Sequence[str],
        mode: str,
        ttl: int | None,
        reopen: bool,
        queue: bool,
        label: str,
        note: str,
        pr: str,
        branch: str,
    ) -> Answer:
        if mode == "next":
            found, answer = self.look_for_next(reopen)
            if answer:
                return answer
            tasks = [found]
        free, mine, refused = self.sorted_out(tasks, mode, reopen)
        if mode == "any":  # the session's own task, else the first free one
            free = [] if mine else free[:1]
        free, refused = self.kept_back(free, refused)
        refuse = bool(refused) and (mode == "all" or not free + mine)
        if self.step.full and (queue if refuse else free):
            return "full", None
        if refuse:
            waits = [task for task, verdict, _ in refused if verdict in QUEUED] if queue else []
            if not all(map(self.has_room, waits)):
                return "quota", "queue"
            for task in waits:
                self.enqueue(task, label)
            return "refused", [seen.refusal(self, *each) for each in refused]
        if free and (whose := self.over_quota(len(free))):
            return "quota", whose
        face = {"label": label, "note": note, "pr": pr, "branch": branch}
        self.take(free, mine, ttl, face)
        if queue and mode == "any":
            self.leave_others(tasks, free + mine)
        return "granted", (len(free), [seen.task(self, task) for task in free + mine])

    def take(self, free: list[str], mine: list[str], ttl: int | None, face: dict[str, str]) -> None:
        for number, task in enumerate(free):
            later = {other: self.in_index(other) for other in free[number + 1 :]}
            self.grant(task, ttl or self.rules.ttl_ms, **face)
            # A done task that this act grants again is needed by a task that it grants next.
            for other, was in later.items():
                if (was, self.in_index(other)) == ("ready", "blocked"):
                    self.events.append(("blocked", other, "", 0))
        for task in mine:
            self.keep(task, ttl, "held", False, **face)

    def heartbeat(
        self,
        task: str | None,
        fence: int | None,
        ttl: int | None,
        state: str,
        note: str,
        pr: str,
    ) -> Answer:
        kept = [each for each in self.met(task) if self.mine(each)]
        if task and not (kept and fence in (None, self.tasks[task].fence)):
            return self.not_mine(task, fence, moved=bool(kept))
        for each in kept:
            if task or self.tasks[each].state != "review":
                word = state if state in ("parked", "review") else "held"
                self.keep(each, ttl, word, resume=state == "working", note=note, pr=pr)
        return "kept", [seen.task(self, each) for each in kept]

    def release(
        self, task: str | None, fence: int | None, outcome: str, note: str, pr: str
    ) -> Answer:
        ours = [each for each in self.met(task) if self.ours(each)]
        if not task:
            ours = [each for each in ours if not self.waits_for_verdict(each)]
        if not task or (ours and fence in (None, self.tasks[task].fence)):
            notes = [self.note_at_end(each, note, named=bool(task)) for each in ours]
            ends = zip(ours, notes, strict=True)
            return "ended", [self.end(each, outcome, words, pr=pr) for each, words in ends]
        already = self.gave_up(task, fence)
        if not ours and not (already and fence) and self.leave_queue(task):
            return "ended", [(task, seen.state(self, task), False)]
        if already:
            return "ended", [(task, seen.state(self, task), True)]
        return self.not_mine(task, fence, moved=bool(ours))

    def note_at_end(self, task: str, note: str, *, named: bool) -> str:
        """Return the note of a released task: a release of all leaves that of a lapsed claim."""
        tenure = self.tasks[task]
        late = tenure.state == "lapsed" or self.overdue(tenure)
        return tenure.note if late and not named and tenure.note else note

    def waits_for_verdict(self, task: str) -> bool:
        """Return whether the task is in review; a claim that left its review to be worked on
        again is put back into it."""
        tenure = self.tasks[task]
        if tenure.state not in HELD or self.overdue(tenure):
            return False
        if tenure.state != "review" and tenure.open_until > self.now:
            self.keep(task, None, "review")
        return tenure.state == "review"

    def break_(self, task: str, fence: int | None, reason: str, by: str, hold: bool) -> Answer:
        tenure = self.meet(task)
        current = tenure if tenure and tenure.fence == fence else None
        stands = current and current.state in (*HELD, "lapsed")
        was_broken = (current and current.state == "broken") or self.ended_by("broken", task, fence)
        if was_broken and not stands:
            if hold and current and not self.on_hold(task):
                self.keep_back(task, ModelHold(by, reason, None, self.now))
            return "ended", [(task, seen.state(self, task), True)]
        if not current or not stands:
            return "moved", seen.task(self, task)
        ended = self.end(task, "broken", "", reason)
        self.lose(current, task, "broken", by, reason)
        if hold:
            self.keep_back(task, ModelHold(by, reason, None, self.now))
        return "ended", [(task, seen.state(self, task), False)] if hold else [ended]

    def show(self, task: str) -> Answer:
        return "shown", seen.task(self, task)

    def sweep(self) -> Answer:
        for task in sorted(self.tasks):
            self.notice(task)
        for task, tenure in self.tasks.items():
            if tenure.state in HELD or not self.waiting(tenure):
                self.drop_lapsed(task)
        for task in list(self.holds):
            self.look_at_hold(task)
        if "" in self.holds and not self.on_hold(""):
            del self.holds[""]
            self.events.append(("off-hold", "", "", 0))
        kept_from = self.now - self.rules.retention_ms
        self.endings = {end: at for end, at in self.endings.items() if at > kept_from}
        self.forget_history()
        for losses in self.losses.values():
            for task in [task for task, loss in losses.items() if loss.kept_until <= self.now]:
                del losses[task]
        return "swept", None

    def finished(self) -> bool:
        """Return whether nothing is left of the project but its last fence and its events."""
        lost = self.losses.values()
        kept = (self.tasks, self.entries, self.holds, self.endings, self.history, *lost)
        return bool(self.epoch) and not any(kept)

    def met(self, task: str | None) -> list[str]:
        """Return the task that an act names, or all that the session may hold."""
        mine = [each for each in sorted(self.tasks) if self.ours(each)]
        mine = [t for t in mine if self.tasks[t].state in HELD or self.loss(self.me, t)]
        return list(filter(self.meet, [task] if task else mine))

    def ours(self, task: str) -> bool:
        tenure = self.tasks[task]
        return tenure.owner == self.me and tenure.state in (*HELD, "lapsed")

    def mine(self, task: str) -> bool:
        """Return whether the session holds the task, or may revive its lapsed claim."""
        if not self.ours(task):
            return False
        self.lapse(task)
        tenure = self.tasks[task]
        since = tenure.anew or tenure.since
        return tenure.state in HELD or since + self.rules.max_hold_ms > self.now

    def verdict(self, task: str, reopen: bool) -> tuple[str, int | None]:
        """Return the obstacle between the session and a task, and when it ends."""
        self.meet(task)
        self.look_at_hold(task)
        tenure, hold = self.tasks.get(task), self.holds.get(task)
        if not tenure:
            if hold:
                return "on-hold", hold.until
            return ("blocked" if self.is_blocked(task) else "free"), None
        self.lapse(task)
        if self.mine(task):
            return "mine", None
        free_from = tenure.ended
        if tenure.state in (*HELD, "lapsed"):
            free_from = self.deadline(tenure) + self.rules.grace_ms
        if tenure.state in HELD:
            return "held", free_from
        if no := self.denied(task, tenure, reopen):
            return no
        if self.now < free_from:
            return "cooling", free_from
        ticket, closes = self.turn(task, free_from)
        return ("reserved", closes) if ticket and ticket.session != self.me else ("free", None)

    def denied(self, task: str, tenure: ModelTenure, reopen: bool) -> tuple[str, int | None] | None:
        """Return the obstacle that no session may pass, not even the last holder."""
        hold = self.holds.get(task)
        if tenure.state == "done" and not reopen:
            return "done", None
        if hold:
            return "on-hold", hold.until
        if tenure.state != "done" and self.used_up(task) and not reopen:
            return "failed", None
        return ("blocked", None) if self.is_blocked(task) else None

    def gave_up(self, task: str, fence: int | None) -> bool:
        """Return whether the session ended the tenure of `fence` (None: the latest)."""
        latest = self.tasks.get(task)
        named = [latest] if latest and fence in (None, latest.fence) else []
        if latest and latest.previous and fence == latest.previous.fence:
            named.append(latest.previous)
        if any(each.owner == self.me and each.state in GIVEN_UP for each in named):
            return True
        return self.ended_by(self.me[: seen.REF_CHARS], task, fence)

    def not_mine(self, task: str, fence: int | None, moved: bool) -> Answer:
        loss = None if moved else self.loss(self.me, task)
        if fence and not moved and not loss and self.forgotten(task, fence):
            now = self.known(task)
            held = now and now.state in HELD
            by, note = (now.label, now.note) if held else ("", "")
            loss = ModelLoss(task, fence, "forgotten", by, note)
        why = "moved" if moved else "lost" if loss else "not-holder"
        return "not-mine", (why, seen.task(self, task), loss and seen.loss(loss))

    def over_quota(self, wanted: int) -> str | None:
        for whose, limit in (
            ("session", self.rules.claims_per_session),
            ("project", self.rules.claims_per_project),
        ):
            if len(self.held(whose)) + wanted > limit:
                for task in self.held(whose):
                    self.notice(task)
            if len(self.held(whose)) + wanted > limit:
                return whose
        return None

    def held(self, whose: str) -> list[str]:
        held = [task for task in sorted(self.tasks) if self.tasks[task].state in HELD]
        return [task for task in held if whose == "project" or self.tasks[task].owner == self.me]
