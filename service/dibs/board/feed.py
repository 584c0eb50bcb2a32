"""One project's board as this process knows it, and its changes to everybody who looks.

A change is read from the store once, rendered once and written as one server-sent event; each
viewer is handed the same bytes. So the work goes with what happens, not with how many look.
"""

import asyncio
import logging
import random
import re
import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass

import msgspec

from dibs.board import spans, views
from dibs.board.spans import Html
from dibs.board.views import Counts, Row
from dibs.claims import Claims
from dibs.store import StoreDown
from dibs.store.store import Pulse, Reset, stream_id
from dibs.store.stream import Ended, Listener
from dibs.words import Claim, Event, Project, Task

log = logging.getLogger("dibs.board")

REFRESH_S = 10.0
"""Heartbeats are no events: so often the deadlines are read again. A viewer that hears nothing for
twice as long knows that its view is old."""
GATHER_S = 0.15
"""Events that come this soon after one another are one change: a person sees no difference."""
AGAIN_S = 1.0
KEPT_BYTES = 1 << 20
"""Changes that are kept for viewers who come back; others read the page again."""
BEHIND = 64
"""Changes that a slow viewer may be behind before it is told to read the page again."""
ROWS, DONE, LATELY = 2_000, 50, 40
TOUCHED = 100
"""More tasks than this in one change are read as one list."""
FEEDS = 16
"""Projects that are remembered though nobody looks at them."""

CHANGE_ID = re.compile(r"[0-9a-f]{1,32}\.[0-9]{1,15}")
"""What a change is called: a feed and a number."""
_ALERTS = ("parked", "lapsed", "broken", "queued")
_RESYNC = b"event: resync\ndata: {}\n\n"
_TROUBLE = b"event: trouble\ndata: {}\n\n"
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole board at one moment."""

    id: str
    """Where a stream goes on from here."""
    now_ms: int
    rows: tuple[Row, ...]
    counts: Counts
    lately: tuple[Html, ...]
    cut: int
    """How many claims are shown, when there are more; else 0."""


class _Viewer:
    """What one viewer has not been sent yet."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._changed = asyncio.Event()
        self._lost = False
        self.ended = False

    def put(self, chunk: bytes) -> None:
        """Add a change. A viewer that does not keep up is to read the page again, once it can."""
        if self._lost:
            return
        self._waiting.append(chunk)
        if len(self._waiting) > BEHIND:
            self._waiting, self._lost = [_RESYNC], True
        self._changed.set()

    def end(self) -> None:
        """Let the viewer go."""
        self.ended = True
        self._changed.set()

    async def get(self) -> bytes:
        """Return all changes that wait; b"" at the end."""
        await self._changed.wait()
        self._changed.clear()
        waiting, self._waiting, self._lost = self._waiting, [], False
        return b"" if self.ended else b"".join(waiting)


class Feed:
    """One project."""

    def __init__(self, claims: Claims, project: Project) -> None:
        self.project = project
        self._claims = claims
        self._ident = secrets.token_hex(4)
        self._rev = 0
        self._rows: dict[Task, Row] = {}
        self._pulse = Pulse(0, 0, 0)
        self._counts = views.count((), self._pulse)
        self._lately: deque[tuple[str, Html]] = deque(maxlen=LATELY)
        self._cut = 0
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self._viewers: set[_Viewer] = set()
        self._run_task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._began = self._read = 0
        self._clock_s = 0.0
        self._trouble = False

    @property
    def viewers(self) -> int:
        """How many look now."""
        return len(self._viewers)

    @property
    def now_ms(self) -> int:
        """The store's time."""
        passed_s = asyncio.get_running_loop().time() - self._clock_s
        return self._pulse.now_ms + int(passed_s * 1000)

    async def snapshot(self) -> Snapshot:
        """Return the board as it is now. Raises StoreDown."""
        await self.refresh()
        return Snapshot(
            f"{self._ident}.{self._rev}",
            self.now_ms,
            tuple(self._rows.values()),
            self._counts,
            tuple(html for _, html in self._lately),
            self._cut,
        )

    async def follow(self, after: str) -> AsyncIterator[bytes]:
        """Yield server-sent events from `after` on: changes, a tick when there are none.

        `after` is the id of a change, or "" for who has to read the page first.
        """
        if self._claims.hub.ended:
            return
        viewer = _Viewer()
        # No await between what was missed and what comes: so nothing falls between.
        missed = self._missed(after)
        self._viewers.add(viewer)
        if self._run_task is None:
            self._run_task = asyncio.create_task(self._run())
        try:
            # Viewers that lost one server at once should not come back to the next at once.
            retry = b"retry: %d\n\n" % random.randint(1000, 3000)  # noqa: S311
            yield retry + missed + (_TROUBLE if self._trouble else self._tick())
            while chunk := await viewer.get():
                yield chunk
        finally:
            self._viewers.discard(viewer)
            if not self._viewers and self._run_task:
                self._run_task.cancel()
                self._run_task = None

    def _tick(self) -> bytes:
        return b"event: tick\ndata: " + _encode({"now": self.now_ms}) + b"\n\n"

    def _missed(self, after: str) -> bytes:
        ident, _, rev = after.partition(".")
        if ident != self._ident or int(rev) > self._rev:
            return _RESYNC
        missed = [chunk for number, chunk in self._kept if number > int(rev)]
        return b"".join(missed) if len(missed) == self._rev - int(rev) else _RESYNC

    async def _run(self) -> None:
        """Follow the project's events while somebody looks."""
        while True:
            try:
                async with self._claims.hub.listen(self.project) as listener:
                    await self.refresh()
                    await self._attend(listener)
            except Ended:
                for viewer in self._viewers:
                    viewer.end()
                return
            except StoreDown:
                self._say_trouble()
            except Exception:
                log.exception("board_failed project=%s", self.project)
                self._say_trouble()
            await asyncio.sleep(AGAIN_S)

    async def _attend(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + REFRESH_S
        while True:
            events: list[Event] = []
            try:
                events = await listener.get(max(0.0, due_s - loop.time()))
                if events:
                    await asyncio.sleep(GATHER_S)
                    events += await listener.get(0)
            except Reset:
                due_s = 0
            if loop.time() >= due_s or len({event.task for event in events}) > TOUCHED:
                await self.refresh()
                due_s = loop.time() + REFRESH_S
            elif events:
                await self._touch(events)

    async def refresh(self) -> None:
        """Read everything, and tell the viewers what changed. Raises StoreDown."""
        asked = self._began
        async with self._lock:
            if self._read > asked:
                return  # somebody's reading began after we asked: it serves us, too
            self._began = number = self._began + 1
            store = self._claims.store
            listed, done, events, pulse = await asyncio.gather(
                store.list_(self.project, states=("held", "parked", "lapsed"), limit=ROWS),
                store.list_(self.project, states=("done",), limit=DONE),
                store.latest(self.project, LATELY),
                store.pulse(self.project),
            )
            self._cut = len(listed.claims) if listed.cursor else 0
            self._know(pulse)
            claims = {claim.task: claim for claim in (*listed.claims, *done.claims)}
            gone = [task for task in self._rows if task not in claims]
            await self._apply(claims.values(), gone, list(reversed(events)))
            self._read = number
            self._trouble = False
            self._send(self._tick())

    async def _touch(self, events: Sequence[Event]) -> None:
        """Read the tasks that something happened to."""
        async with self._lock:
            store = self._claims.store
            tasks = list(dict.fromkeys(event.task for event in events))
            shown = await asyncio.gather(*(store.show(self.project, task) for task in tasks))
            self._know(await store.pulse(self.project))
            claims = [claim for claim in shown if isinstance(claim, Claim)]
            there = {claim.task for claim in claims}
            gone = [task for task in tasks if task not in there and task in self._rows]
            await self._apply(claims, gone, events)

    def _know(self, pulse: Pulse) -> None:
        self._pulse, self._clock_s = pulse, asyncio.get_running_loop().time()

    async def _apply(
        self, claims: Iterable[Claim], gone: list[Task], events: Sequence[Event]
    ) -> None:
        """Take over what was read, and send what differs from what the viewers have."""
        changed, clocks, rendered = [], [], 0
        for claim in claims:
            old = self._rows.get(claim.task)
            same = old is not None and old.same_but_clocks(claim)
            if old and same and views.clocks(old.claim) == views.clocks(claim):
                continue
            new = self._rows[claim.task] = views.row(claim)
            if same:
                clocks.append(views.clocks(claim))
            else:
                changed.append(new)
            rendered += 1
            if rendered % 50 == 0:
                await asyncio.sleep(0)  # rendering a full board must not hold up claims
        for task in gone:
            del self._rows[task]
        gone += self._forget_done()
        fresh = self._happened(events)
        counts = views.count(self._rows.values(), self._pulse)
        if changed or clocks or gone or fresh or counts != self._counts:
            self._counts = counts
            self._publish([r for r in changed if r.claim.task in self._rows], clocks, gone, fresh)

    def _forget_done(self) -> list[Task]:
        done = [one for one in self._rows.values() if one.kind == "done"]
        done.sort(key=lambda one: one.claim.ended_at or one.claim.expires_at, reverse=True)
        tasks = [one.claim.task for one in done[DONE:]]
        for task in tasks:
            del self._rows[task]
        return tasks

    def _happened(self, events: Sequence[Event]) -> list[tuple[Event, Html]]:
        """Take note of the events (oldest first) that are not known yet."""
        last = self._lately[0][0] if self._lately else ""
        fresh = [event for event in events if _newer(event.id, last)]
        told = [(event, views.happening(event)) for event in fresh]
        self._lately.extendleft((event.id, html) for event, html in told)
        return told

    def _publish(
        self,
        changed: Sequence[Row],
        clocks: Sequence[tuple[str, int, int]],
        gone: Sequence[Task],
        fresh: Sequence[tuple[Event, Html]],
    ) -> None:
        """Send one change to everybody, and keep it for those who come back."""
        self._rev += 1
        now = self.now_ms
        data = {
            "now": now,
            "rows": [(one.claim.task, one.section, one.paint(now)) for one in changed],
            "clocks": clocks,
            "gone": gone,
            "lately": [spans.fill(html, now) for _, html in fresh[-LATELY:]],
            "counts": asdict(self._counts),
            "say": _saying([event for event, _ in fresh]),
            "alerts": self._alerts([event for event, _ in fresh]),
        }
        head = f"id: {self._ident}.{self._rev}\nevent: patch\ndata: ".encode()
        chunk = head + _encode(data) + b"\n\n"
        self._keep(chunk)
        self._send(chunk)

    def _keep(self, chunk: bytes) -> None:
        self._kept.append((self._rev, chunk))
        self._kept_bytes += len(chunk)
        while self._kept and self._kept_bytes > KEPT_BYTES:
            _, old = self._kept.popleft()
            self._kept_bytes -= len(old)

    def _alerts(self, events: Sequence[Event]) -> list[dict[str, object]]:
        """Return what somebody may want to be notified of."""
        alerts: dict[tuple[str, Task], dict[str, object]] = {}
        for event in events:
            if event.type in _ALERTS:
                row = self._rows.get(event.task)
                waiting = row.claim.waiters if row else 0
                text = event.reason or event.note or ""
                told = {"title": views.sentence(event), "text": text, "task": event.task}
                alerts[event.type, event.task] = {"type": event.type, "waiting": waiting, **told}
        return list(alerts.values())[-20:]

    def _send(self, chunk: bytes) -> None:
        for viewer in self._viewers:
            viewer.put(chunk)

    def _say_trouble(self) -> None:
        if not self._trouble:
            self._trouble = True
            self._send(_TROUBLE)


def _saying(events: Sequence[Event]) -> str:
    """Return what a screen reader is told: a few sentences, or how much happened."""
    if len(events) > 3:
        return f"{len(events)} changes, the last: {views.sentence(events[-1])}."
    return " ".join(views.sentence(event) + "." for event in events)


def _newer(one: str, than: str) -> bool:
    epoch, _, entry = one.partition("-")
    known_epoch, _, known = than.partition("-")
    return epoch != known_epoch or stream_id(entry) > stream_id(known)


class Feeds:
    """The feeds of all projects that somebody looks at, or lately did."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._feeds: OrderedDict[Project, Feed] = OrderedDict()

    @property
    def viewers(self) -> int:
        """How many look now."""
        return sum(feed.viewers for feed in self._feeds.values())

    def of(self, project: Project) -> Feed:
        """Return a project's feed."""
        feed = self._feeds.get(project)
        if feed is None:
            feed = self._feeds[project] = Feed(self._claims, project)
        self._feeds.move_to_end(project)
        for old in list(self._feeds)[:-FEEDS]:
            if not self._feeds[old].viewers:
                del self._feeds[old]
        return feed
