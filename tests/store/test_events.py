"""A reader of the events gets each once and in order, or is told that some are gone (I12)."""

import asyncio
import contextlib
import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Stepped
from tests.harness import acting
from tests.harness.services import new_session

from dibs.api import routes
from dibs.claims import Claims
from dibs.model import Event, Project
from dibs.store import Store, StoreDown
from dibs.store.broadcast import EventBroadcaster
from dibs.store.events import CursorExpired
from dibs.store.keys import keys
from dibs.store.redis.blocking import BlockingLink
from dibs.store.redis.failures import ErrorReply
from dibs.store.redis.link import PipelineLink
from dibs.stream_limit import StreamLimit

_numbers = itertools.count(1)


async def happen(store: Store, project: Project, *tasks: str) -> list[str]:
    """Claim these tasks; return the ids of their events."""
    for task in tasks:
        await acting.claim(store, project, new_session(), [task])
    return [event.id for event in await store.events.read(project, "", 1000)][-len(tasks) :]


async def drop_all_but_one(store: Store, project: Project) -> None:
    """Drop the oldest events, as the limit of bytes does."""
    await store.link.command("XTRIM", keys(project) + ":events", "MAXLEN", 1)


@pytest.fixture
def project() -> Project:
    """Return a project that no other test uses."""
    return Project(f"events.{next(_numbers)}")


async def test_events_that_go_while_a_page_is_read_are_missed_by_nobody(
    store: Store, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, *rest = await happen(store, project, "T-1", "T-2", "T-3", "T-4")
    command, gone = store.link.command, asyncio.Event()

    async def then_others_go(*parts: str | int) -> Any:
        reply = await command(*parts)
        if parts[0] in ("XINFO", "XRANGE") and not gone.is_set():
            gone.set()
            await drop_all_but_one(store, project)
        return reply

    monkeypatch.setattr(store.link, "command", then_others_go)
    try:
        found = [event.id for event in await store.events.read(project, seen, 1000)]
    except CursorExpired:
        found = rest
    assert found == rest
    assert gone.is_set()


class HeldReader(BlockingLink):
    """A link that reads a stream only while `may_read` is set."""

    def __init__(self, url: str) -> None:
        super().__init__(PipelineLink.to(url))
        self.may_read = asyncio.Event()

    async def command(self, *parts: str | int) -> Any:
        """See BlockingLink."""
        await self.may_read.wait()
        return await super().command(*parts)


@pytest.mark.parametrize("known", [True, False], ids=["a project with events", "a new project"])
async def test_who_follows_is_told_of_events_that_went_while_nobody_could_read(
    store: Store, stepped: Stepped, project: Project, known: bool
) -> None:
    reader = HeldReader(stepped[0].url)
    broadcaster = EventBroadcaster(store, reader)
    if known:
        await happen(store, project, "T-0")
    try:
        async with broadcaster.listen(project) as subscription:
            await happen(store, project, "T-1", "T-2", "T-3")
            await drop_all_but_one(store, project)
            reader.may_read.set()
            with pytest.raises(CursorExpired):
                await asyncio.wait_for(subscription.get(20), 20)
            [after] = await happen(store, project, "T-4")
            async with asyncio.timeout(20):
                while not (events := await subscription.get(20)):
                    pass
            assert [event.id for event in events] == [after], "no later event is missing"
    finally:
        await broadcaster.close()


async def test_who_follows_in_time_hears_of_each_once_however_many_are_dropped(
    store: Store, stepped: Stepped, project: Project
) -> None:
    broadcaster = EventBroadcaster(store, BlockingLink(PipelineLink.to(stepped[0].url)))
    try:
        async with broadcaster.listen(project) as subscription:
            for number in range(5):
                [event] = await happen(store, project, f"T-{number}")
                async with asyncio.timeout(20):
                    while not (events := await subscription.get(20)):
                        pass
                assert [each.id for each in events] == [event]
                await drop_all_but_one(store, project)
    finally:
        await broadcaster.close()


async def test_what_comes_as_an_empty_page_is_read_is_on_the_next(
    claims: Claims, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = claims.store
    read = store.events.read

    async def then_something_happens(*given: Any) -> list[Event]:
        found = await read(*given)
        await acting.claim(store, project, new_session(), ["T-1"])
        return found

    monkeypatch.setattr(store.events, "read", then_something_happens)
    request: Any = SimpleNamespace(scope={"query_string": b""}, headers={})
    streams = StreamLimit(10)
    asked = routes.V1.events.fn(None, request, project=project, claims=claims, streams=streams)
    page = json.loads((await asked).content)
    assert (page["events"], page["reset"]) == ([], False)
    assert [event.task for event in await read(project, page["next"], 1000)] == ["T-1"]


async def test_a_stream_ends_where_the_store_goes_while_it_starts_over() -> None:
    class Away:
        """A store that no longer has the events asked for, and then is unreachable."""

        broadcaster: Any

        async def since(self, *_: Any) -> Any:
            raise CursorExpired
            yield

        async def end_of(self, _: Any) -> str:
            raise StoreDown("The store does not answer.", sent=False)

    claims: Any = Away()
    claims.broadcaster = claims
    stream = routes._stream(claims, Project("p"), "1-1-1")
    assert [chunk.split(b"\n")[1] async for chunk in stream] == [b"id: 1-1-1"]


async def test_a_store_that_answers_oddly_for_a_while_leaves_nobody_listening_in_vain(
    claims: Claims, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, asked = claims.store, asyncio.Event()
    command = store.link.command

    async def odd(*parts: str | int) -> Any:
        asked.set()
        raise ErrorReply("ERR upstream failure")  # as a proxy in front of a store would

    async with claims.broadcaster.listen(project) as subscription:
        with monkeypatch.context() as away:
            away.setattr(store.link, "command", odd)
            async with asyncio.timeout(10):
                # End the blocked read with an error, as a failover does.
                while not asked.is_set():
                    for row in str(await command("CLIENT", "LIST")).splitlines():
                        if "cmd=xread" in row:
                            name = row.split()[0].removeprefix("id=")
                            await command("CLIENT", "UNBLOCK", name, "ERROR")
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0)
        told: list[Event] = []
        async with asyncio.timeout(10):
            while not told:
                await happen(store, project, f"T-{next(_numbers)}")
                with contextlib.suppress(CursorExpired):
                    told = await subscription.get(1)
    assert told[0].type == "claimed"


class DeafReader:
    """A reader whose reads block forever, and which swallows the first `deaf` cancellations."""

    def __init__(self, deaf: int) -> None:
        self.deaf, self.asked = deaf, asyncio.Event()

    async def command(self, *parts: str | int) -> Any:
        """Block until cancelled."""
        self.asked.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.deaf -= 1
            if self.deaf < 0:
                raise

    async def close(self) -> None:
        """Do nothing: no connection is open."""


@pytest.mark.parametrize("leaves", ["the service stops", "nobody listens any more"])
async def test_a_follower_ends_though_what_it_waits_for_takes_no_notice_of_that(
    store: Store, project: Project, leaves: str
) -> None:
    reader = DeafReader(deaf=1)
    broadcaster = EventBroadcaster(store, reader)
    before = asyncio.all_tasks()
    async with broadcaster.listen(project):
        await asyncio.wait_for(reader.asked.wait(), 20)
        [follower] = asyncio.all_tasks() - before
        if leaves == "the service stops":
            await asyncio.wait_for(broadcaster.close(), 20)
    await asyncio.wait_for(asyncio.wait([follower]), 20)
    assert follower.done()
    await broadcaster.close()
