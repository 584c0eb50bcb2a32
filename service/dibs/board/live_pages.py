"""One page of a board, whose changes are sent to all its viewers at once.

A change is rendered once and written as one server-sent event; each viewer gets the same bytes. So
the work depends on the number of changes, not on the number of viewers.
"""

import asyncio
import random
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from dibs.board import event_text, summary
from dibs.board import rows as rendering
from dibs.board.board_query import EVERYTHING, BoardQuery
from dibs.board.claim_cache import ClaimCache
from dibs.board.html import template
from dibs.board.relative_time import Html
from dibs.board.rows import SECTIONS, Row
from dibs.board.summary import RowCounts
from dibs.model import Event, Project, Task

ROWS = 200
"""Rows on a page."""
KEPT_BYTES = 1 << 18
"""Bytes of changes kept for viewers that reconnect; a viewer that missed more reloads the page."""
BEHIND = 64
"""Unsent changes of a slow viewer, above which it must reload the page."""

CHANGE_ID = re.compile(r"[0-9a-f]{1,32}\.[0-9]{1,15}")
"""The id of a change: a page's id and a number."""
_ALERTS = ("parked", "lapsed", "broken", "failed", "queued")
_RESYNC = b"event: resync\ndata: {}\n\n"
_TROUBLE = b"event: trouble\ndata: {}\n\n"
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a page: its selection and order, and its number, from 1."""

    look: BoardQuery = EVERYTHING
    number: int = 1

    def query(self) -> str:
        """Return the query string of the page's URL, '' for the first page of all claims."""
        page = {"page": str(self.number)} if self.number > 1 else {}
        return self.look.query(**page)


ALL = Key()
"""The first page of all claims."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The part of a board that a page shows."""

    number: int
    pages: int
    first: int
    """The number of the page's first row, from 1; 0 if there is none."""
    last: int
    wanted: int
    """Rows on all pages."""
    numbers: dict[str, int]
    """Rows on all pages, by section."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of one page at one moment."""

    id: str
    """The id of the last change, from which a stream continues."""
    key: Key
    now_ms: int
    rows: tuple[tuple[Row, Html], ...]
    extent: Extent
    total: int
    """Rows of the whole board."""
    counts: RowCounts
    recent: tuple[str, ...]
    cut: int
    """The number of claims shown, if there are more; else 0."""
    beyond: dict[str, str]
    """By section, the text about tasks that are not shown."""
    hold: str
    """The banner of a project on hold, or ''."""
    holders: frozenset[str]


class Viewer:
    """The unsent changes of one viewer."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._changed = asyncio.Event()
        self._lost = False
        self.ended = False

    def put(self, chunk: bytes) -> None:
        """Add a change. A viewer that is too far behind gets a resync instead: a reload."""
        if self._lost:
            return
        self._waiting.append(chunk)
        if len(self._waiting) > BEHIND:
            self._waiting, self._lost = [_RESYNC], True
        self._changed.set()

    def end(self) -> None:
        """End the viewer's stream."""
        self.ended = True
        self._changed.set()

    async def get(self) -> bytes:
        """Wait for changes and return all unsent ones; b"" at the end."""
        await self._changed.wait()
        self._changed.clear()
        waiting, self._waiting, self._lost = self._waiting, [], False
        return b"" if self.ended else b"".join(waiting)


class LivePage:
    """One page of a board, with its viewers."""

    def __init__(self, cache: ClaimCache, key: Key) -> None:
        self.key = key
        self._cache = cache
        self._ident = secrets.token_hex(4)
        self._rev = 0
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self.viewers: set[Viewer] = set()
        self.in_trouble = False
        self._html: dict[Task, tuple[Row, Html]] = {}
        self._told: dict[Task, Row] = {}
        self._told_event, self._told_counts, self._told_extent = "", cache.counts, _NOWHERE
        self._told_hold = cache.hold
        self._settle(*self.rows())

    @property
    def size(self) -> int:
        """The number of rows on the page."""
        return len(self._told)

    @property
    def last(self) -> str:
        """The id of the last change."""
        return f"{self._ident}.{self._rev}"

    def rows(self) -> tuple[list[Row], Extent]:
        """Return the current rows of the page; a number past the last page means the last one."""
        wanted = self._cache.ordered(self.key.look)
        pages = max(1, -(-len(wanted) // ROWS))
        number = min(self.key.number, pages)
        rows = wanted[(number - 1) * ROWS : number * ROWS]
        numbers = dict.fromkeys(SECTIONS, 0)
        for row in wanted:
            numbers[row.section] += 1
        first = (number - 1) * ROWS + 1 if rows else 0
        last = first + len(rows) - 1 if rows else 0
        return rows, Extent(number, pages, first, last, len(wanted), numbers)

    def _settle(self, rows: Sequence[Row], extent: Extent) -> None:
        """Record the state that the viewers now have."""
        cache = self._cache
        self._told = {row.task: row for row in rows}
        self._told_event, self._told_counts = cache.last_event(), cache.counts
        self._told_hold = cache.hold
        self._told_extent = extent
        self._html = {task: self._html[task] for task in self._told if task in self._html}

    async def render(self) -> None:
        """Render the new rows of the page, yielding to other tasks in between."""
        rendered = 0
        for row in self.rows()[0]:
            rendered += self._render(row)
            if rendered and rendered % 50 == 0:
                await asyncio.sleep(0)

    def _render(self, row: Row) -> bool:
        kept = self._html.get(row.task)
        if kept and kept[0] is row:
            return False
        self._html[row.task] = row, rendering.render(row)
        return True

    def _rendered(self, row: Row) -> Html:
        self._render(row)
        return self._html[row.task][1]

    def snapshot(self) -> Snapshot:
        """Return the current state of the page."""
        cache = self._cache
        rows, extent = self.rows()
        return Snapshot(
            id=self.last,
            key=self.key,
            now_ms=cache.now_ms,
            rows=tuple((row, self._rendered(row)) for row in rows),
            extent=extent,
            total=len(cache.rows),
            counts=cache.counts,
            recent=tuple(cache.paint(list(cache.recent))),
            cut=cache.cut,
            beyond=summary.beyond(cache.beyond),
            hold=summary.banner(cache.project, cache.hold, cache.now_ms),
            holders=cache.holders(rows),
        )

    def publish(self) -> None:
        """Send the viewers what changed since they were last sent something, and keep it for
        viewers that reconnect."""
        cache, (rows, extent) = self._cache, self.rows()
        changed, clocks = [], []
        for row in rows:
            old = self._told.get(row.task)
            if old is row:
                continue
            ticks = rendering.clocks(row)
            if old and ticks and old.same_but_clocks(row):
                clocks.append(ticks)
            else:
                changed.append(row)
        here = {row.task for row in rows}
        gone = [task for task in self._told if task not in here]
        fresh = cache.since(self._told_event)
        same = cache.counts == self._told_counts and extent == self._told_extent
        same = same and cache.hold == self._told_hold
        if changed or clocks or gone or fresh or not same:
            self._send(self._patch(changed, clocks, gone, fresh, extent))
        self._settle(rows, extent)

    def _patch(
        self,
        changed: Sequence[Row],
        clocks: Sequence[tuple[str, int, int]],
        gone: Sequence[Task],
        fresh: Sequence[Event],
        extent: Extent,
    ) -> dict[str, Any]:
        now = self._cache.now_ms
        return {
            "now": now,
            "rows": [
                (one.task, one.section, rendering.paint(self._rendered(one), now))
                for one in changed
            ],
            "clocks": clocks,
            "gone": gone,
            "lately": self._cache.paint(fresh)[::-1],
            "counts": asdict(self._cache.counts),
            "numbers": extent.numbers,
            "beyond": summary.beyond(self._cache.beyond),
            "hold": summary.banner(self._cache.project, self._cache.hold, now),
            "pages": pager(self._cache.project, self.key, extent),
            "say": _saying(fresh[::-1]),
            "alerts": self._alerts(fresh[::-1]),
        }

    def _send(self, data: dict[str, Any]) -> None:
        self._rev += 1
        head = f"id: {self.last}\nevent: patch\ndata: ".encode()
        chunk = head + _encode(data) + b"\n\n"
        self._kept.append((self._rev, chunk))
        self._kept_bytes += len(chunk)
        while self._kept and self._kept_bytes > KEPT_BYTES:
            _, old = self._kept.popleft()
            self._kept_bytes -= len(old)
        self.tell(chunk)

    def tell(self, chunk: bytes) -> None:
        """Send a chunk to all viewers."""
        for viewer in self.viewers:
            viewer.put(chunk)

    def tick(self) -> bytes:
        """Return the event for "nothing new", with the current time."""
        return b"event: tick\ndata: " + _encode({"now": self._cache.now_ms}) + b"\n\n"

    def say_trouble(self) -> None:
        """Tell the viewers that the store cannot be reached."""
        self.in_trouble = True
        self.tell(_TROUBLE)

    async def follow(self, viewer: Viewer, after: str) -> AsyncIterator[bytes]:
        """Yield the server-sent events after the change `after`. `viewer` must be in `viewers`."""
        missed = self._missed(after)
        # Viewers that lose a server all at once should not reconnect all at once.
        retry = b"retry: %d\n\n" % random.randint(1000, 3000)  # noqa: S311
        yield retry + missed + (_TROUBLE if self.in_trouble else self.tick())
        while chunk := await viewer.get():
            yield chunk

    def _missed(self, after: str) -> bytes:
        ident, _, rev = after.partition(".")
        if ident != self._ident or int(rev) > self._rev:
            return _RESYNC
        missed = [chunk for number, chunk in self._kept if number > int(rev)]
        return b"".join(missed) if len(missed) == self._rev - int(rev) else _RESYNC

    def _alerts(self, events: Sequence[Event]) -> list[dict[str, object]]:
        """Return the events that a viewer may want a notification of, the last 20 at most."""
        alerts: dict[tuple[str, Task], dict[str, object]] = {}
        for event in events:
            if event.type in _ALERTS:
                row = self._cache.rows.get(event.task)
                waiting = row.now.waiters if row else 0
                text = event.reason or event.note or ""
                told = {"title": event_text.sentence(event), "text": text, "task": event.task}
                alerts[event.type, event.task] = {"type": event.type, "waiting": waiting, **told}
        return list(alerts.values())[-20:]


_NOWHERE = Extent(1, 1, 0, 0, 0, {})


def pager(project: Project, key: Key, extent: Extent) -> str:
    """Return the links to the other pages; '' if one page shows all claims."""
    if extent.pages == 1 and key == ALL:
        return ""
    return template("pages.html").render(project=project, look=key.look, extent=extent)


def _saying(events: Sequence[Event]) -> str:
    """Return the text for screen readers: up to three sentences, or the number of changes."""
    if len(events) > 3:
        return f"{len(events)} changes, the last: {event_text.sentence(events[-1])}."
    return " ".join(event_text.sentence(event) + "." for event in events)
