"""The team's list in the model: which tasks are ready, and which is next."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.proofs.records import HELD, ModelTenure
from tests.proofs.tenures import Tenures

from dibs.store import Rules

T = TypeVar("T")

IDLE = (None, "lapsed", "released", "abandoned", "broken", "rejected", "retried")


@dataclass(frozen=True)
class ModelEntry:
    """A listed task."""

    order: int
    title: str = ""
    priority: int = 2
    needs: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    attempts: int = 0
    """0: the default of the rules."""
    dropped: bool = False

    def merged(self, given: dict[str, Any]) -> "ModelEntry":
        """Return the entry updated with the given fields, and listed again if it was dropped."""
        names = ("title", "priority", "needs", "tags", "attempts")
        kept = {name: getattr(self, name) for name in names}
        return ModelEntry(self.order, **(kept | given))


class Lists(Tenures):
    """The list, by task. Needs are evaluated on each use: the model keeps no counts."""

    def __init__(self, rules: Rules) -> None:
        self.entries: dict[str, ModelEntry] = {}
        self.written = 0
        super().__init__(rules)

    def over(self, tenure: ModelTenure) -> bool:
        """Return whether a tenure is forgotten; a listed task, or one on hold, keeps its tenure."""
        kept = {*self.entries, *self.holds} & set(self.tasks)
        return not any(tenure is self.tasks[task] for task in kept) and super().over(tenure)

    def is_listed(self, task: str) -> bool:
        return task in self.entries

    def most_attempts(self, task: str) -> int:
        entry = self.entries.get(task)
        return entry.attempts if entry and entry.attempts else self.rules.max_attempts

    def is_done(self, task: str) -> bool:
        tenure = self.tasks.get(task)
        return bool(tenure) and tenure.state == "done"

    def missing(self, task: str) -> list[str]:
        entry = self.entries.get(task)
        return [need for need in entry.needs if not self.is_done(need)] if entry else []

    def is_blocked(self, task: str) -> bool:
        """Return whether a need of the task is not done; a dropped task needs nothing."""
        entry = self.entries.get(task)
        return bool(entry) and not entry.dropped and bool(self.missing(task))

    def standing(self, task: str) -> str | None:
        """Return "ready" or "blocked" for a listed task that nobody holds, else None. Callers
        check the other obstacles first."""
        entry, tenure = self.entries.get(task), self.tasks.get(task)
        state = tenure.state if tenure else None
        if tenure and self.overdue(tenure):
            state = "lapsed"
        if not entry or entry.dropped or state not in IDLE:
            return None
        return "blocked" if self.missing(task) else "ready"

    def in_index(self, task: str) -> str | None:
        """Return the index of a task that nobody holds: "ready", "blocked" or "failed"."""
        tenure = self.tasks.get(task)
        if task in self.holds or (tenure.state if tenure else None) not in IDLE:
            return None
        return "failed" if self.used_up(task) else self.standing(task)

    def in_order(self, index: str) -> list[str]:
        found = [task for task in self.entries if self.in_index(task) == index]
        return sorted(
            found, key=lambda task: (self.entries[task].priority, self.entries[task].order)
        )

    def noted(self, change: Callable[[], T]) -> T:
        """Make a change, and emit an event for each task that it made ready or blocked."""
        before = {task: bool(self.missing(task)) for task in self.entries}
        result = change()
        for task, was_missing in before.items():
            now = self.in_index(task)
            if bool(self.missing(task)) != was_missing and now in ("ready", "blocked"):
                self.events.append((now, task, "", 0))
        return result

    def circle(
        self, start: str, needs: Callable[[str], tuple[str, ...]], known: set[str]
    ) -> list[str] | None:
        """Return a path of needs from `start` that contains a circle, or None."""
        path: list[str] = []

        def walk(task: str) -> list[str] | None:
            path.append(task)
            for need in needs(task):
                if need in path:
                    return path[path.index(need) :]
                if need not in known and (found := walk(need)):
                    return found
            known.add(path.pop())
            return None

        return walk(start)

    def tasks_(self, entries: Sequence[dict[str, Any]], dry: bool) -> tuple[str, Any]:
        given = {entry["task"]: entry for entry in entries}

        def is_dropped(task: str) -> bool:
            return task in self.entries and self.entries[task].dropped

        def needs(task: str) -> tuple[str, ...]:
            entry, kept = given.get(task), self.entries.get(task)
            if (entry.get("drop") if entry else is_dropped(task)) or not (entry or kept):
                return ()
            return tuple((entry or {}).get("needs", kept.needs if kept else ()))

        known: set[str] = set()
        for entry in entries:
            adds = "needs" in entry or is_dropped(entry["task"])
            if adds and not entry.get("drop") and entry["task"] not in known:
                found = self.circle(entry["task"], needs, known)
                if found:
                    return "cycle", found
        plan = self.noted(lambda: [self.planned(entry) for entry in entries])
        changes = [what for _, _, what in plan]
        if self.step.full and not dry and {"created", "updated"} & set(changes):
            return "full", None
        if not dry and set(changes) - {"unchanged"}:
            self.epoch = self.epoch or self.now * 1000 + self.step.lost_us
        if not dry:
            changed = [(task, new, what) for task, new, what in plan if new and what != "unchanged"]
            needed = [need for _, new, _ in changed for need in new.needs]
            self.noted(lambda: [self.meet(need) for need in needed])
            self.noted(lambda: self.write_all(changed))
        return "listed", changes

    def planned(self, given: dict[str, Any]) -> tuple[str, ModelEntry | None, str]:
        task, old = given["task"], self.entries.get(given["task"])
        self.meet(task)
        if given.get("drop"):
            if not old or old.dropped:
                return task, old, "unchanged"
            return task, dataclasses.replace(old, dropped=True), "dropped"
        named = {name: value for name, value in given.items() if name != "task"}
        new = (old or ModelEntry(0)).merged(named)
        return task, new, "created" if not old else "unchanged" if new == old else "updated"

    def write_all(self, changed: Sequence[tuple[str, ModelEntry, str]]) -> None:
        for each in changed:
            self.write(*each)

    def write(self, task: str, entry: ModelEntry, what: str) -> None:
        if what == "created":
            self.written += 1
            entry = dataclasses.replace(entry, order=self.written)
        self.entries[task] = entry
        kind = {"created": "listed", "dropped": "dropped"}.get(what, "changed")
        self.events.append((kind, task, "", 0))

    def look_at_hold(self, task: str) -> None:
        """End a task's hold that is past its end, as any act on the task does."""
        if task and task in self.holds and not self.on_hold(task):
            self.let_go(task)

    def let_go(self, task: str) -> None:
        tenure = self.tasks.get(task)
        del self.holds[task]
        told = (tenure.owner, tenure.fence) if tenure else ("", 0)
        self.events.append(("off-hold", task, *told))
        self.meet(task)

    def verdict(self, task: str, reopen: bool) -> tuple[str, int | None]:
        """See Model."""
        raise NotImplementedError

    def next(self, reopen: bool) -> tuple[str | None, list[int]]:
        """Return the session's own held task, else the first ready task that it may claim."""
        live = [task for task in self.tasks if self.tasks[task].state in HELD]
        mine = [task for task in live if self.tasks[task].owner == self.me]
        for task in mine:
            self.notice(task)
        works = [t for t in mine if t in self.tasks and self.tasks[t].state == "held"]
        if works:
            return min(works, key=lambda task: self.tasks[task].fence), []
        for task in live:
            self.notice(task)
        for task in list(self.holds):
            self.look_at_hold(task)
        soonest: list[int] = []
        for task in self.in_order("ready"):
            verdict, until = self.verdict(task, reopen)
            if verdict in ("free", "mine"):
                return task, []
            soonest += [until] if until else []
        return None, soonest

    def nothing(self, soonest: list[int]) -> tuple[str, Any]:
        live = [tenure for tenure in self.tasks.values() if tenure.state in HELD]
        parked = sum(tenure.state == "parked" for tenure in live)
        review = sum(tenure.state == "review" for tenure in live)
        if not soonest and live:
            soonest = [min(tenure.due for tenure in live) + self.rules.grace_ms]
        wait = max(1, -(-(min(soonest) - self.now) // 1000)) if soonest else None
        blocked, ready = len(self.in_order("blocked")), len(self.in_order("ready"))
        on_hold = len([task for task in self.holds if task])
        counts = (
            len(live) - parked - review,
            parked,
            review,
            blocked,
            on_hold,
            len(self.failed()),
            ready,
        )
        return "nothing", (*counts, wait)

    def failed(self) -> list[str]:
        """Return the failed tasks, listed or not."""
        return [task for task in self.tasks if self.in_index(task) == "failed"]
