"""The contract as one sequential program: what each act answers, given when it happened.

No store, no network, no clock. Instants and spans are milliseconds of lease time.
"""

from tests.proofs import seen
from tests.proofs.records import GIVEN_UP, HELD, Loss, Step, Tenure, Ticket


class Model:
    """One project: the latest tenure of each task, and what each session has lost."""

    def __init__(self, rules):
        self.rules, self.tasks, self.losses, self.fence, self.events = rules, {}, {}, 0, []

        self.look(Step("show", {}, 0))

    def look(self, step: Step):
        self.step, self.now, self.me = step, step.now, step.session

    def run(self, step: Step):
        """Return (answer, facts, lost). Whatever a session posts, it hears once what it lost."""
        self.look(step)
        lost = []
        for _, loss in sorted(self.losses.get(self.me, {}).items()):
            if step.act != "show" and not loss.open and loss.told in (None, step.request):
                loss.told = step.request
                lost.append(loss)
        answer, facts = getattr(self, step.act)(**step.args)
        return answer, facts, [seen.loss(loss) for loss in lost]

    # What a session may ask for

    def claim(self, tasks, mode, ttl, reopen, queue, label, note):
        free, mine, refused = [], [], []
        for task in tasks:
            verdict, until = self.verdict(task, reopen)
            if verdict in ("free", "mine"):
                (free if verdict == "free" else mine).append(task)
            else:
                refused.append((task, verdict, until))
            if mode == "any" and verdict == "mine":
                break
        if mode == "any":  # what the session has already, else the first that is free
            free = [] if mine else free[:1]
        refuse = bool(refused) and (mode == "all" or not free + mine)
        if self.step.full and (queue if refuse else free):
            return "full", None
        if refuse:
            if queue and not all(
                self.enqueue(task, verdict, label) for task, verdict, _ in refused
            ):
                return "quota", "queue"
            return "refused", [seen.refusal(self, *each) for each in refused]
        if free and (whose := self.over_quota(len(free))):
            return "quota", whose
        for task in free:
            self.grant(task, ttl or self.rules.ttl_ms, label, note)
        for task in mine:
            self.keep(task, ttl, label=label, note=note)
        return "granted", (len(free), [seen.task(self, task) for task in free + mine])

    def heartbeat(self, task, fence, ttl, state, note):
        kept = [each for each in sorted(self.tasks) if task in (None, each) and self.mine(each)]
        if task and not (kept and fence in (None, self.tasks[task].fence)):
            return self.not_mine(task, moved=bool(kept))
        for each in kept:
            word = "parked" if state == "parked" else "held"
            self.keep(each, ttl, word, resume=state == "working", note=note)
        return "kept", [seen.task(self, each) for each in kept]

    def release(self, task, fence, outcome, note):
        ours = [each for each in sorted(self.tasks) if task in (None, each) and self.ours(each)]
        if not task or (ours and fence in (None, self.tasks[task].fence)):
            return "ended", [self.end(each, outcome, note) for each in ours]
        already = self.gave_up(task, fence)
        if not ours and not (already and fence) and self.leave_queue(task):
            return "ended", [(task, seen.state(self, task), False)]
        if already:
            return "ended", [(task, seen.state(self, task), True)]
        return self.not_mine(task, moved=bool(ours))

    def break_(self, task, fence, reason, by):
        tenure = self.tasks.get(task)
        if not tenure or tenure.fence != fence or tenure.state in GIVEN_UP:
            return "moved", seen.task(self, task)
        if tenure.state == "broken":
            return "ended", [(task, "free", True)]
        ended = self.end(task, "broken", "", reason)
        self.losses.setdefault(tenure.owner, {})[task] = Loss(task, fence, "broken", by, reason)
        return "ended", [ended]

    def show(self, task):
        return "shown", seen.task(self, task)

    def sweep(self):
        for task in sorted(self.tasks):
            self.notice(task)
        return "swept", None

    # Time

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

    def notice(self, task):
        """Whoever first meets a deadline that has passed writes it down."""
        tenure = self.tasks[task]
        if self.overdue(tenure):
            tenure.due = tenure.ended = self.deadline(tenure)
            tenure.state, tenure.lapses = "lapsed", tenure.lapses + 1
            loss = Loss(task, tenure.fence, "lapsed", open=True)
            self.losses.setdefault(tenure.owner, {})[task] = loss
            self.tell("lapsed", task, tenure.owner)

    # Whose a task is

    def ours(self, task):
        tenure = self.tasks[task]
        return tenure.owner == self.me and tenure.state in (*HELD, "lapsed")

    def mine(self, task):
        """Held by me; or lapsed, and nobody took it, and I may go on."""
        if not self.ours(task):
            return False
        self.notice(task)
        tenure = self.tasks[task]
        return tenure.state in HELD or tenure.since + self.rules.max_hold_ms > self.now

    def verdict(self, task, reopen):
        """What stands between me and a task, and until when."""
        tenure = self.tasks.get(task)
        if not tenure:
            return "free", None
        self.notice(task)
        if self.mine(task):
            return "mine", None
        free_from = tenure.ended
        if tenure.state in (*HELD, "lapsed"):
            free_from = self.deadline(tenure) + self.rules.grace_ms
        if tenure.state in HELD:
            return "held", free_from
        if tenure.state == "done" and not reopen:
            return "done", None
        if self.now < free_from:
            return "cooling", free_from
        ticket, closes = self.turn(task, free_from)
        return ("turn", closes) if ticket and ticket.session != self.me else ("free", None)

    def gave_up(self, task, fence):
        """I ended the tenure that `fence` names myself: the latest, or the one before it."""
        latest = self.tasks.get(task)
        named = [latest] if latest and fence in (None, latest.fence) else []
        if latest and latest.previous and fence == latest.previous.fence:
            named.append(latest.previous)
        return any(each.owner == self.me and each.state in GIVEN_UP for each in named)

    def not_mine(self, task, moved):
        loss = None if moved else self.losses.get(self.me, {}).get(task)
        why = "moved" if moved else "lost" if loss else "not-holder"
        return "not-mine", (why, seen.task(self, task), loss and seen.loss(loss))

    def over_quota(self, wanted):
        rules = self.rules
        for whose, limit in (
            ("session", rules.claims_per_session),
            ("project", rules.claims_per_project),
        ):
            tasks = [
                n for n, t in sorted(self.tasks.items()) if whose == "project" or t.owner == self.me
            ]
            held = [task for task in tasks if self.tasks[task].state in HELD]
            if len(held) + wanted > limit:
                for task in held:
                    self.notice(task)
                held = [task for task in held if self.tasks[task].state in HELD]
            if len(held) + wanted > limit:
                return whose
        return None

    # A tenure from its start to its end

    def grant(self, task, ttl, label, note):
        before, self.fence = self.tasks.get(task), self.new_fence(task)
        new = Tenure(
            self.me,
            self.fence,
            ttl,
            self.now + min(ttl, self.rules.max_hold_ms),
            self.now,
            self.now,
            label,
            note,
        )
        if before:
            new.grants, new.lapses = before.grants + 1, before.lapses
            new.previous, before.previous, new.queue = before, None, before.queue
            if before.state == "lapsed":
                del self.losses[before.owner][task]
                if before.owner != self.me:
                    loss = Loss(task, before.fence, "lapsed", label, note)
                    self.losses[before.owner][task] = loss
        self.tasks[task] = new
        self.drop_ticket(new)
        self.tell("claimed", task, self.me)

    def new_fence(self, task):
        fence = self.step.fences[task]
        assert fence > self.fence, (
            f"fence {fence} of {task!r} does not grow: {self.fence} was before"
        )
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

    def tell(self, kind, task, session):
        self.events.append((kind, task, session, self.tasks[task].fence))

    # The queue

    def waiting(self, tenure):
        ticket_ms = self.rules.ticket_ms
        return [t for t in tenure.queue if self.extended(t.until, ticket_ms) > self.now]

    def turn(self, task, free_from):
        """Each ticket has a window of its own in which only its session may claim, in order."""
        tenure = self.tasks[task]
        opens = max(free_from, tenure.turns_from)
        while tenure.queue:
            ticket = tenure.queue[0]
            until = self.extended(ticket.until, self.rules.ticket_ms)
            closes = min(max(opens, ticket.joined) + self.rules.handover_ms, until)
            if self.now < closes:
                return ticket, closes
            tenure.queue.pop(0)
            self.tell("unqueued", task, ticket.session)
            opens = tenure.turns_from = max(opens, closes)
        return None, None

    def enqueue(self, task, verdict, label):
        """Take a place at the end, or keep the one that I have. False: the queue is full."""
        tenure = self.tasks[task]
        waiting = self.waiting(tenure)
        mine = [ticket for ticket in waiting if ticket.session == self.me]
        if verdict == "done" or (not mine and len(waiting) >= self.rules.tickets_per_task):
            return verdict == "done"
        if not mine:
            mine = [Ticket(self.me, label, joined=self.now, until=0)]
            tenure.queue = [t for t in tenure.queue if t.session != self.me] + mine
            self.tell("queued", task, self.me)
        mine[0].label, mine[0].until = label, self.now + self.rules.ticket_ms
        return True

    def leave_queue(self, task):
        tenure = self.tasks.get(task)
        mine = [ticket for ticket in tenure.queue if ticket.session == self.me] if tenure else []
        if mine:
            if self.waiting(tenure)[:1] == mine:  # the next one's window starts now
                tenure.turns_from = self.now
            self.tell("unqueued", task, self.me)
            self.drop_ticket(tenure)
        return bool(mine)

    def drop_ticket(self, tenure):
        tenure.queue = [ticket for ticket in tenure.queue if ticket.session != self.me]
        tenure.queue = tenure.queue if self.waiting(tenure) else []
