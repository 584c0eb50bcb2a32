"""A process's view of one project's claims, read at little cost to the store and to other callers.

All viewers share one read of the project, made in small parts, so that no claim waits behind a long
one. Changes between two reads are read as they happen, task by task.
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
"""Limits of a board: claims that are not done, done claims, recent events. Done claims of the last
day are kept beyond DONE, up to PART, the number read at once."""
PART = 200
"""Tasks read at once, which bounds how long a board delays another call. A board keeps the same
number of tasks of each kind that nobody holds."""
AT_ONCE = 25
"""Changed tasks that one script reads."""
SPREAD = 200
"""Claims per second that re-reads of a project with more than PART rows may cost."""
TOUCHED = 100
"""Changed tasks above which the whole project is read instead."""
EVENTS = 500
"""Events since the last read from which on the whole project is read instead."""
_TOLD = 100
"""Recent events kept for pages without viewers."""
_LIVE = ("held", "parked", "review", "lapsed")


class Readings:
    """Reads of whole projects. Projects of more than one part are read one at a time, each followed
    by a pause as long as the read: they take at most half of a process's time, however many boards
    are requested."""

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
    """The tasks of a project that are not done."""

    def __init__(self, seq: str) -> None:
        self.seq = seq
        """The id of the last event before the read."""
        self.rows: dict[Task, Row] = {}
        self.cut = 0
        """The number of claims read, if there are more than a board shows; else 0."""
        self.hold: Hold | None = None
        self.many: dict[str, int] = {}
        """The number of tasks of each kind that nobody holds."""

    def take(self, tasks: Iterable[BoardTask]) -> None:
        """Add tasks, replacing older states of the same ones."""
        for seen in tasks:
            if one := rows.row(seen):
                self.rows[one.task] = one


class ClaimCache:
    """The cached rows, counts and events of one project."""

    def __init__(self, claims: Claims, project: Project, readings: Readings) -> None:
        self.project = project
        self._store = claims.store
        self._readings = readings
        self.rows: dict[Task, Row] = {}
        self.pulse = Pulse(0, 0, 0)
        self.counts: RowCounts = summary.count((), self.pulse, {})
        self.recent: deque[Event] = deque(maxlen=_TOLD)
        """The last events, newest first."""
        self.hold: Hold | None = None
        """The hold on the whole project."""
        self.beyond: dict[str, int] = {}
        """The number of tasks of each kind beyond those shown."""
        self._edge: dict[str, int] = {}
        """The sort key (`Row.first`) of the last task shown of each kind that has more."""
        self._happenings: dict[tuple[str, int], Html] = {}
        self.cut = 0
        """The number of claims shown, if there are more; else 0."""
        self._seq = ""
        """The id of the last event that the rows include; '' before the first read."""
        self._whole_s = 0.0
        self._clock_s = 0.0
        self._orders: dict[BoardQuery, list[Row]] = {}

    @property
    def now_ms(self) -> int:
        """The store's time."""
        passed_s = asyncio.get_running_loop().time() - self._clock_s
        return self.pulse.now_ms + int(passed_s * 1000)

    async def read(self, *, whole: bool = False) -> None:
        """Bring the cache up to date. Raises StoreDown.

        Without `whole`, a large project that was read recently is only updated by its events since
        then; deadlines that heartbeats moved may be a few seconds old.
        """
        age_s = asyncio.get_running_loop().time() - self._whole_s
        well = self._seq and len(self.rows) > PART and age_s < len(self.rows) / SPREAD
        if whole or not well or not await self._catch_up():
            await self._read_all()

    async def touch(self, events: Sequence[Event]) -> None:
        """Read the tasks of new events again. Raises StoreDown."""
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
        # A read in parts is not a snapshot of one moment.
        if events and is_later(events[0].id, seq) and not await self._catch_up():
            self._seq = ""
        self._count()

    def _bound(self, many: Mapping[str, int]) -> None:
        """Set `beyond` and `_edge` from the number of tasks of each kind."""
        for kind in many:
            firsts = [one.first for one in self.rows.values() if one.kind == kind]
            self.beyond[kind] = max(0, many[kind] - len(firsts))
            if self.beyond[kind] and firsts:
                self._edge[kind] = max(firsts)

    async def _catch_up(self) -> bool:
        """Apply the events since the last read; False if they are too many. Raises StoreDown."""
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
        """Return the shown tasks that need one of `tasks`."""
        waiting = (one for one in self.rows.values() if one.needs and one.task not in tasks)
        return [one.task for one in waiting if not tasks.isdisjoint(need for need, _ in one.needs)]

    async def _glance(self, tasks: Sequence[Task]) -> BoardTasks:
        return await board_tasks.look(self._store, self.project, tasks)

    def _know(self, pulse: Pulse) -> None:
        self.pulse, self._clock_s = pulse, asyncio.get_running_loop().time()

    def _take(self, found: Iterable[Row]) -> None:
        """Store rows; an unchanged row stays the same object."""
        for new in found:
            old = self.rows.get(new.task)
            same = old and old.same_but_clocks(new)
            if not old or not same or rows.clocks(old) != rows.clocks(new):
                self.rows[new.task] = new
        self._trim()

    def _trim(self) -> None:
        """Keep only the first rows of each kind that may have very many."""
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
        """Add the events (oldest first) that are not known yet."""
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
        """Return the holders to filter by: all current and last ones, or with many rows those on
        the page."""
        shown = self.rows.values() if len(self.rows) <= PART else page
        return frozenset(row.who for row in shown)

    def since(self, event_id: str) -> list[Event]:
        """Return the events after `event_id`, newest first."""
        return [event for event in self.recent if is_later(event.id, event_id)]

    def last_event(self) -> str:
        """Return the id of the last event, '' if there is none."""
        return self.recent[0].id if self.recent else ""

    def paint(self, events: Sequence[Event]) -> list[str]:
        """Return events as HTML elements, newest first."""
        now, kept, lines = self.now_ms, self._happenings, summary.grouped(events[:RECENT])
        if len(kept) > 4 * RECENT:
            kept.clear()
        for event, more in lines:
            if (event.id, more) not in kept:
                kept[event.id, more] = summary.happening(self.project, event, more)
        return [relative_time.fill(kept[event.id, more], now) for event, more in lines]
