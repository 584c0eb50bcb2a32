"""The queue of a task in the model: tickets that expire, each with a hand-over window."""

from tests.proofs.lists import Lists
from tests.proofs.records import ModelTenure, Ticket

QUEUED = ("held", "cooling", "reserved")
"""The refusals after which a session can wait in the task's queue."""


class Queues(Lists):
    """Tickets, in the order in which they joined."""

    def waiting(self, tenure: ModelTenure) -> list[Ticket]:
        return list(filter(self.waits, tenure.queue))

    def turn(self, task: str, free_from: int) -> tuple[Ticket, int] | tuple[None, None]:
        """Return the ticket whose hand-over window is open, and its end. Windows follow one
        another; in each only its session may claim."""
        tenure = self.tasks[task]
        opens = max(free_from, tenure.turns_from)
        while tenure.queue:
            ticket = tenure.queue[0]
            until = self.extended(ticket.until, self.rules.ticket_ms)
            begins, window = max(opens, ticket.joined), self.rules.handover_ms
            if until - self.rules.ticket_ms + self.rules.fresh_ms < begins:
                window = min(window, self.rules.stale_ms)
            closes = min(begins + window, until)
            if self.now < closes:
                return ticket, closes
            tenure.queue.pop(0)
            self.tell("unqueued", task, ticket.session)
            opens = tenure.turns_from = max(opens, closes)
        return None, None

    def has_room(self, task: str) -> bool:
        """Return whether the session has a place in the queue, or would get one."""
        waiting = self.waiting(self.tasks[task])
        mine = any(ticket.session == self.me for ticket in waiting)
        return mine or len(waiting) < self.rules.tickets_per_task

    def enqueue(self, task: str, label: str) -> None:
        """Give the session a place at the end, or renew the one that it has."""
        tenure = self.tasks[task]
        mine = [ticket for ticket in self.waiting(tenure) if ticket.session == self.me]
        if not mine:
            mine = [Ticket(self.me, label, joined=self.now, until=0)]
            tenure.queue = [t for t in tenure.queue if t.session != self.me] + mine
            self.tell("queued", task, self.me)
        mine[0].label, mine[0].until = label, self.now + self.rules.ticket_ms

    def has_ticket(self, task: str) -> bool:
        """Return whether the session has a ticket, expired or not."""
        tenure = self.tasks.get(task)
        return bool(tenure) and any(ticket.session == self.me for ticket in tenure.queue)

    def leave_queue(self, task: str) -> bool:
        tenure = self.tasks.get(task)
        waiting = self.waiting(tenure) if tenure else []
        mine = [ticket for ticket in waiting if ticket.session == self.me]
        if mine:
            if waiting[:1] == mine:  # the next ticket's window starts now
                tenure.turns_from = self.now
            self.tell("unqueued", task, self.me)
            tenure.queue.remove(mine[0])
            if waiting == mine:
                self.drop_lapsed(task)
        return bool(mine)
