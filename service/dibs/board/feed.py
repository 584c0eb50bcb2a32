"""The live boards of a process: the state of each project, its pages, and their viewers."""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator

from dibs.board.claim_cache import ClaimCache, Readings
from dibs.board.live_pages import ALL, ROWS, Key, LivePage, Snapshot, Viewer
from dibs.claims import Claims
from dibs.model import Event, Project
from dibs.store import StoreDown
from dibs.store.broadcast import ShuttingDown, Subscription
from dibs.store.events import CursorExpired

log = logging.getLogger("dibs.board")

REFRESH_S = 10.0
"""Seconds between full reads, because heartbeats move deadlines and are no events. A viewer that
receives nothing for twice as long knows that its view is old."""
GATHER_S = 0.15
"""Seconds within which events are sent as one change: a person sees no difference."""
AGAIN_S = 1.0
PAGES = 8
"""Pages of a project that can be live at once."""
UNSEEN = 2
"""Pages of a project that are kept without viewers."""
FEEDS = 16
"""Projects that are kept without viewers."""
ROWS_KEPT = 25_000
"""Rows kept of all projects; a rendered row counts as two. About 40 MB, at most 80."""


class Crowded(Exception):
    """A board that cannot be followed now; the message says which limit is reached."""


class Feed:
    """The live board of one project."""

    def __init__(self, claims: Claims, project: Project, readings: Readings | None = None) -> None:
        self.project = project
        self._claims = claims
        self._cache = ClaimCache(claims, project, readings or Readings())
        self._pages: OrderedDict[Key, LivePage] = OrderedDict()
        self._run_task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._began = self._read = 0
        self._trouble = False

    @property
    def viewers(self) -> int:
        """The number of current viewers."""
        return sum(len(page.viewers) for page in self._pages.values())

    @property
    def kept(self) -> int:
        """The number of rows kept; a rendered row counts as two."""
        return len(self._cache.rows) + sum(2 * page.size for page in self._pages.values())

    async def snapshot(self, key: Key = ALL) -> Snapshot:
        """Return a page in its current state. If one page can hold all claims, it holds all of them
        whatever `key` selects: the browser can then show hidden rows without a request. Raises
        StoreDown."""
        await self.refresh()
        async with self._lock:
            if len(self._cache.rows) <= ROWS:
                key = ALL
            pages = max(1, -(-len(self._cache.ordered(key.look)) // ROWS))
            key = Key(key.look, min(key.number, pages))
            try:
                page = self._page(key)
            except Crowded:
                page = LivePage(self._cache, key)  # it can be shown, but not followed
            await page.render()
            page.publish()
            return page.snapshot()

    def _page(self, key: Key) -> LivePage:
        """Return a page that can be followed. Raises Crowded."""
        page = self._pages.get(key)
        if page is None:
            unseen = [key for key, old in self._pages.items() if not old.viewers]
            if len(self._pages) - len(unseen) >= PAGES:
                raise Crowded(f"{PAGES} pages and selections of this board are live already")
            for old in unseen[: max(0, len(unseen) + 1 - UNSEEN)]:
                del self._pages[old]
            page = self._pages[key] = LivePage(self._cache, key)
            page.in_trouble = self._trouble
        self._pages.move_to_end(key)
        return page

    def check(self, key: Key = ALL) -> None:
        """Raise Crowded if a page of this project cannot be followed."""
        self._page(key)

    async def follow(self, after: str, key: Key = ALL) -> AsyncGenerator[bytes]:
        """Yield a page's server-sent events after `after`: changes, and ticks when there are none.

        `after` is the id of a change, or "" for a viewer that must read the page first. Raises
        Crowded.
        """
        if self._claims.broadcaster.ended:
            return
        # There is no await between the missed changes and the new ones, so none is lost.
        page, viewer = self._page(key), Viewer()
        page.viewers.add(viewer)
        if self._run_task is None:
            self._run_task = asyncio.create_task(self._run())
        try:
            async for chunk in page.follow(viewer, after):
                yield chunk
        finally:
            page.viewers.discard(viewer)
            if not self.viewers and self._run_task:
                self._run_task.cancel()
                self._run_task = None

    async def _run(self) -> None:
        """Follow the project's events while there are viewers."""
        while True:
            try:
                listens = self._claims.broadcaster.listen(self.project, caller=False)
                async with listens as subscription:
                    await self.refresh()
                    await self._attend(subscription)
            except ShuttingDown:
                for page in self._pages.values():
                    for viewer in page.viewers:
                        viewer.end()
                return
            except StoreDown:
                self._say_trouble()
            except Exception:
                log.exception("board_failed project=%s", self.project)
                self._say_trouble()
            await asyncio.sleep(AGAIN_S)

    async def _attend(self, subscription: Subscription) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + REFRESH_S
        while True:
            events: list[Event] = []
            try:
                events = await subscription.get(max(0.0, due_s - loop.time()))
                if events:
                    await asyncio.sleep(GATHER_S)
                    events += await subscription.get(0)
            except CursorExpired:
                due_s = 0
            if loop.time() >= due_s:
                await self.refresh(whole=True)
                due_s = loop.time() + REFRESH_S
            elif events:
                async with self._lock:
                    await self._cache.touch(events)
                    await self._publish()

    async def refresh(self, *, whole: bool = False) -> None:
        """Read the project and send the changes to the viewers. Raises StoreDown.

        A caller shares another caller's read if that began after the call.
        """
        asked = self._began
        async with self._lock:
            if self._read > asked:
                return  # another caller's read began after this call
            self._began = number = self._began + 1
            await self._cache.read(whole=whole)
            self._read = number
            self._trouble = False
            await self._publish()
            for page in self._pages.values():
                page.in_trouble = False
                page.tell(page.tick())

    async def _publish(self) -> None:
        """Update the pages that have viewers; the others are updated when they are next shown."""
        for page in [page for page in self._pages.values() if page.viewers]:
            await page.render()
            page.publish()

    def _say_trouble(self) -> None:
        if not self._trouble:
            self._trouble = True
            for page in self._pages.values():
                page.say_trouble()


class Feeds:
    """The feeds of all projects that have viewers or recently had some."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._feeds: OrderedDict[Project, Feed] = OrderedDict()
        self._readings = Readings()

    @property
    def viewers(self) -> int:
        """The number of current viewers."""
        return sum(feed.viewers for feed in self._feeds.values())

    def of(self, project: Project) -> Feed:
        """Return a project's feed."""
        feed = self._feeds.get(project)
        if feed is None:
            feed = self._feeds[project] = Feed(self._claims, project, self._readings)
        self._feeds.move_to_end(project)
        self._forget()
        return feed

    def _forget(self) -> None:
        """Drop projects without viewers over the limits, except the one used last."""
        unseen = [name for name, feed in self._feeds.items() if not feed.viewers]
        for number, old in enumerate(unseen[:-1]):
            if len(unseen) - number <= FEEDS and self._kept <= ROWS_KEPT:
                return
            del self._feeds[old]

    @property
    def _kept(self) -> int:
        return sum(feed.kept for feed in self._feeds.values())

    async def to_follow(self, project: Project, key: Key) -> Feed:
        """Return a feed that can be followed. Raises Crowded."""
        feed = self.of(project)
        if not feed.kept:
            with contextlib.suppress(StoreDown):  # its viewers then get a `trouble` event
                await feed.refresh()
        others = sum(one.kept for one in self._feeds.values() if one.viewers and one is not feed)
        if others and others + feed.kept > ROWS_KEPT:
            raise Crowded(f"the live boards of this service have {others:,} rows already")
        feed.check(key)
        return feed
