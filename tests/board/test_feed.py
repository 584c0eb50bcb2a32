"""One feed per project: read once, rendered once, sent to all viewers without a gap."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.conftest import Desk
from tests.harness import acting
from tests.harness.services import new_session

from dibs.app import links
from dibs.board import feed as feeds
from dibs.board import live_pages
from dibs.board.feed import Feed, Feeds
from dibs.board.live_pages import ALL, Key
from dibs.claims import Bounds, Claims
from dibs.model import Claim, Project, Task
from dibs.results import Granted
from dibs.store import Rules, Store, board_tasks
from dibs.store.broadcast import EventBroadcaster
from dibs.store.local.embedded import EmbeddedStore

_numbers = itertools.count(1)
ANN = new_session()


@dataclass
class FeedService:
    """The parts of a service that a feed needs."""

    store: Store
    broadcaster: EventBroadcaster
    project: Project


@pytest.fixture
async def service(stepped: tuple[EmbeddedStore, Any], rules: Rules) -> AsyncIterator[FeedService]:
    """Yield a service's store and broadcaster, on a real server."""
    link, reader = links(stepped[0].url)
    store = Store(link, rules)
    await store.open()
    broadcaster = EventBroadcaster(store, reader)
    yield FeedService(store, broadcaster, Project(f"feed.{next(_numbers)}"))
    broadcaster.end()
    await broadcaster.close()
    await store.close()


@pytest.fixture
def all_feeds(service: FeedService) -> Feeds:
    """Return the feeds of the service."""
    return Feeds(Claims(service.store, service.broadcaster, Bounds()))


@pytest.fixture
def feed(service: FeedService, all_feeds: Feeds) -> Feed:
    """Return the feed of one project."""
    return all_feeds.of(service.project)


class FeedReader:
    """A viewer of a feed, and the (event, data) pairs that it received."""

    def __init__(self, feed: Feed, after: str, key: Key = ALL) -> None:
        self.told: list[tuple[str, Any]] = []
        self.last = after
        self.raw = b""
        self.task = asyncio.create_task(self._read(feed, after, key))

    async def _read(self, feed: Feed, after: str, key: Key) -> None:
        async for chunk in feed.follow(after, key):
            self.raw += chunk
            for block in chunk.decode().split("\n\n"):
                fields = dict(line.split(": ", 1) for line in block.splitlines())
                self.last = fields.get("id", self.last)
                if "event" in fields:
                    self.told.append((fields["event"], json.loads(fields["data"])))

    def patches(self) -> list[Any]:
        return [data for event, data in self.told if event == "patch"]

    def rows(self) -> list[str]:
        return [task for patch in self.patches() for task, _, _ in patch["rows"]]

    async def hears(self, task: str) -> None:
        async with asyncio.timeout(5):
            while task not in self.rows():
                await asyncio.sleep(0.01)

    async def leave(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


async def claim(service: FeedService, task: str, **wish: Any) -> None:
    who = ANN if len(task) == 3 else new_session()  # a session may hold only a limited number
    outcome = await acting.claim(
        service.store, service.project, who, [Task(task)], label="ann", **wish
    )
    assert isinstance(outcome, Granted), outcome


async def test_every_viewer_hears_of_a_claim_that_was_read_once(
    service: FeedService, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewers = [FeedReader(feed, (await feed.snapshot()).id) for _ in range(50)]
    async with asyncio.timeout(5):
        while not all(viewer.told for viewer in viewers):
            await asyncio.sleep(0.01)
    reads = 0
    look = board_tasks.look

    async def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal reads
        reads += 1
        return await look(*arguments, **more)

    monkeypatch.setattr(board_tasks, "look", counted)
    await claim(service, "T-1")
    for viewer in viewers:
        await viewer.hears("T-1")
    assert reads == 1
    for viewer in viewers:
        await viewer.leave()


async def test_a_viewer_who_comes_back_hears_exactly_what_it_missed(
    service: FeedService, feed: Feed
) -> None:
    stays, goes = [FeedReader(feed, (await feed.snapshot()).id) for _ in range(2)]
    await claim(service, "T-1")
    await goes.hears("T-1")
    await goes.leave()
    for task in ("T-2", "T-3"):
        await claim(service, task)
        await stays.hears(task)
    back = FeedReader(feed, goes.last)
    await back.hears("T-3")
    assert back.rows() == ["T-2", "T-3"]
    assert "resync" not in [event for event, _ in back.told]
    await back.leave()
    await stays.leave()


async def test_what_happens_between_the_page_and_its_stream_is_told(
    service: FeedService, feed: Feed
) -> None:
    snapshot = await feed.snapshot()
    await claim(service, "T-1")
    viewer = FeedReader(feed, snapshot.id)
    await viewer.hears("T-1")
    await viewer.leave()


@pytest.mark.parametrize("after", ["", "other.1", "x", "0.0.0", "-"])
async def test_a_viewer_from_another_process_is_told_to_read_the_page(
    feed: Feed, after: str
) -> None:
    await feed.snapshot()
    viewer = FeedReader(feed, after)
    async with asyncio.timeout(5):
        while not viewer.told:
            await asyncio.sleep(0.01)
    assert viewer.told[0][0] == "resync"
    await viewer.leave()


async def test_a_viewer_who_does_not_keep_up_starts_over_and_costs_no_memory(
    service: FeedService, feed: Feed
) -> None:
    async with contextlib.aclosing(feed.follow((await feed.snapshot()).id)) as stream:
        await anext(stream)
        for number in range(live_pages.BEHIND + 3):
            await claim(service, f"T-{number}")
            await feed.refresh()
        assert await anext(stream) == b"event: resync\ndata: {}\n\n"
        await claim(service, "T-last")
        async with asyncio.timeout(5):
            while b"T-last" not in await anext(stream):
                pass


async def test_a_plain_heartbeat_is_told_as_clocks_not_as_a_row(
    service: FeedService, feed: Feed
) -> None:
    await claim(service, "T-1", ttl_s=60)
    viewer = FeedReader(feed, (await feed.snapshot()).id)
    async with asyncio.timeout(5):
        while not viewer.patches():  # deadlines are shown in whole seconds: one has to pass
            await asyncio.sleep(0.1)
            await acting.heartbeat(service.store, service.project, ANN)
            await feed.refresh()
    assert viewer.rows() == []
    assert viewer.patches()[-1]["clocks"][0][0] == "T-1"
    await viewer.leave()


async def test_a_patch_names_what_is_gone(service: FeedService, feed: Feed) -> None:
    store, project = service.store, service.project
    await acting.tasks(store, project, ANN, [{"task": "T-1"}])
    viewer = FeedReader(feed, (await feed.snapshot()).id)
    await acting.tasks(store, project, ANN, [{"task": "T-1", "drop": True}])
    async with asyncio.timeout(5):
        while not any(patch["gone"] == ["T-1"] for patch in viewer.patches()):
            await asyncio.sleep(0.01)
    await viewer.leave()


async def test_nobody_is_followed_for_nobody(service: FeedService, feed: Feed) -> None:
    viewer = FeedReader(feed, (await feed.snapshot()).id)
    await claim(service, "T-1")
    await viewer.hears("T-1")
    assert service.project in service.broadcaster._followers
    # It is one viewer's stream: the feed's own subscription does not count.
    assert (service.broadcaster.streams, feed.viewers) == (0, 1)
    await viewer.leave()
    async with asyncio.timeout(5):
        while service.broadcaster._followers:
            await asyncio.sleep(0.01)
    assert (service.broadcaster.streams, feed.viewers) == (0, 0)


async def test_the_end_of_the_service_ends_every_stream_at_once(
    service: FeedService, feed: Feed
) -> None:
    viewers = [FeedReader(feed, (await feed.snapshot()).id) for _ in range(3)]
    async with asyncio.timeout(5):
        while not all(viewer.told for viewer in viewers):
            await asyncio.sleep(0.01)
    service.broadcaster.end()
    async with asyncio.timeout(1):
        await asyncio.gather(*(viewer.task for viewer in viewers))
    assert [chunk async for chunk in feed.follow("")] == []


async def test_projects_that_nobody_looks_at_are_forgotten(
    service: FeedService, all_feeds: Feeds
) -> None:
    watched = all_feeds.of(Project("watched"))
    viewer = FeedReader(watched, (await watched.snapshot()).id)
    async with asyncio.timeout(5):
        while not watched.viewers:
            await asyncio.sleep(0.01)
    for number in range(feeds.FEEDS + 5):
        all_feeds.of(Project(f"p{number}"))
    assert all_feeds.of(Project("watched")) is watched
    assert len(all_feeds._feeds) <= feeds.FEEDS + 1
    await viewer.leave()


async def test_paints_that_are_asked_for_together_share_the_reading(
    service: FeedService, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    pulse = service.store.pulse

    async def counted(project: Project) -> Any:
        nonlocal reads
        reads += 1
        return await pulse(project)

    monkeypatch.setattr(service.store, "pulse", counted)
    await asyncio.gather(*(feed.snapshot() for _ in range(20)))
    assert reads <= 2


async def test_an_outage_moves_no_clock_of_what_is_over(
    service: FeedService, feed: Feed, stepped: tuple[EmbeddedStore, Any]
) -> None:
    # The row of a finished task has no running clock, so a page could not move it.
    await claim(service, "T-1")
    await acting.release(service.store, service.project, ANN, Task("T-1"), outcome="done")
    before = (await feed.snapshot()).id
    deadline = feed._cache.rows[Task("T-1")].now
    await Desk(service.store, stepped[1]).jump(3600)
    async with asyncio.timeout(10):
        while await service.store.tick() != "gap":
            await asyncio.sleep(0.01)
    await feed.refresh(whole=True)
    after = await acting.show(service.store, service.project, Task("T-1"))
    assert isinstance(after, Claim)
    assert isinstance(deadline, Claim)
    assert after.expires_at > deadline.expires_at, "the outage moved the end"
    assert (await feed.snapshot()).id == before
