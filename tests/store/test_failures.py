"""Failures of a store, and the caller's error: what happened, and whether the call took effect."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError
from tests.conftest import Desk, Stepped
from tests.harness import acting
from tests.harness.processes import until
from tests.harness.services import Running, new_session
from tests.tools.clock import SteppedClock
from tests.tools.servers import serving

from dibs import results
from dibs.acts import SCRIPTS
from dibs.store import Rules, Store, StoreDown, StoreFull
from dibs.store.format import UnsupportedStore
from dibs.store.local.embedded import EmbeddedStore
from dibs.store.redis.failures import ErrorReply, Withheld, failure
from dibs.store.redis.link import PipelineLink
from dibs.store.scripts import Script

FREE = Rules(rate_per_session=0, rate_per_project=0)
ON_LINE_9 = "script: 88c923858e73954cede057e8a25f614a3552b177, on @user_script:9."
SIX = "ERR Error running script (call to f_88c923858e73): @user_script:9: @user_script: 9: "


@contextlib.asynccontextmanager
async def server(handler: Any) -> AsyncIterator[str]:
    """Serve `handler` on a free port; yield its URL. The server ends when its callers have."""
    open_now = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        try:
            await handler(reader, writer)
        finally:
            open_now -= 1

    listening = await asyncio.start_server(counted, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        listening.close()
        async with asyncio.timeout(5):
            while open_now:
                await asyncio.sleep(0.01)


REFUSALS = [
    ("LOADING Redis is loading the dataset in memory", StoreDown, "loading"),
    ("READONLY You can't write against a read only replica.", StoreDown, "replica"),
    ("MISCONF Errors writing to the AOF file: No space left", StoreDown, "write to its disk"),
    ("CLUSTERDOWN The cluster is down", StoreDown, "incomplete"),
    ("MASTERDOWN Link with MASTER is down", StoreDown, "lost its primary"),
    ("NOREPLICAS Not enough good replicas to write.", StoreDown, "min-replicas-to-write"),
    ("BUSY Redis is busy running a script.", StoreDown, "busy"),
    ("NOAUTH Authentication required.", StoreDown, "requires a password"),
    ("WRONGPASS invalid username-password pair", StoreDown, "user or the password"),
    ("ERR DB index is out of range", StoreDown, "no database"),
    ("ERR AUTH <password> called without any password configured", StoreDown, "no password"),
    ("ERR max number of clients reached", StoreDown, "maxclients"),
    ("DENIED Redis is running in protected mode", StoreDown, "protected mode"),
    ("OOM command not allowed when used memory > 'maxmemory'.", StoreFull, "OOM|memory"),
    ("NOPERM User u has no permissions to run the 'config|get' command", Withheld, "CONFIG GET"),
    ("NOPERM this user has no permissions to run the 'time' command or", Withheld, "TIME"),
    ("NOPERM No permissions to access a key", Withheld, "keys that begin with dibs:"),
    ("ERR unknown command `XINFO`, with args beginning with: ", Withheld, "does not support XINFO"),
    ("ERR unknown command 'XINFO', with args beginning with: ", Withheld, "does not support XINFO"),
    # An error of a command in a script, as Redis 7 and Valkey word it, then as Redis 6 does.
    ("OOM command not allowed when used memory > 'maxmemory'. " + ON_LINE_9, StoreFull, "memory"),
    ("NOREPLICAS Not enough good replicas to write. " + ON_LINE_9, StoreDown, "NOREPLICAS"),
    (SIX + "-OOM command not allowed when used memory > 'maxmemory'.", StoreFull, "memory"),
    (SIX + "-MISCONF Errors writing to the AOF file: No space left on device", StoreDown, "disk"),
    ("ERR Unknown Redis command called from script " + ON_LINE_9, Withheld, "a command that"),
    (
        "ERR The user executing the script can't access at least one of the keys mentioned in the "
        "command arguments " + ON_LINE_9,
        Withheld,
        "keys that begin with dibs:",
    ),
    ("ERR something that no store has said before", ResponseError, "something"),
]


@pytest.mark.parametrize(("said", "raised", "told"), REFUSALS)
async def test_a_refusing_store_changed_nothing_and_is_named_so(
    said: str, raised: type[Exception], told: str
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                writer.write(f"-{said}\r\n".encode())
        writer.close()

    async with server(refuse) as url:
        link = PipelineLink.to(url)
        with pytest.raises(raised, match=told) as caught:
            await link.command("GET", "x")
        # A script that lacks a right midway leaves its earlier writes.
        midway = raised is Withheld and "user_script" in said
        assert getattr(caught.value, "sent", False) is midway
        await link.close()


@pytest.fixture(params=[0, 1000], ids=["without rates", "with rates"])
async def refusing(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    """Yield a desk on its own store, which will refuse writes; its user is not the default."""
    embedded = EmbeddedStore.start(tmp_path / "data")
    admin = redis.Redis.from_url(embedded.url)
    admin.execute_command("ACL", "SETUSER", "dibs", "on", ">a-password", "~*", "&*", "+@all")
    url = embedded.url.replace("unix://", "unix://dibs:a-password@")
    rules = Rules(rate_per_session=request.param, rate_per_project=request.param)
    store = Store(PipelineLink.to(url), rules)
    await store.open()
    desk = Desk(store, admin)
    await desk.granted(desk.ann, "known")
    yield desk
    await store.close()
    admin.close()
    embedded.stop()


async def no_replicas(admin: redis.Redis) -> None:
    admin.config_set("min-replicas-to-write", 1)


async def no_snapshot(admin: redis.Redis) -> None:
    (Path(str(admin.config_get("dir")["dir"])) / "dump.rdb").mkdir()
    admin.config_set("save", "1 1")
    admin.bgsave()
    async with asyncio.timeout(10):
        while admin.info("persistence")["rdb_last_bgsave_status"] == "ok":
            await asyncio.sleep(0.02)


async def read_only(admin: redis.Redis) -> None:
    admin.replicaof("127.0.0.1", 1)


async def no_permission(admin: redis.Redis) -> None:
    admin.execute_command("ACL", "SETUSER", "dibs", "-set", "-hset")


@pytest.mark.long
@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (no_replicas, "NOREPLICAS"),
        (no_snapshot, "MISCONF"),
        (read_only, "READONLY"),
        (no_permission, "no right"),
    ],
)
async def test_only_a_store_without_memory_is_full_others_are_down(
    refusing: Desk, begin: Any, said: str
) -> None:
    await begin(refusing.clock)
    for wish in ({}, {"mode": "any"}, {"mode": "all"}):
        with pytest.raises(StoreDown, match=said) as caught:
            await refusing.claim(refusing.bob, "T-1", **wish)
        assert not caught.value.sent
    for act in (
        refusing.claim(refusing.bob, "known", queue=True),
        refusing.beat(refusing.ann, "known"),
        refusing.release(refusing.ann, "known"),
    ):
        with pytest.raises(StoreDown, match=said) as caught:
            await act
        assert not caught.value.sent


@pytest.mark.parametrize(
    "said",
    [
        "ERR ACL failure in script: User u has no permissions to run the 'xadd' command "
        + ON_LINE_9,
        "ERR The user executing the script can't run this command or subcommand " + ON_LINE_9,
        SIX + "-NOPERM The user executing the script can't run this command or subcommand",
    ],
    ids=["Valkey", "Redis 7", "Redis 6"],
)
def test_a_command_that_is_denied_in_a_script_may_have_followed_others(said: str) -> None:
    down = failure(ErrorReply(said), sent=False)
    assert isinstance(down, StoreDown)
    assert down.sent
    assert "no right" in down.reason


@pytest.mark.parametrize("form", ["{}", "-{}\\r\\n", "@user_script: 12: -{}\\r\\n"])
@pytest.mark.parametrize("code", ["OOM", "NOREPLICAS"])
async def test_a_script_knows_a_full_store_by_the_words_of_every_server(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, form: str, code: str
) -> None:
    probe = "redis.pcall('SET', PREFIX .. ':nothing', '', 'XX')"
    script = SCRIPTS["claim"].fill(desk.store.rules)
    assert script.text.count(probe) == 1
    met = "{err = '" + form.format(f"{code} and why.") + "'}"
    text = script.text.replace(probe, met)
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(desk.store._scripts, "claim", Script("claim", text, sha))
    if code == "OOM":
        assert isinstance(await desk.claim(desk.ann, "T-1"), results.Full)
    else:
        with pytest.raises(StoreDown, match=code):
            await desk.claim(desk.ann, "T-1")


async def test_a_store_that_cannot_be_reached_was_sent_nothing() -> None:
    link = PipelineLink.to("redis://127.0.0.1:1")
    with pytest.raises(StoreDown) as caught:
        await link.command("GET", "x")
    assert not caught.value.sent
    await link.close()


async def test_a_store_that_never_answers_is_given_up_after_a_second() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                greetings = data.count(b"SETINFO")  # the library's greeting
                writer.write(b"+OK\r\n" * greetings)
        writer.close()

    async with server(hang) as url:
        link = PipelineLink.to(url)
        started = asyncio.get_running_loop().time()
        with pytest.raises(StoreDown) as caught:
            await link.command("GET", "x")
        assert caught.value.sent, "the command may have run"
        assert asyncio.get_running_loop().time() - started < 3
        await link.close()


class Dropping:
    """A proxy to a store that swallows the next `drops` answers and closes their connections."""

    def __init__(self, socket_path: str) -> None:
        self._path, self.drops = socket_path, 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        from_store, to_store = await asyncio.open_unix_connection(self._path)

        async def forward() -> None:
            while data := await reader.read(65536):
                to_store.write(data)
            to_store.close()

        forwarding = asyncio.create_task(forward())
        while data := await from_store.read(65536):
            if self.drops:
                self.drops -= 1
                break
            writer.write(data)
        forwarding.cancel()
        for one in (writer, to_store):
            one.close()


@pytest.fixture
async def dropping(stepped: Stepped) -> AsyncIterator[tuple[Desk, Dropping]]:
    """Yield a desk whose store is behind such a proxy."""
    embedded, clock = stepped
    proxy = Dropping(embedded.url.removeprefix("unix://"))
    async with server(proxy.handle) as url:
        store = Store(PipelineLink.to(url), FREE)
        await store.open()
        desk = Desk(store, clock)
        await desk.granted(desk.ann, "known")
        yield desk, proxy
        await store.close()


async def test_a_lost_answer_costs_nothing_the_claim_is_granted_once(
    dropping: tuple[Desk, Dropping],
) -> None:
    desk, proxy = dropping
    proxy.drops = 1
    outcome = await desk.claim(desk.ann, "T-1")
    assert isinstance(outcome, results.Granted)
    assert outcome.claims[0].grants == 1
    assert (await desk.events()).count("claimed T-1") == 1


async def test_a_claim_of_unknown_outcome_asked_again_has_the_same_fence(
    dropping: tuple[Desk, Dropping],
) -> None:
    desk, proxy = dropping
    proxy.drops = 10
    with pytest.raises(StoreDown) as caught:
        await desk.claim(desk.ann, "T-1")
    assert caught.value.sent
    proxy.drops = 0
    first = await desk.granted(desk.ann, "T-1")
    assert (await desk.granted(desk.ann, "T-1")).fence == first.fence
    assert first.grants == 1


async def test_a_store_that_forgot_its_scripts_is_given_them_again(desk: Desk) -> None:
    """Tested with an act that every store runs as a script."""
    for _ in range(3):
        held = await desk.granted(desk.ann, "T-1")
        assert isinstance(await desk.break_("T-1", held.fence), results.Ended)
        await desk.store.link.command("SCRIPT", "FLUSH")


async def test_cancelled_calls_never_mix_up_answers(store: Store) -> None:
    sessions = [new_session() for _ in range(40)]

    async def claim(number: int) -> Any:
        return await acting.claim(store, "cancel.me", sessions[number], [f"T-{number}"])

    tasks = [asyncio.create_task(claim(number)) for number in range(40)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    for number, outcome in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
        if number % 2:
            assert outcome.claims[0].task == f"T-{number}"
    shown = await acting.show(store, "cancel.me", "T-1", sessions[1])
    assert shown.mine


async def test_health_names_what_weakens_a_store(tmp_path: Path) -> None:
    embedded = EmbeddedStore.start(tmp_path / "data")
    link = PipelineLink.to(embedded.url)
    store = Store(link, FREE)
    try:
        await store.open()
        assert (await store.health()).durability == "strict"
        await link.command("CONFIG", "SET", "appendfsync", "everysec")
        health = await store.health()
        assert health.durability == "relaxed"
        assert "everysec" in health.reasons[0]
    finally:
        await store.close()
        embedded.stop()


async def test_a_replica_is_not_ready_and_refuses_without_effect(tmp_path: Path) -> None:
    embedded = EmbeddedStore.start(tmp_path / "data")
    store = Store(PipelineLink.to(embedded.url), FREE)
    try:
        await store.open()
        await store.link.command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreDown, match="replica"):
            await store.health()
        with pytest.raises(StoreDown) as caught:
            await acting.claim(store, "rep.lica", new_session(), ["T-1"])
        assert not caught.value.sent
    finally:
        await store.close()
        embedded.stop()


async def test_a_store_whose_clock_stands_still_is_not_ready(tmp_path: Path) -> None:
    clock = SteppedClock(tmp_path / "clock")
    embedded = EmbeddedStore.start(tmp_path / "data", env=clock.env)
    store = Store(PipelineLink.to(embedded.url), FREE)
    try:
        await store.open()
        clock.freeze()
        with pytest.raises(StoreDown, match="does not advance"):
            await store.health()
    finally:
        await store.close()
        embedded.stop()


async def test_ready_means_that_the_store_takes_writes(tmp_path: Path) -> None:
    embedded = EmbeddedStore.start(tmp_path / "data")
    store = Store(PipelineLink.to(embedded.url), FREE)
    try:
        await store.open()
        assert (await store.health()).status == "ready"
        await store.link.command("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(StoreDown, match="NOREPLICAS"):
            await store.health()
        await store.link.command("CONFIG", "SET", "min-replicas-to-write", "0")
        assert (await store.health()).status == "ready"
    finally:
        await store.close()
        embedded.stop()


async def test_data_of_a_newer_dibs_is_refused_with_a_sentence(tmp_path: Path) -> None:
    embedded = EmbeddedStore.start(tmp_path / "data")
    link = PipelineLink.to(embedded.url)
    try:
        await link.command("SET", "dibs:format", "99")
        with pytest.raises(UnsupportedStore, match="format 99"):
            await Store(link, FREE).open()
    finally:
        await link.close()
        embedded.stop()


async def test_a_restarted_store_gives_every_live_claim_one_more_ttl(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    embedded = EmbeddedStore.start(folder)
    store = Store(PipelineLink.to(embedded.url), FREE)
    await store.open()
    ann, bob = new_session(), new_session()
    await acting.claim(store, "restart", ann, ["T-1"], ttl_s=60)
    while (before := await acting.show(store, "restart", "T-1")).expires_in == 60:
        await asyncio.sleep(0.05)
    embedded.stop()
    embedded = EmbeddedStore.start(folder)
    try:
        after = await acting.show(store, "restart", "T-1")
        assert after.expires_in == 60
        assert after.fence == before.fence
        assert isinstance(await acting.claim(store, "restart", bob, ["T-1"]), results.Conflict)
        grown = await acting.claim(store, "restart", bob, ["T-2"])
        assert grown.claims[0].fence > before.fence
    finally:
        await store.close()
        embedded.stop()


@pytest.mark.long
def test_a_claim_that_waited_is_of_unknown_outcome_where_its_store_goes_away(
    tmp_path: Path,
) -> None:
    short = {"DIBS_MIN_TTL": "1s", "DIBS_GRACE": "1s"}
    with (
        serving("valkey", tmp_path) as server,
        Running(env={"DIBS_REDIS_URL": server.url} | short) as service,
        ThreadPoolExecutor(1) as others,
    ):
        assert service.claim("T-1", ttl=2)[0] == 201
        wish = {"task": "T-1", "queue": True, "wait": 20}
        asked = others.submit(service.ask, "POST", "/v1/p/claim", wish, new_session(), 30)
        path = "/v1/p/claims/T-1"
        until(lambda: service.ask("GET", path)[1]["waiters"] == 1, "the waiter has a ticket")
        server.process.kill()
        status, told, _ = asked.result(30)
        assert (status, told["outcome"]) == (503, "unknown"), told
