"""The life of a tenure in the model: from a grant, over renewals and lapses, to its end."""

from tests.proofs import seen
from tests.proofs.records import HELD, Loss, Step, Tenure


class Tenures:
    """The latest tenure of each task, what each session has lost, and the moment of the step."""

    def __init__(self, rules):
        self.rules, self.tasks, self.losses, self.fence, self.events = rules, {}, {}, 0, []
        self.look(Step("show", {}, 0))

    def look(self, step: Step):
        self.step, self.now, self.me = step, step.now, step.session

    def extended(self, instant, span, written=0):
        """What had not passed when time was lost has `span` from when it was found again."""
        for lost_from, lost_to in self.step.stalls:
            if instant > lost_from and written < lost_to:
                instant = max(instant, lost_to + span)
        return instant

    def deadline(self, tenure):
        return self.extended(tenure.due, tenure.ttl, tenure.beat)

    def overdue(self, tenure):
        return tenure.state in HELD and self.deadline(tenure) <= self.now

    def held(self, tasks):
        return sum(self.tasks[task].state in HELD for task in tasks)

    def notice(self, task):
        """Whoever first meets a deadline that has passed writes it down."""
        tenure = self.tasks[task]
        if self.overdue(tenure):
            tenure.due = tenure.ended = self.deadline(tenure)
            tenure.state, tenure.lapses = "lapsed", tenure.lapses + 1
            loss = Loss(task, tenure.fence, "lapsed", open=True)
            self.losses.setdefault(tenure.owner, {})[task] = loss
            self.tell("lapsed", task, tenure.owner)

    def grant(self, task, ttl, label, note):
        before, self.fence = self.tasks.get(task), self.new_fence(task)
        due = self.now + min(ttl, self.rules.max_hold_ms)
        new = Tenure(self.me, self.fence, ttl, due, self.now, self.now, label, note)
        if before:
            new.grants, new.lapses = before.grants + 1, before.lapses
            new.previous, before.previous, new.queue = before, None, before.queue
            if before.state == "lapsed":
                del self.losses[before.owner][task]
                if before.owner != self.me:
                    loss = Loss(task, before.fence, "lapsed", label, note)
                    self.losses[before.owner][task] = loss
        self.tasks[task] = new
        self.drop_ticket(new, self.me)
        self.tell("claimed", task, self.me)

    def new_fence(self, task):
        fence = self.step.fences[task]
        assert fence > self.fence, f"fence {fence} of {task!r} is not above {self.fence}"
        return fence

    def keep(self, task, ttl, state="held", resume=False, label="", note=""):
        tenure = self.tasks[task]
        was, due = tenure.state, self.deadline(tenure)
        if ttl and state == "held":
            tenure.ttl = ttl
        span = tenure.ttl if state == "held" else ttl or self.rules.park_ms
        if resume:  # the one way to a sooner deadline
            due = min(due, self.now + span)
        tenure.due = max(due, min(self.now + span, tenure.since + self.rules.max_hold_ms))
        tenure.state, tenure.beat = state, self.now
        tenure.label, tenure.note = label or tenure.label, note or tenure.note
        if was == "lapsed":
            tenure.ended = 0
            del self.losses[self.me][task]
            self.tell("revived", task, self.me)
        if state == "parked" and was != "parked":
            self.tell("parked", task, self.me)
        if state == "held" and was == "parked":
            self.tell("resumed", task, self.me)

    def end(self, task, outcome, note, reason=""):
        self.notice(task)
        tenure = self.tasks[task]
        tenure.state, tenure.ended, tenure.reason = outcome, self.now, reason
        tenure.note = note or tenure.note
        self.losses.get(tenure.owner, {}).pop(task, None)
        self.tell(outcome, task, tenure.owner)
        return task, seen.state(self, task), False

    def waits(self, ticket):
        return self.extended(ticket.until, self.rules.ticket_ms) > self.now

    def drop_ticket(self, tenure, session):
        left = [ticket for ticket in tenure.queue if ticket.session != session]
        tenure.queue = left if any(map(self.waits, left)) else []

    def tell(self, kind, task, session):
        self.events.append((kind, task, session, self.tasks[task].fence))
