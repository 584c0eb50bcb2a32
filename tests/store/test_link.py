"""Commands that share a connection: each is answered or refused, whatever happens to it."""

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
import trustme
import uvloop
from tests.conftest import Stepped
from tests.store.test_failures import server
from tests.tools.servers import serving

from dibs.store import StoreDown
from dibs.store.local.embedded import EmbeddedStore
from dibs.store.redis import blocking
from dibs.store.redis.channel import Channel
from dibs.store.redis.connection import TIMEOUT_S, Connection
from dibs.store.redis.endpoint import Endpoint, host_and_port
from dibs.store.redis.link import PipelineLink
from dibs.store.redis.sentinel import Sentinels
from dibs.store.redis.store_url import link_to, parse, reader_to


@pytest.fixture
def embedded(stepped: Stepped) -> EmbeddedStore:
    """Return a real store."""
    return stepped[0]


async def test_concurrent_commands_get_each_its_own_answer(embedded: EmbeddedStore) -> None:
    link = PipelineLink.to(embedded.url)
    told = await asyncio.gather(*(link.command("ECHO", str(number)) for number in range(1000)))
    assert told == [str(number) for number in range(1000)]
    await link.close()


async def test_no_command_is_forgotten_when_connections_are_cut_under_load(
    embedded: EmbeddedStore,
) -> None:
    link, cutter = PipelineLink.to(embedded.url), PipelineLink.to(embedded.url)
    answered = refused = 0

    async def caller(number: int) -> None:
        nonlocal answered, refused
        for turn in range(300):
            try:
                assert await link.command("ECHO", f"{number}.{turn}") == f"{number}.{turn}"
                answered += 1
            except StoreDown:
                refused += 1

    async def cut() -> None:
        while True:
            await cutter.command("CLIENT", "KILL", "TYPE", "normal")  # all clients but this one
            await asyncio.sleep(0.005)

    cutting = asyncio.create_task(cut())
    async with asyncio.timeout(60):
        await asyncio.gather(*map(caller, range(16)))
    cutting.cancel()
    await asyncio.gather(cutting, return_exceptions=True)
    assert answered + refused == 16 * 300
    assert refused, "no cut hit a command: the test proved nothing"
    assert answered > refused
    await link.close()
    await cutter.close()


async def test_a_connection_that_the_store_closes_while_nobody_asks_costs_no_call(
    embedded: EmbeddedStore,
) -> None:
    link, cutter = PipelineLink.to(embedded.url), PipelineLink.to(embedded.url)
    for _ in range(5):
        before = await link.command("CLIENT", "ID")
        await cutter.command("CLIENT", "KILL", "ID", before)
        async with asyncio.timeout(5):
            while await _or_down(link, "CLIENT", "ID") in (before, None):
                await asyncio.sleep(0.01)
    await link.close()
    await cutter.close()


async def test_a_caller_that_goes_away_disturbs_nobody_else(embedded: EmbeddedStore) -> None:
    link = PipelineLink.to(embedded.url)
    calls = [asyncio.create_task(link.command("ECHO", str(number))) for number in range(100)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    told = await asyncio.gather(*calls, return_exceptions=True)
    assert told[1::2] == [str(number) for number in range(1, 100, 2)]
    assert await link.command("PING") == "PONG"
    await link.close()


async def test_who_goes_away_while_the_store_is_paused_disturbs_nobody_else(
    embedded: EmbeddedStore,
) -> None:
    link = PipelineLink.to(embedded.url)
    await link.command("PING")
    os.kill(embedded.pid, signal.SIGSTOP)
    try:
        # More than the kernel buffers: the rest waits in this process.
        text = "x" * 1_000_000
        calls = [asyncio.create_task(link.command("ECHO", text)) for _ in range(10)]
        await asyncio.sleep(0.1)
        for call in calls[::2]:
            call.cancel()
    finally:
        os.kill(embedded.pid, signal.SIGCONT)
    assert await asyncio.gather(*calls[1::2]) == [text] * 5
    await link.close()


async def test_a_connection_by_tls_is_like_any_other(
    embedded: EmbeddedStore, tmp_path: Path
) -> None:
    async with by_tls(embedded, tmp_path) as (url, cut):
        link = PipelineLink.to(f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}")
        told = await asyncio.gather(*(link.command("ECHO", str(number)) for number in range(1000)))
        assert told == [str(number) for number in range(1000)]
        long = "x" * 3_000_000
        assert await link.command("ECHO", long) == long
        cut()
        async with asyncio.timeout(5):
            while await _or_down(link, "PING") != "PONG":
                await asyncio.sleep(0.01)
        await link.close()

        stranger = PipelineLink.to(url)  # it does not trust this authority
        with pytest.raises(StoreDown) as down:
            await stranger.command("PING")
        assert not down.value.sent
        await stranger.close()


@contextlib.asynccontextmanager
async def by_tls(
    embedded: EmbeddedStore, folder: Path
) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Yield the store's URL over TLS, and a function that cuts its connections."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    socket_path = unquote(embedded.url.removeprefix("unix://"))
    open_now: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_now.append(writer)
        from_store, to_store = await asyncio.open_unix_connection(socket_path)
        await asyncio.gather(pump(reader, to_store), pump(from_store, writer))

    def cut() -> None:
        while open_now:
            open_now.pop().transport.abort()

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    try:
        yield f"rediss://localhost:{server.sockets[0].getsockname()[1]}", cut
    finally:
        cut()
        server.close()


async def _or_down(link: PipelineLink, *parts: str) -> object:
    with contextlib.suppress(StoreDown):
        return await link.command(*parts)
    return None


@pytest.mark.parametrize("where", ["_begin", "_answer"])
async def test_a_connection_whose_set_up_raises_refuses_its_callers_at_once_and_is_tried_again(
    embedded: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async def begin(self: Connection, endpoint: Endpoint) -> None:
        raise ValueError("a defect")

    def answer(self: Connection, reply: object) -> None:
        raise ValueError("a defect")

    link = PipelineLink.to(embedded.url)
    with monkeypatch.context() as broken:
        broken.setattr(Connection, where, begin if where == "_begin" else answer)
        async with asyncio.timeout(5):
            calls = (link.command("PING") for _ in range(20))
            told = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in told} == {StoreDown}
    assert await link.command("PING") == "PONG"
    await link.close()


def test_a_store_without_room_for_a_connection_is_asked_once_and_named_at_once(
    tmp_path: Path,
) -> None:
    # The server sends the error unasked and hangs up; the service's loop may see the end first.
    async def ask(url: str) -> list[str]:
        async def busy() -> None:
            while True:
                sum(range(500_000))  # too long for the loop to read in time
                await asyncio.sleep(0)

        beside, link, told = asyncio.create_task(busy()), PipelineLink.to(url), []
        for _ in range(20):
            with pytest.raises(StoreDown) as down:
                async with asyncio.timeout(5):
                    await link.command("PING")
            told.append(f"{down.value} {down.value.sent}")
        beside.cancel()
        await link.close()
        return told

    with serving("valkey", tmp_path, "maxclients 1") as full, full.client() as first:
        first.ping()
        before = first.info("stats")["rejected_connections"]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            told = runner.run(ask(full.url))
        rejected = first.info("stats")["rejected_connections"] - before
    # Sometimes the end of the connection is seen before the error.
    named = told.count("The store has reached its limit of clients (maxclients). False")
    assert named > 10, told
    assert rejected == 20


@pytest.mark.long
@pytest.mark.parametrize(
    "url",
    [
        "redis://PLACE",
        "redis://:secret@PLACE/3",
        "rediss://PLACE",
        "redis+sentinel://PLACE,PLACE/claims",
        "redis+cluster://PLACE,PLACE",
    ],
)
async def test_no_caller_waits_for_long_for_a_store_that_says_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "READER_S", 1.0)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                pass
        writer.close()

    async with server(silent) as at:
        link = link_to(parse(url.replace("PLACE", at.removeprefix("redis://"))), replicas=1)
        reader = reader_to(link)
        for ask in (link.command, link.replicated, reader.command):
            async with asyncio.timeout(5):
                with pytest.raises(StoreDown):
                    await ask("XREAD", "BLOCK", 10, "STREAMS", "x", "0-0")
        await reader.close()
        await link.close()


async def test_who_asks_as_the_service_stops_is_refused_and_waits_for_nothing() -> None:
    async def connect() -> Connection:
        await asyncio.sleep(3600)
        raise AssertionError

    channel = Channel(connect)
    answer = channel.ask("PING")
    await channel.close()  # before its task has run
    with pytest.raises(StoreDown) as refused:
        await asyncio.wait_for(answer, 20)
    assert not refused.value.sent


async def test_a_sentinel_that_says_nothing_holds_up_nobody() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                pass
        writer.close()

    async def names_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while (asked := await reader.read(4096)) and asked.count(b"claims") == 2:
                epoch = b"*2\r\n$12\r\nconfig-epoch\r\n$1\r\n7\r\n"
                writer.write(epoch + b"*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n")
        writer.close()

    async with server(silent) as first, server(names_one) as second:
        places = [host_and_port(url.removeprefix("redis://"), 0) for url in (first, second)]
        asked = Sentinels([Endpoint().at(*place) for place in places], "claims")
        for _ in range(3):  # each lookup asks every Sentinel again
            async with asyncio.timeout(TIMEOUT_S * 0.75):
                assert await asked.primary() == ("127.0.0.1", 6379)
        await asked.close()
