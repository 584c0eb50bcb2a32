"""The acts of people in the model: holds, retries and verdicts."""

from collections.abc import Sequence

from tests.proofs import seen
from tests.proofs.queues import Queues
from tests.proofs.records import HELD, Answer, ModelHold, ModelTenure

Refused = list[tuple[str, str, int | None]]


class People(Queues):
    """The acts of people, and their effect on claims."""

    def kept_back(self, free: Sequence[str], refused: Refused) -> tuple[list[str], Refused]:
        """Move the free tasks to the refused ones if the project is on hold."""
        hold = self.holds.get("") if self.on_hold("") else None
        if not hold:
            return list(free), refused
        return [], refused + [(task, "on-hold", hold.until) for task in free]

    def look_for_next(self, reopen: bool) -> tuple[str, Answer | None]:
        """Return the next task and a reason to refuse it, or "" and why there is none."""
        found, soonest = self.next(reopen)
        if found is None:
            return "", self.nothing(soonest)
        if self.must_drain(found, reopen):
            states = [tenure.state for tenure in self.tasks.values()]
            waits = (states.count("parked"), states.count("review"), len(self.failed()))
            return found, ("waiting", (self.rules.waiting_most, *waits))
        return found, None

    def leave_others(self, tasks: Sequence[str], got: Sequence[str]) -> None:
        """Leave the queues of the other tasks: one granted task is enough."""
        for task in tasks:
            if task not in got and self.has_ticket(task) and self.meet(task):
                self.leave_queue(task)

    def must_drain(self, task: str, reopen: bool) -> bool:
        """Return whether so many tasks wait for people that `next` hands out no more."""
        most = self.rules.waiting_most
        waits = [t for t in self.tasks.values() if t.state in ("parked", "review")]
        too_many = most > 0 and len(waits) + len(self.failed()) >= most
        return too_many and self.verdict(task, reopen)[0] == "free"

    def hold(self, task: str, reason: str, by: str, until: int | None) -> Answer:
        self.meet(task)
        known = self.holds.get(task) if self.on_hold(task) else None
        if known and (known.by, known.reason) == (by, reason) and self.is_repeat(known, until):
            return "held-back", (by, reason, True)
        self.epoch = self.epoch or self.now * 1000 + self.step.lost_us
        if task:
            self.notice(task)
        self.keep_back(task, ModelHold(by, reason, until, self.now))
        return "held-back", (by, reason, False)

    def is_repeat(self, known: ModelHold, until: int | None) -> bool:
        """Return whether a hold repeats the known one: both have no end, or the same length
        within a minute."""
        if known.until is None or until is None:
            return known.until is until
        return known.until - known.at == until - self.now and self.now - known.at < 60_000

    def keep_back(self, task: str, hold: ModelHold) -> None:
        tenure = self.tasks.get(task)
        self.holds[task] = hold
        self.events.append(
            ("on-hold", task, *((tenure.owner, tenure.fence) if tenure else ("", 0)))
        )

    def unhold(self, task: str, reason: str, by: str) -> Answer:
        self.meet(task)
        was = task in self.holds
        if was and task in self.tasks:
            self.lapse(task)
        if was and task:
            self.let_go(task)
        elif was:
            del self.holds[""]
            self.events.append(("off-hold", "", "", 0))
        state = seen.state(self, task) if task else None
        return "ended", [(task or None, state, not was)]

    def retry(self, task: str, fence: int | None, reason: str, by: str) -> Answer:
        tenure = self.meet(task)
        if tenure:
            self.lapse(task)
        if fence and (not tenure or tenure.fence != fence):
            return "moved", seen.task(self, task)
        if not tenure:
            return "ended", [(task, seen.state(self, task), True)]
        if tenure.state in HELD:
            return "held", seen.task(self, task)
        if tenure.state != "done" and not self.used_up(task):
            return "ended", [(task, seen.state(self, task), True)]
        tenure.failures = 0
        if tenure.state == "done":
            tenure.was, tenure.state, tenure.ended = "done", "retried", self.now
            tenure.log.append((self.now, "retried"))
        self.tell("retried", task, tenure.owner)
        return "ended", [(task, seen.state(self, task), False)]

    def resolve(
        self,
        task: str,
        pr: str,
        branch: str,
        fence: int | None,
        outcome: str,
        note: str,
        by: str,
    ) -> Answer:
        """Record how a pull request ended, for a named task or for the task that is on it."""
        for field, value in () if task else (("pr", pr), ("branch", branch)):
            now, before = self.on(field, value)
            live = [each for each in now if self.tasks[each].state in HELD]
            now = live if len(now) > 1 and live else now
            if len(now) > 1:
                return "ambiguous", tuple(now[:2])
            if now or before:
                task = (now or before)[0]
                if not now:
                    return "moved", seen.task(self, task)
                break
        tenure = self.meet(task) if task else None
        if not tenure:
            return "unknown", None
        self.lapse(task)
        stands = {
            "merged": (*HELD, "lapsed", "done"),
            "rejected": (*HELD, "lapsed", "done", "retried"),
        }
        other = pr and tenure.pr not in ("", pr) and tenure.state in stands.get(outcome, ())
        if other or (fence and fence != tenure.fence):
            return "moved", seen.task(self, task)
        return self.judged(task, tenure, outcome, pr, note, by)

    def on(self, field: str, value: str) -> tuple[list[str], list[str]]:
        """Return the tasks on a pull request or branch, and those whose previous tenure was."""
        now: list[str] = []
        before: list[str] = []
        for task in sorted(self.tasks) if value else ():
            last = self.tasks[task].previous
            mine = getattr(self.tasks[task], field) == value
            if not (mine or (last and getattr(last, field) == value)):
                continue
            if not self.meet(task):
                continue
            self.lapse(task)
            (now if mine else before).append(task)
        return now, before

    def judged(
        self, task: str, tenure: ModelTenure, outcome: str, pr: str, note: str, by: str
    ) -> Answer:
        to = {"merged": "done", "rejected": "rejected", "opened": "review"}[outcome]
        open_ = tenure.state in (*HELD, "lapsed")
        other = bool(pr and pr != tenure.pr and (to == "review" or tenure.pr))
        late = to == "review" and not open_ and tenure.state != "rejected"
        known = tenure.state == to and (to != "done" or tenure.merged)
        if ((known or (tenure.merged and to != "review")) and not other) or late:
            return "ended", [(task, seen.state(self, task), True)]
        tenure.pr, tenure.note = pr or tenure.pr, note or tenure.note
        was, failures = tenure.state, tenure.failures
        failed = ("lapsed", "rejected")
        if to == "rejected":
            counted = was in (*failed, "abandoned", "broken") or self.was_brief(task)
            tenure.failures += not counted
        if was in failed and to == "review":
            tenure.failures = max(0, failures - 1)
        tenure.state, tenure.merged, tenure.was = to, to == "done", ""
        tenure.log.append((self.now, to))
        if to == "review":
            tenure.due, tenure.beat = self.now + self.rules.review_ms, self.now
            tenure.open_until = tenure.due
            tenure.ended = 0
            if was in failed:
                self.tell("revived", task, tenure.owner)
        else:
            tenure.ended = self.now
        if was == "lapsed" or (was == "rejected" and to != "rejected"):
            self.losses.get(tenure.owner, {}).pop(task, None)
        if was != to or to == "done":
            self.tell(to, task, tenure.owner)
        if to == "rejected":
            self.lose(tenure, task, "rejected", by, note)
            self.tell_failed(task, failures)
        if to == "done" and was in HELD:
            self.endings[tenure.fence, tenure.owner[: seen.REF_CHARS], task] = self.now
        return "ended", [(task, seen.state(self, task), False)]
