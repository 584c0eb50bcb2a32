"""What people do, in the model: keep something back, let it go, let it be tried again."""

from collections.abc import Sequence

from tests.proofs import seen
from tests.proofs.queues import Queues
from tests.proofs.records import HELD, Answer, Hold

Refused = list[tuple[str, str, int | None]]


class People(Queues):
    """And what that does to those who claim."""

    def kept_back(self, free: Sequence[str], refused: Refused) -> tuple[list[str], Refused]:
        """Of a project on hold nothing is free."""
        hold = self.holds.get("") if self.on_hold("") else None
        if not hold:
            return list(free), refused
        return [], refused + [(task, "on-hold", hold.until) for task in free]

    def look_for_next(self, reopen: bool) -> tuple[str, Answer | None]:
        """What is next; or why there is nothing."""
        found, soonest = self.next(reopen)
        if found is None:
            return "", self.nothing(soonest)
        if self.must_drain(found, reopen):
            parked = [t for t in self.tasks.values() if t.state == "parked"]
            return found, ("waiting", (self.rules.waiting_most, len(parked), len(self.failed())))
        return found, None

    def leave_others(self, tasks: Sequence[str], got: Sequence[str]) -> None:
        """One that came free is enough."""
        for task in tasks:
            if task not in got and self.has_ticket(task) and self.meet(task):
                self.leave_queue(task)

    def must_drain(self, task: str, reopen: bool) -> bool:
        """So much waits for people that `next` gives no more."""
        most = self.rules.waiting_most
        waits = [t for t in self.tasks.values() if t.state == "parked"]
        too_many = most > 0 and len(waits) + len(self.failed()) >= most
        return too_many and self.verdict(task, reopen)[0] == "free"

    def hold(self, task: str, reason: str, by: str, until: int | None) -> Answer:
        self.meet(task)
        known = self.holds.get(task) if self.on_hold(task) else None
        if known and (known.by, known.reason, known.until is None) == (by, reason, until is None):
            return "held-back", (by, reason, True)
        self.epoch = self.epoch or self.now * 1000 + self.step.lost_us
        if task:
            self.notice(task)
        self.keep_back(task, Hold(by, reason, until))
        return "held-back", (by, reason, False)

    def keep_back(self, task: str, hold: Hold) -> None:
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
        self.tell("retried", task, tenure.owner)
        return "ended", [(task, seen.state(self, task), False)]
