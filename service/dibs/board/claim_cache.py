"""A process's view of one project's claims, read at little cost to the store and to other callers.

All viewers share one reading of the project, which is made in small parts, so that no claim waits
behind a long one. Changes in between are read as they happen, task by task.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from dibs.acts import list_
from dibs.board import relative_time, rows, summary
from dibs.board.board_query import BoardQuery
from dibs.board.relative_time import Html
from dibs.board.rows import Row
from dibs.board.summary import RowCounts
from dibs.claims import Claims
from dibs.model import Event, Hold, Project, Task
from dibs.results import Page
from dibs.store import board_tasks
from dibs.store.board_tasks import BoardTask, BoardTasks
from dibs.store.counts import Pulse
from dibs.store.events import CursorExpired, is_later
from dibs.store.store import Store

ROWS, DONE, RECENT = 2_000, 50, 40
"""As many claims that are not done, claims that are, and events a board knows of: of those that are
done, all of the last day besides, as far as they are read at once."""
PART = 200
"""Tasks that are read at once, and so the longest that a board holds up another call. It knows so
many of each kind of those that nobody has."""
AT_ONCE = 25
"""Tasks that are looked at by one script when something happened to them."""
SPREAD = 200
"""Of a larger project, so many claims a second are read again at most."""
TOUCHED = 100
"""More tasks than this in one change are read as one list."""
EVENTS = 500
"""More events than this since the last time are too many to go by."""
_TOLD = 100
"""Events that are kept for pages that nobody looked at meanwhile."""
_LIVE = ("held", "parked", "review", "lapsed")


class Readings:
    """Readings of whole projects. What is more than one part of them is read in turn, with a pause
    as long as it took: half of a process's time at most, however many boards are asked for."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def read(self, store: Store, project: Project) -> "Reading":
        """Read a project. Raises StoreDown."""
        page = await self._part(store, project, "")
        found = Reading(page.seq)
        found.take(map(BoardTask, page.claims))
        seen = await board_tasks.look(store, project)
        found.hold, found.many = seen.hold, seen.sizes
        if page.cursor is None and sum(found.many.values()) <= PART:
            await self._rest(store, project, None, found)
            return found
        await self._turn.acquire()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            await self._rest(store, project, page.cursor, found)
        finally:
            loop.call_later(loop.time() - began_s, self._turn.release)
        return found

    async def _rest(
        self, store: Store, project: Project, cursor: str | None, found: "Reading"
    ) -> None:
        while cursor and len(found.rows) < ROWS:
            page = await self._part(store, project, cursor)
            found.take(map(BoardTask, page.claims))
            cursor = page.cursor
        found.cut = len(found.rows) if cursor else 0
        for kind in [kind for kind, many in found.many.items() if many]:
            seen = await board_tasks.look(store, project, kind=kind, most=PART)
            found.take(seen.tasks)
            found.many[kind] = seen.many

    async def _part(self, store: Store, project: Project, cursor: str) -> Page:
        return await list_.page(store, project, states=_LIVE, limit=PART, told=True, cursor=cursor)


class Reading:
    """What there is of a project, but for what is done."""

    def __init__(self, seq: str) -> None:
        self.seq = seq
        """The id of the last event before."""
        self.rows: dict[Task, Row] = {}
        self.cut = 0
        """How many claims are there, where there are more than a board shows; else 0."""
        self.hold: Hold | None = None
        self.many: dict[str, int] = {}
        """How many tasks there are of each kind of those that nobody has."""

    def take(self, tasks: Iterable[BoardTask]) -> None:
        """Add tasks; of one that is there already this is newer."""
        for seen in tasks:
            if one := rows.row(seen):
                self.rows[one.task] = one


class ClaimCache:
    """One project."""

    def __init__(self, claims: Claims, project: Project, readings: Readings) -> None:
        self.project = project
        self._store = claims.store
        self._readings = readings
        self.rows: dict[Task, Row] = {}
        self.pulse = Pulse(0, 0, 0)
        self.counts: RowCounts = summary.count((), self.pulse, {})
        self.recent: deque[Event] = deque(maxlen=_TOLD)
        """The last events, the newest first."""
        self.hold: Hold | None = None
        """A person keeps the whole project back."""
        self.beyond: dict[str, int] = {}
        """How many tasks of a kind there are beyond those that are shown."""
        self._edge: dict[str, int] = {}
        """The rank of the last one shown of a kind, where there are more."""
        self._happenings: dict[tuple[str, int], Html] = {}
        self.cut = 0
        """How many claims are shown, when there are more; else 0."""
        self._seq = ""
        """The last event that the rows tell of; '' before the first reading."""
        self._whole_s = 0.0
        self._clock_s = 0.0
        self._orders: dict[BoardQuery, list[Row]] = {}

    @property
    def now_ms(self) -> int:
        """The store's time."""
        passed_s = asyncio.get_running_loop().time() - self._clock_s
        return self.pulse.now_ms + int(passed_s * 1000)

    async def read(self, *, whole: bool = False) -> None:
        """Learn how things are now. Raises StoreDown.

        A large project is not read again as often as somebody asks, unless `whole` says so: what
        happened since is enough, and deadlines that heartbeats moved are a few seconds old.
        """
        age_s = asyncio.get_running_loop().time() - self._whole_s
        well = self._seq and len(self.rows) > PART and age_s < len(self.rows) / SPREAD
        if whole or not well or not await self._catch_up():
            await self._read_all()

    async def touch(self, events: Sequence[Event]) -> None:
        """Read the tasks that something happened to. Raises StoreDown."""
        fresh = [event for event in events if is_later(event.id, self._seq)]
        tasks = list(dict.fromkeys(event.task for event in fresh))
        if len(tasks) > TOUCHED:
            await self._read_all()
        elif fresh:
            await self._look_at(tasks)
            self._happened(fresh)
            self._seq = fresh[-1].id
            self._count()

    async def _read_all(self) -> None:
        store = self._store
        found = await self._readings.read(store, self.project)
        done, events, pulse = await asyncio.gather(
            list_.page(store, self.project, states=("done",), limit=PART, told=True),
            store.events.latest(self.project, RECENT),
            store.pulse(self.project),
        )
        self._know(pulse)
        found.take(map(BoardTask, done.claims))
        for task in [task for task in self.rows if task not in found.rows]:
            del self.rows[task]
        self.cut, self.hold, self._edge, seq = found.cut, found.hold, {}, found.seq
        self._take(found.rows.values())
        self._bound(found.many)
        self._happened(list(reversed(events)))
        self._seq, self._whole_s = seq, asyncio.get_running_loop().time()
        # What was read in parts is not of one moment.
        if events and is_later(events[0].id, seq) and not await self._catch_up():
            self._seq = ""
        self._count()

    def _bound(self, many: Mapping[str, int]) -> None:
        """Take note of how many there are beyond what is shown."""
        for kind in many:
            firsts = [one.first for one in self.rows.values() if one.kind == kind]
            self.beyond[kind] = max(0, many[kind] - len(firsts))
            if self.beyond[kind] and firsts:
                self._edge[kind] = max(firsts)

    async def _catch_up(self) -> bool:
        """Read what happened since the last time; False when that is too much. Raises StoreDown."""
        try:
            events = await self._store.events.read(self.project, self._seq, EVENTS)
        except CursorExpired:
            return False
        tasks = list(dict.fromkeys(event.task for event in events))
        if len(events) == EVENTS or len(tasks) > TOUCHED:
            return False
        if events:
            await self._look_at(tasks)
            self._happened(events)
            self._seq = events[-1].id
            self._count()
        return True

    async def _look_at(self, tasks: Sequence[Task]) -> None:
        wanted = [*tasks, *self._needing(set(tasks))]
        parts = [wanted[at : at + AT_ONCE] for at in range(0, len(wanted), AT_ONCE)]
        looks = await asyncio.gather(*map(self._glance, parts))
        self._know(await self._store.pulse(self.project))
        self.hold = looks[-1].hold
        seen = [rows.row(one) for look in looks for one in look.tasks]
        found = {row.task: row for row in seen if row}
        for task in wanted:
            row = found.get(task)
            if row is None or row.first > self._edge.get(row.kind, row.first):
                self.rows.pop(task, None)
                found.pop(task, None)
        self._take(found.values())

    def _needing(self, tasks: set[Task]) -> list[Task]:
        """Return those that say that they wait for one of `tasks`."""
        waiting = (one for one in self.rows.values() if one.needs and one.task not in tasks)
        return [one.task for one in waiting if not tasks.isdisjoint(need for need, _ in one.needs)]

    async def _glance(self, tasks: Sequence[Task]) -> BoardTasks:
        return await board_tasks.look(self._store, self.project, tasks)

    def _know(self, pulse: Pulse) -> None:
        self.pulse, self._clock_s = pulse, asyncio.get_running_loop().time()

    def _take(self, found: Iterable[Row]) -> None:
        """Take rows over; one stays the same object while nothing of it changes."""
        for new in found:
            old = self.rows.get(new.task)
            same = old and old.same_but_clocks(new)
            if not old or not same or rows.clocks(old) != rows.clocks(new):
                self.rows[new.task] = new
        self._trim()

    def _trim(self) -> None:
        """Keep the first rows of each kind of which there may be very many."""
        day_ago = self.pulse.now_ms - summary.DAY_MS
        found: dict[str, list[Row]] = {kind: [] for kind in ("done", *board_tasks.KINDS)}
        for one in self.rows.values():
            if one.kind in found:
                found[one.kind].append(one)
        today = sum(-one.first > day_ago for one in found["done"])
        for kind, there in found.items():
            most = min(PART, max(DONE, today)) if kind == "done" else PART
            if len(there) <= most:
                continue
            there.sort(key=attrgetter("first"))
            for one in there[most:]:
                del self.rows[one.task]
            self._edge[kind] = there[most - 1].first
            self.beyond[kind] = self.beyond.get(kind, 0) + len(there) - most

    def _happened(self, events: Sequence[Event]) -> None:
        """Take note of the events (oldest first) that are not known yet."""
        last = self.last_event()
        self.recent.extendleft(event for event in events if is_later(event.id, last))

    def _count(self) -> None:
        self._orders.clear()
        idle = {kind: self.beyond.get(kind, 0) for kind in board_tasks.KINDS}
        self.counts = summary.count(self.rows.values(), self.pulse, idle)

    def ordered(self, look: BoardQuery) -> list[Row]:
        """Return the rows that `look` wants, in its order."""
        found = self._orders.get(look)
        if found is None:
            wanted = [row for row in self.rows.values() if look.wants(row)]
            wanted.sort(key=lambda row: (row.place, look.order(row)))
            found = self._orders[look] = wanted
        return found

    def holders(self, page: Sequence[Row]) -> frozenset[str]:
        """Return whom one can ask for: all who have or had a claim, of many those on the page."""
        shown = self.rows.values() if len(self.rows) <= PART else page
        return frozenset(row.who for row in shown)

    def since(self, event_id: str) -> list[Event]:
        """Return the events after `event_id`, the newest first."""
        return [event for event in self.recent if is_later(event.id, event_id)]

    def last_event(self) -> str:
        """Return the id of the last event, '' when there is none."""
        return self.recent[0].id if self.recent else ""

    def paint(self, events: Sequence[Event]) -> list[str]:
        """Return events as elements, the newest first."""
        now, kept, lines = self.now_ms, self._happenings, summary.grouped(events[:RECENT])
        if len(kept) > 4 * RECENT:
            kept.clear()
        for event, more in lines:
            if (event.id, more) not in kept:
                kept[event.id, more] = summary.happening(self.project, event, more)
        return [relative_time.fill(kept[event.id, more], now) for event, more in lines]
