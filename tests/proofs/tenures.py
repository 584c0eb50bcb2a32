"""The life of a tenure in the model: from a grant, through renewals and lapses, to its end."""

from tests.proofs import seen
from tests.proofs.records import HELD, ModelHold, ModelLoss, ModelTenure, PastTenure, Step, Ticket

from dibs.store import Rules

FAILS = ("lapsed", "abandoned", "broken")


class Tenures:
    """The latest tenure of each task, the losses of each session, and the instant of the step."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.fence = rules, 0
        self.tasks: dict[str, ModelTenure] = {}
        self.losses: dict[str, dict[str, ModelLoss]] = {}
        self.holds: dict[str, ModelHold] = {}
        """The holds by task, the project's under ''. A hold past its end stays until the next
        act on its task."""
        self.history: dict[str, list[PastTenure]] = {}
        """The tenures before the latest one of a task, the latest first."""
        self.events: list[tuple[str, str, str, int]] = []
        self.endings: dict[tuple[int, str, str], int] = {}
        """(fence, session's ref or "broken", task): the instant of the release or break."""
        self.epoch = 0
        """The first fence of the project."""
        self.look(Step("show", {}, 0))

    def look(self, step: Step) -> None:
        self.step, self.now, self.me = step, step.now, step.session

    def extended(self, instant: int, span: int, written: int = 0) -> int:
        """Return the instant extended by stalls: one that had not passed when a stall began is
        at least `span` after the stall's end."""
        for lost_from, lost_to in self.step.stalls:
            if instant > lost_from and written < lost_to:
                instant = max(instant, lost_to + span)
        return instant

    def aged(self, tenure: ModelTenure) -> bool:
        """Return whether the retention of an ended tenure is over."""
        done = tenure.state == "done"
        ended = self.deadline(tenure) if tenure.state in HELD else tenure.ended
        return ended + self.rules_kept(done) <= self.now

    def over(self, tenure: ModelTenure) -> bool:
        """Return whether a tenure is forgotten."""
        return self.aged(tenure)

    def standing(self, task: str) -> str | None:
        """Return the state of an unheld task, if the list says more than `free`; see Lists."""
        return None

    def is_listed(self, task: str) -> bool:
        """See Lists."""
        return False

    def most_attempts(self, task: str) -> int:
        """See Lists."""
        return self.rules.max_attempts

    def used_up(self, task: str, overdue: bool = False) -> bool:
        """Return whether the task's attempts are used up."""
        tenure, most = self.tasks.get(task), self.most_attempts(task)
        return bool(tenure and most and tenure.failures + overdue >= most)

    def on_hold(self, task: str) -> bool:
        """Return whether the task is on hold now."""
        hold = self.holds.get(task)
        return bool(hold) and (hold.until is None or hold.until > self.now)

    def rules_kept(self, done: bool) -> int:
        return self.rules.done_retention_ms if done else self.rules.retention_ms

    def known(self, task: str) -> ModelTenure | None:
        tenure = self.tasks.get(task)
        return tenure if tenure and not self.over(tenure) else None

    def meet(self, task: str) -> ModelTenure | None:
        """Return a task's tenure, or forget it (as any act does) if its retention is over."""
        tenure = self.tasks.get(task)
        if tenure and self.over(tenure):
            self.lapse(task)
            if tenure.state == "lapsed":
                self.losses[tenure.owner].pop(task, None)
            del self.tasks[task]
            self.remember(task, tenure, self.rules.tenures_kept)
            return None
        return tenure

    def remember(self, task: str, tenure: ModelTenure, most: int) -> None:
        """Move a tenure that no longer represents its task to the history."""
        if tenure.ended + self.rules.history_ms > self.now:
            kept = self.history.setdefault(task, [])
            kept.insert(0, PastTenure.of(tenure))
            del kept[most:]

    def forget_history(self) -> None:
        """Forget the tenures that are past the history's retention."""
        kept_from = self.now - self.rules.history_ms
        for task, kept in list(self.history.items()):
            self.history[task] = [past for past in kept if past.ended > kept_from]
            if not self.history[task]:
                del self.history[task]

    def loss(self, session: str, task: str) -> ModelLoss | None:
        found = self.losses.get(session, {}).get(task)
        return found if found and found.kept_until > self.now else None

    def deadline(self, tenure: ModelTenure) -> int:
        return self.extended(tenure.due, tenure.ttl, tenure.beat)

    def overdue(self, tenure: ModelTenure) -> bool:
        return tenure.state in HELD and self.deadline(tenure) <= self.now

    def notice(self, task: str) -> None:
        """Record a passed deadline: the first act that meets it does."""
        if self.meet(task):
            self.lapse(task)

    def lapse(self, task: str) -> None:
        tenure = self.tasks[task]
        if self.overdue(tenure):
            tenure.due = tenure.ended = self.deadline(tenure)
            tenure.lapses += 1
            tenure.log.append((tenure.due, "lapsed"))
            self.over_with(task, "lapsed")
            until = tenure.ended + self.rules.retention_ms
            self.lose(tenure, task, "lapsed", until=until, open=True)
            self.tell("lapsed", task, tenure.owner)
            self.tell_failed(task, tenure.failures - 1)

    def over_with(self, task: str, how: str) -> None:
        """End the tenure with an outcome, and count it as a failure if it is one."""
        tenure = self.tasks[task]
        if tenure.state in HELD:
            brief = how == "released" and self.now - tenure.since < self.rules.brief_ms
            tenure.failures += how in FAILS or (brief and self.is_listed(task))
            if how == "released" and not self.is_listed(task):
                tenure.failures = 0
        tenure.state = how

    def was_brief(self, task: str) -> bool:
        """Return whether the task was released so soon that this counted as a failure."""
        tenure = self.tasks[task]
        spent = tenure.ended - tenure.since
        brief = tenure.state == "released" and spent < self.rules.brief_ms
        return brief and self.is_listed(task) and tenure.failures > 0

    def tell_failed(self, task: str, before: int) -> None:
        most, tenure = self.most_attempts(task), self.tasks[task]
        if self.used_up(task) and before < most and task not in self.holds:
            self.tell("failed", task, tenure.owner)

    def lose(
        self,
        tenure: ModelTenure,
        task: str,
        reason: str,
        by: str = "",
        note: str = "",
        *,
        until: int | None = None,
        open: bool = False,
    ) -> None:
        until = until or self.now + self.rules.retention_ms
        loss = ModelLoss(task, tenure.fence, reason, by, note, open, until)
        self.losses.setdefault(tenure.owner, {})[task] = loss

    def grant(
        self, task: str, ttl: int, label: str, note: str, pr: str = "", branch: str = ""
    ) -> None:
        before, self.fence = self.tasks.get(task), self.new_fence(task)
        due = self.now + min(ttl, self.rules.max_hold_ms)
        new = ModelTenure(self.me, self.fence, ttl, due, self.now, self.now, label, note)
        new.pr, new.branch, new.log = pr, branch, [(self.now, "held")]
        if before:
            new.grants, new.lapses = before.grants + 1, before.lapses
            self.remember(task, before, self.rules.tenures_kept - 1)
            if before.state != "done" and not self.used_up(task):
                new.failures = before.failures
                new.attempt = before.failures + 1
            new.previous, before.previous, new.queue = before, None, before.queue
            if before.state == "lapsed":
                self.losses[before.owner].pop(task, None)
                if before.owner != self.me:
                    self.lose(before, task, "lapsed", label, note)
        self.tasks[task] = new
        new.queue = [ticket for ticket in new.queue if ticket.session != self.me]
        self.drop_lapsed(task)
        self.tell("claimed", task, self.me)

    def new_fence(self, task: str) -> int:
        fence = self.step.fences[task]
        assert fence > self.fence, f"fence {fence} of {task!r} is not above {self.fence}"
        self.epoch = self.epoch or fence
        return fence

    def keep(
        self,
        task: str,
        ttl: int | None,
        state: str = "held",
        resume: bool = False,
        label: str = "",
        note: str = "",
        pr: str = "",
        branch: str = "",
    ) -> None:
        tenure = self.tasks[task]
        was, due = tenure.state, self.deadline(tenure)
        if ttl and state == "held":
            tenure.ttl = ttl
        span = tenure.ttl if state == "held" else ttl or self.rules.park_ms
        if was == "review" and state != "review":
            tenure.anew, due = self.now, 0
        if resume:  # the only way to an earlier deadline
            due = min(due, self.now + span)
        limit = (tenure.anew or tenure.since) + self.rules.max_hold_ms
        if state == "review":
            span, limit = self.rules.review_ms, self.now + self.rules.review_ms
        tenure.due = max(due, min(self.now + span, limit))
        if state == "review":
            tenure.open_until = tenure.due
        tenure.due = max(tenure.due, tenure.open_until)
        tenure.state, tenure.beat = state, self.now
        tenure.log.append((self.now, state))
        tenure.label, tenure.note = label or tenure.label, note or tenure.note
        tenure.pr, tenure.branch = pr or tenure.pr, branch or tenure.branch
        if was == "lapsed":
            tenure.ended = 0
            tenure.failures = max(0, tenure.failures - 1)
            self.losses[self.me].pop(task, None)
            self.tell("revived", task, self.me)
        if state != "held" and was != state:
            self.tell(state, task, self.me)
        if state == "held" and was in ("parked", "review"):
            self.tell("resumed", task, self.me)

    def end(
        self, task: str, outcome: str, note: str, reason: str = "", pr: str = ""
    ) -> tuple[str, str, bool]:
        self.notice(task)
        tenure = self.tasks[task]
        failures = tenure.failures
        self.over_with(task, outcome)
        tenure.ended, tenure.reason = self.now, reason
        tenure.log.append((self.now, outcome))
        tenure.note, tenure.pr = note or tenure.note, pr or tenure.pr
        self.losses.get(tenure.owner, {}).pop(task, None)
        whose = outcome if outcome == "broken" else self.me[: seen.REF_CHARS]
        self.endings[tenure.fence, whose, task] = self.now
        self.tell(outcome, task, tenure.owner)
        self.tell_failed(task, failures)
        return task, seen.state(self, task), False

    def ended_by(self, whose: str, task: str, fence: int | None) -> bool:
        ended = self.endings.get((fence or 0, whose, task))
        return ended is not None and ended + self.rules.retention_ms > self.now

    def forgotten(self, task: str, fence: int | None) -> bool:
        """Return whether the store must have lost the tenure of `fence`: no trace of it is left,
        its retention is not over, and since then time was lost or the project began again."""
        now_us = self.now * 1000 + self.step.lost_us
        if not fence or not now_us - self.rules.retention_ms * 1000 < fence <= now_us:
            return False
        latest = self.known(task)
        traces = [each.fence for each in (latest, latest and latest.previous) if each]
        whose = ("broken", self.me[: seen.REF_CHARS])
        if fence in traces or any(self.ended_by(each, task, fence) for each in whose):
            return False
        after = (*self.step.losses_us, self.step.lost_us)[1:]
        ends = [to * 1000 + lost for (_, to), lost in zip(self.step.stalls, after, strict=False)]
        slack_us = self.rules.stall_ms * 1000
        return any(end > fence - slack_us for end in ends) or fence < (self.epoch or now_us)

    def drop_lapsed(self, task: str) -> None:
        """Drop the expired tickets of a queue."""
        tenure = self.tasks[task]
        for ticket in [ticket for ticket in tenure.queue if not self.waits(ticket)]:
            tenure.queue.remove(ticket)
            self.tell("unqueued", task, ticket.session)

    def waits(self, ticket: Ticket) -> bool:
        return self.extended(ticket.until, self.rules.ticket_ms) > self.now

    def tell(self, kind: str, task: str, session: str) -> None:
        self.events.append((kind, task, session, self.tasks[task].fence))
