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
"""Heartbeats are no events: so often the deadlines are read again. A viewer that hears nothing for
twice as long knows that its view is old."""
GATHER_S = 0.15
"""Events that come this soon after one another are one change: a person sees no difference."""
AGAIN_S = 1.0
PAGES = 8
"""Pages of a project that are followed at once."""
UNSEEN = 2
"""Pages of a project that are remembered though nobody looks at them."""
FEEDS = 16
"""Projects that are remembered though nobody looks at them."""
ROWS_KEPT = 25_000
"""Rows that are kept of all projects, a rendered one as two: some 40 MB, 80 at the very most."""


class Crowded(Exception):
    """A board cannot be followed now: the message says what there is too much of."""


class Feed:
    """One project."""

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
        """How many look now."""
        return sum(len(page.viewers) for page in self._pages.values())

    @property
    def kept(self) -> int:
        """How many rows are kept, a rendered one as two."""
        return len(self._cache.rows) + sum(2 * page.size for page in self._pages.values())

    async def snapshot(self, key: Key = ALL) -> Snapshot:
        """Return a page as it is now. Where one page holds all claims it does so whatever `key`
        selects: what is hidden can be shown without asking again. Raises StoreDown."""
        await self.refresh()
        async with self._lock:
            if len(self._cache.rows) <= ROWS:
                key = ALL
            pages = max(1, -(-len(self._cache.ordered(key.look)) // ROWS))
            key = Key(key.look, min(key.number, pages))
            try:
                page = self._page(key)
            except Crowded:
                page = LivePage(self._cache, key)  # it can be looked at, but not followed
            await page.render()
            page.publish()
            return page.snapshot()

    def _page(self, key: Key) -> LivePage:
        """Return a page that can be followed. Raises Crowded."""
        page = self._pages.get(key)
        if page is None:
            unseen = [key for key, old in self._pages.items() if not old.viewers]
            if len(self._pages) - len(unseen) >= PAGES:
                raise Crowded(f"{PAGES} pages and selections of this board are live")
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
        """Yield a page's server-sent events from `after` on: changes, a tick when there are none.

        `after` is the id of a change, or "" for who has to read the page first. Raises Crowded.
        """
        if self._claims.broadcaster.ended:
            return
        # No await between what was missed and what comes: so nothing falls between.
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
        """Follow the project's events while somebody looks."""
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
        """Learn how things are, and tell the viewers what changed. Raises StoreDown.

        Who asks while somebody else's reading goes on, and began after they asked, shares it.
        """
        asked = self._began
        async with self._lock:
            if self._read > asked:
                return  # somebody's reading began after we asked: it serves us, too
            self._began = number = self._began + 1
            await self._cache.read(whole=whole)
            self._read = number
            self._trouble = False
            await self._publish()
            for page in self._pages.values():
                page.in_trouble = False
                page.tell(page.tick())

    async def _publish(self) -> None:
        """Bring the pages that somebody looks at up to date; others wait until somebody does."""
        for page in [page for page in self._pages.values() if page.viewers]:
            await page.render()
            page.publish()

    def _say_trouble(self) -> None:
        if not self._trouble:
            self._trouble = True
            for page in self._pages.values():
                page.say_trouble()


class Feeds:
    """The feeds of all projects that somebody looks at or recently looked at."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._feeds: OrderedDict[Project, Feed] = OrderedDict()
        self._readings = Readings()

    @property
    def viewers(self) -> int:
        """How many look now."""
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
        """Drop projects that nobody looks at, but for the one that was asked for last."""
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
            with contextlib.suppress(StoreDown):  # then its viewers are told so
                await feed.refresh()
        others = sum(one.kept for one in self._feeds.values() if one.viewers and one is not feed)
        if others and others + feed.kept > ROWS_KEPT:
            raise Crowded(f"the live boards of this service have {others:,} rows")
        feed.check(key)
        return feed
