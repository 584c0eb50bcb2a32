"""A process's view of one project's claims, read at little cost to the store and to other callers.

All viewers share one reading of the project, which is made in small parts, so that no claim waits
behind a long one. Changes in between are read as they happen, task by task.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from dibs.acts import list_, show
from dibs.board import relative_time, telling, views
from dibs.board.relative_time import Html
from dibs.board.views import Counts, Look, Row
from dibs.claims import Claims
from dibs.outcomes import Page
from dibs.store import Damaged
from dibs.store.counts import Pulse
from dibs.store.events import CursorExpired, stream_id
from dibs.store.store import Store
from dibs.words import Claim, Event, Free, Project, Task

ROWS, DONE, RECENT = 2_000, 50, 40
"""As many claims that are not done, claims that are, and events a board knows of."""
PART = 200
"""Claims that are read at once, and so the longest that a board holds up another call."""
SPREAD = 200
"""Of a larger project, so many claims a second are read again at most."""
TOUCHED = 100
"""More tasks than this in one change are read as one list."""
EVENTS = 500
"""More events than this since the last time are too many to go by."""
_TOLD = 100
"""Events that are kept for pages that nobody looked at meanwhile."""
_LIVE = ("held", "parked", "lapsed")


class Readings:
    """Readings of whole projects. What is more than one part of them is read in turn, with a pause
    as long as it took: half of a process's time at most, however many boards are asked for."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def read(self, store: Store, project: Project) -> tuple[list[Claim], str, bool]:
        """Return the claims that are not done, the id of the last event before, and if there are
        more claims than a board shows. Raises StoreDown."""
        page = await self._part(store, project, "")
        seq, claims = page.seq, {row.task: row for row in _kept(page)}
        if page.cursor:
            await self._turn.acquire()
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            try:
                while page.cursor and len(claims) < ROWS:
                    page = await self._part(store, project, page.cursor)
                    claims.update((claim.task, claim) for claim in _kept(page))
            finally:
                loop.call_later(loop.time() - began_s, self._turn.release)
        return list(claims.values())[:ROWS], seq, page.cursor is not None

    async def _part(self, store: Store, project: Project, cursor: str) -> Page:
        return await list_.page(store, project, states=_LIVE, limit=PART, cursor=cursor)


def _kept(page: Page) -> list[Claim]:
    return [views.row(claim).claim for claim in page.claims]


class Known:
    """One project."""

    def __init__(self, claims: Claims, project: Project, readings: Readings) -> None:
        self.project = project
        self._store = claims.store
        self._readings = readings
        self.rows: dict[Task, Row] = {}
        self.pulse = Pulse(0, 0, 0)
        self.counts: Counts = views.count((), self.pulse)
        self.recent: deque[tuple[Event, Html]] = deque(maxlen=_TOLD)
        """The last events, the newest first."""
        self.cut = 0
        """How many claims are shown, when there are more; else 0."""
        self._seq = ""
        """The last event that the rows tell of; '' before the first reading."""
        self._whole_s = 0.0
        self._clock_s = 0.0
        self._orders: dict[Look, list[Row]] = {}

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
        fresh = [event for event in events if newer(event.id, self._seq)]
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
        listed, seq, more = await self._readings.read(store, self.project)
        self.cut = len(listed) if more else 0
        done, events, pulse = await asyncio.gather(
            list_.page(store, self.project, states=("done",), limit=DONE),
            store.events.latest(self.project, RECENT),
            store.pulse(self.project),
        )
        self._know(pulse)
        claims = {claim.task: claim for claim in (*listed, *done.claims)}
        for task in [task for task in self.rows if task not in claims]:
            del self.rows[task]
        self._take(claims.values())
        self._happened(list(reversed(events)))
        self._seq, self._whole_s = seq, asyncio.get_running_loop().time()
        # What was read in parts is not of one moment.
        if events and newer(events[0].id, seq) and not await self._catch_up():
            self._seq = ""
        self._count()

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
        shown = await asyncio.gather(*map(self._show, tasks))
        self._know(await self._store.pulse(self.project))
        claims = {claim.task: claim for claim in shown if isinstance(claim, Claim)}
        for task in tasks:
            if task not in claims:
                self.rows.pop(task, None)
        self._take(claims.values())

    async def _show(self, task: Task) -> Claim | Free | None:
        """Return a task as it is now, None where nobody can read its record."""
        try:
            return await show.look(self._store, self.project, task)
        except Damaged:
            return None

    def _know(self, pulse: Pulse) -> None:
        self.pulse, self._clock_s = pulse, asyncio.get_running_loop().time()

    def _take(self, claims: Iterable[Claim]) -> None:
        """Take claims over; a row stays the same object while nothing of it changes."""
        for claim in claims:
            new = views.row(claim)
            old = self.rows.get(claim.task)
            same = old and old.same_but_clocks(new.claim)
            if not old or not same or views.clocks(old.claim) != views.clocks(claim):
                self.rows[claim.task] = new
        done = [one for one in self.rows.values() if one.kind == "done"]
        done.sort(key=lambda one: one.claim.ended_at or one.claim.expires_at, reverse=True)
        for one in done[DONE:]:
            del self.rows[one.claim.task]

    def _happened(self, events: Sequence[Event]) -> None:
        """Take note of the events (oldest first) that are not known yet."""
        last = self.recent[0][0].id if self.recent else ""
        fresh = [event for event in events if newer(event.id, last)]
        self.recent.extendleft((event, views.happening(event)) for event in fresh)

    def _count(self) -> None:
        self._orders.clear()
        self.counts = views.count(self.rows.values(), self.pulse)

    def ordered(self, look: Look) -> list[Row]:
        """Return the rows that `look` wants, in its order."""
        found = self._orders.get(look)
        if found is None:
            wanted = [row for row in self.rows.values() if look.wants(row)]
            wanted.sort(key=lambda row: (row.place, look.order(row)))
            found = self._orders[look] = wanted
        return found

    def holders(self, page: Sequence[Row]) -> frozenset[str]:
        """Return whom one can ask for: all who have or had a claim, of many those on the page."""
        rows = self.rows.values() if len(self.rows) <= PART else page
        return frozenset(telling.name(row.claim.holder) for row in rows)

    def since(self, event_id: str) -> list[tuple[Event, Html]]:
        """Return the events after `event_id`, oldest first."""
        return [one for one in reversed(self.recent) if newer(one[0].id, event_id)]

    def last_event(self) -> str:
        """Return the id of the last event, '' when there is none."""
        return self.recent[0][0].id if self.recent else ""

    def paint_recent(self) -> list[str]:
        """Return the last events as elements, the newest first."""
        now = self.now_ms
        return [relative_time.fill(html, now) for _, html in list(self.recent)[:RECENT]]


def newer(one: str, than: str) -> bool:
    """Say if an event is later than another; '' is before all."""
    epoch, _, entry = one.partition("-")
    known_epoch, _, known = than.partition("-")
    return epoch != known_epoch or stream_id(entry) > stream_id(known)
