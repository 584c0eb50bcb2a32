"""Functions that a store keeps for dibs: they make acts faster, and nothing depends on them."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from tests.harness import acting
from tests.harness.services import new_session
from tests.ops.farm import PASSWORD as FARM_PASSWORD
from tests.ops.farm import cluster, free_ports
from tests.tools.servers import KINDS, serving

from dibs import results
from dibs.acts import SCRIPTS, claim
from dibs.model import Project, Task
from dibs.store import Rules, Store, StoreDown
from dibs.store.library import Library, NoLibrary
from dibs.store.local.embedded import EmbeddedStore
from dibs.store.redis import functions
from dibs.store.redis.failures import ErrorReply, failure
from dibs.store.redis.functions import Functions
from dibs.store.redis.link import PipelineLink
from dibs.store.redis.store_url import link_to, parse

FREE = Rules(rate_per_session=0, rate_per_project=0, claims_per_session=2_000)
PROJECT = Project("func.tions")
OFTEN = ("claim", "heartbeat", "release")
USER = "user dibs on >password ~dibs:* &* +@all"
anywhere = pytest.mark.parametrize("kind", KINDS)


@contextlib.asynccontextmanager
async def at(url: str, rules: Rules = FREE) -> AsyncIterator[Store]:
    """Yield the store at `url`, opened."""
    store = Store(PipelineLink.to(url), rules)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def runs(operator: redis.Redis) -> dict[str, int]:
    """Return the number of calls of each way to run something since the last reset."""
    stats: Any = operator.info("commandstats")
    ways = ("fcall", "eval", "evalsha", "function|load")
    return {way: int(stats.get(f"cmdstat_{way}", {}).get("calls", 0)) for way in ways}


def libraries(operator: redis.Redis) -> list[str]:
    """Return the names of the server's libraries."""
    listed: Any = operator.function_list()
    told = [
        each if isinstance(each, dict) else dict(zip(each[::2], each[1::2], strict=True))
        for each in listed
    ]
    return sorted(each["library_name"] for each in told)


async def all_three(store: Store, task: str) -> None:
    """Claim, renew and release a task; assert that each succeeds."""
    ann = new_session()
    granted = await acting.claim(store, PROJECT, ann, [Task(task)])
    assert isinstance(granted, results.Granted), granted
    beat = await acting.heartbeat(store, PROJECT, ann, Task(task))
    assert isinstance(beat, results.Renewed), beat
    ended = await acting.release(store, PROJECT, ann, Task(task), outcome="released")
    assert isinstance(ended, results.Ended), ended


@anywhere
async def test_what_is_done_often_is_a_function_that_the_store_keeps(
    kind: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path) as server, server.client() as operator:
        async with at(server.url) as store:
            await all_three(store, "T-0")
            operator.config_resetstat()
            await all_three(store, "T-1")
            assert runs(operator)["fcall"] == 3
            assert runs(operator)["function|load"] == 0
        names = [name.split("_")[1] for name in libraries(operator)]
        assert names == sorted(OFTEN)


REFUSING = [
    *('rename-command FCALL ""', 'rename-command FUNCTION ""'),
    *(f"{USER} -fcall", f"{USER} -function", f"{USER} -function|load", f"{USER} -@all"),
]


@anywhere
@pytest.mark.parametrize("line", REFUSING)
async def test_a_store_that_gives_us_no_functions_is_sent_scripts(
    kind: str, line: str, tmp_path: Path
) -> None:
    if line.endswith("-@all"):
        line = line.replace("-@all", "-@scripting +eval +evalsha")
    with serving(kind, tmp_path, line) as server, server.client() as operator:
        url = server.url_of("dibs", "password") if line.startswith("user") else server.url
        async with at(url) as store:
            await all_three(store, "T-0")
            operator.config_resetstat()
            for number in range(5):
                await all_three(store, f"T-{number}")
            assert runs(operator)["fcall"] == 0, "the store tries functions once"
            assert libraries_or_none(operator) == []


def libraries_or_none(operator: redis.Redis) -> list[str]:
    try:
        return libraries(operator)
    except redis.ResponseError:  # the server has no such command
        return []


@anywhere
async def test_what_was_refused_is_asked_for_again_on_the_next_connection(
    kind: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path, f"{USER} -fcall") as server, server.client() as operator:
        async with at(server.url_of("dibs", "password")) as store:
            await all_three(store, "T-0")
            operator.execute_command("ACL", "SETUSER", "dibs", "+fcall")
            operator.client_kill_filter(_type="normal", skipme=True)
            async with asyncio.timeout(10):
                while not runs(operator)["fcall"]:
                    with contextlib.suppress(StoreDown):  # the connection was cut
                        await acting.claim(store, PROJECT, new_session(), [Task("T-1")])


@anywhere
@pytest.mark.parametrize("flush", ["FUNCTION", "SCRIPT"])
async def test_what_the_store_forgot_it_is_given_again(
    kind: str, flush: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path) as server, server.client() as operator:
        async with at(server.url) as store:
            operator.config_resetstat()  # the start itself uses scripts
            for number in range(3):
                operator.execute_command(flush, "FLUSH")
                await all_three(store, f"T-{number}")
            assert runs(operator)["eval"] == 0
            assert len(libraries(operator)) == len(OFTEN)


@anywhere
async def test_fifty_at_once_after_a_flush_are_each_answered(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as server, server.client() as operator:
        async with at(server.url) as store:
            for _ in range(5):
                operator.function_flush()
                told = await asyncio.gather(
                    *(
                        acting.claim(store, PROJECT, new_session(), [Task(f"T-{number}")])
                        for number in range(50)
                    )
                )
                assert {type(outcome) for outcome in told} <= {results.Granted, results.Conflict}
            granted = await acting.claim(store, PROJECT, new_session(), [Task("T-last")])
            assert isinstance(granted, results.Granted)


@anywhere
async def test_a_full_store_keeps_its_order_and_functions_come_back_with_room(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions, "PAUSE_S", 0.0)
    with serving(kind, tmp_path) as server, server.client() as operator:
        async with at(server.url) as store:
            ann = new_session()
            await acting.claim(store, PROJECT, ann, [Task("T-1")])
            operator.function_flush()  # so that it cannot load new ones either
            operator.config_set("maxmemory", 1)
            for _ in range(2):
                full = await acting.claim(store, PROJECT, new_session(), [Task("T-2")])
                assert isinstance(full, results.Full)
            held = await acting.claim(store, PROJECT, new_session(), [Task("T-1")])
            assert isinstance(held, results.Conflict), "a full store still reports the conflict"
            beat = await acting.heartbeat(store, PROJECT, ann, Task("T-1"))
            assert isinstance(beat, results.Renewed)
            ended = await acting.release(store, PROJECT, ann, Task("T-1"), outcome="released")
            assert isinstance(ended, results.Ended)
            operator.config_set("maxmemory", 0)
            await all_three(store, "T-3")
            operator.config_resetstat()
            await all_three(store, "T-4")
            assert runs(operator)["fcall"] == 3


@anywhere
async def test_a_replica_and_a_store_short_of_replicas_refuse_as_ever(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions, "PAUSE_S", 0.0)
    with serving(kind, tmp_path) as server, server.client() as operator:
        async with at(server.url) as store:
            await all_three(store, "T-0")
            operator.config_set("min-replicas-to-write", 1)
            with pytest.raises(StoreDown, match="fewer replicas") as short:
                await acting.claim(store, PROJECT, new_session(), [Task("T-1")])
            assert not short.value.sent
            operator.config_set("min-replicas-to-write", 0)
            operator.replicaof("127.0.0.1", "1")
            with pytest.raises(StoreDown, match="replica") as replica:
                await acting.claim(store, PROJECT, new_session(), [Task("T-1")])
            assert not replica.value.sent
            operator.replicaof("NO", "ONE")
            await all_three(store, "T-1")


@anywhere
async def test_two_versions_over_one_store_never_run_one_anothers_code(
    kind: str, tmp_path: Path
) -> None:
    longer = replace(FREE, ttl_ms=3 * FREE.ttl_ms)
    with serving(kind, tmp_path) as server, server.client() as operator:
        async with at(server.url) as before, at(server.url, longer) as after:
            for number in range(3):
                for store, rules in ((before, FREE), (after, longer)):
                    task = Task(f"T-{number}-{rules.ttl_ms}")
                    granted = await acting.claim(store, PROJECT, new_session(), [task])
                    assert isinstance(granted, results.Granted)
                    assert granted.claims[0].ttl == rules.ttl_ms // 1000
            assert len(libraries(operator)) == 2


def test_a_name_says_what_is_in_it() -> None:
    names = {script.fill(FREE).library for script in (SCRIPTS[name] for name in OFTEN)}
    names |= {claim.SCRIPT.fill(replace(FREE, ttl_ms=1)).library}
    assert len({library.name for library in names if library}) == len(OFTEN) + 1
    first, other = (Library.of("x", [f"return '{each}'"], "INSIDE()") for each in "ab")
    assert first.name != other.name


async def test_old_libraries_go_and_those_of_others_stay(tmp_path: Path) -> None:
    for kind in KINDS:
        with serving(kind, tmp_path) as server, server.client() as operator:
            now_s = int(operator.time()[0])
            for number in range(30):
                age_s = number * functions.YOUNG_S // 10 + 10
                operator.function_load(Library(f"dibs_x_{number}", CODE).text(now_s - age_s))
            operator.function_load(Library("theirs", CODE).text(0))
            operator.function_load(THEIRS)
            async with at(server.url) as store:
                await all_three(store, "T-0")
                kept = libraries(operator)
                # 10 and 11 are not young, and are not of the latest 12 (KEPT) since three newer
                # ones were loaded.
                assert [f"dibs_x_{number}" in kept for number in range(30)] == [
                    number < 10 for number in range(30)
                ], kept
                assert "theirs" in kept
                assert "dibs_theirs" in kept, "another's library with the prefix of dibs"
                # A library that is deleted while in use is loaded again.
                for name in kept:
                    if name.startswith("dibs_claim"):
                        operator.function_delete(name)
                await all_three(store, "T-1")


CODE = "return function() return 1 end"
THEIRS = "#!lua name=dibs_theirs\nredis.register_function('f', function() return 1 end)"


@anywhere
async def test_nothing_of_one_run_is_left_for_the_next(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as server, server.client() as operator:
        async with at(server.url) as store:
            room = store.room
            for number in range(3):
                store.room = lambda: "The disk is nearly full."
                full = await acting.claim(store, PROJECT, new_session(), [Task("T-full")])
                assert isinstance(full, results.Full), full
                store.room = room
                await all_three(store, f"T-{number}")
                other = Project(f"oth.er{number}")
                granted = await acting.claim(store, other, new_session(), [Task("T-1")])
                assert isinstance(granted, results.Granted)
                assert not granted.lost
            assert runs(operator)["fcall"] > 10


async def test_a_private_store_keeps_its_functions_through_restarts_and_rewrites(
    tmp_path: Path,
) -> None:
    for turn in range(3):
        started = EmbeddedStore.start(tmp_path / "data")
        try:
            with redis.Redis.from_url(started.url, decode_responses=True) as operator:
                async with at(started.url) as store:
                    await all_three(store, f"T-{turn}")
                assert runs(operator)["function|load"] == (0 if turn else len(OFTEN))
                assert len(libraries(operator)) == len(OFTEN)
                if turn == 1:
                    operator.bgrewriteaof()
                    async with asyncio.timeout(20):
                        while operator.info("persistence")["aof_rewrite_in_progress"]:
                            await asyncio.sleep(0.02)
        finally:
            started.stop()


async def test_a_primary_that_lacks_a_function_is_given_it_and_a_replica_gets_it(
    tmp_path: Path,
) -> None:
    here, there = free_ports(2)
    soon = "repl-diskless-sync-delay 0"
    with (
        serving("valkey", tmp_path, soon, f"port {here}") as primary,
        serving("valkey", tmp_path, soon, f"port {there}") as replica,
        primary.client() as operator,
        replica.client() as other,
    ):
        async with at(primary.url) as store:
            await all_three(store, "T-0")
        other.replicaof("127.0.0.1", str(here))
        async with asyncio.timeout(20):
            while len(libraries(other)) < len(OFTEN):
                await asyncio.sleep(0.02)
        other.replicaof("NO", "ONE")
        other.function_flush()  # as in a failover before they were replicated
        async with at(replica.url) as store:
            await all_three(store, "T-1")
        assert len(libraries(other)) == len(OFTEN)
        assert len(libraries(operator)) == len(OFTEN)


async def test_each_primary_of_a_cluster_is_asked_for_itself(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        with nodes[0].client() as one:
            one.execute_command("ACL", "SETUSER", "default", "-fcall")
        seeds = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        url = f"redis+cluster://:{quote(FARM_PASSWORD)}@{seeds}"
        store = Store(link_to(parse(url)), FREE)
        try:
            await store.open()
            for number in range(30):
                project = Project(f"clu.ster{number}")
                granted = await acting.claim(store, project, new_session(), [Task("T-1")])
                assert isinstance(granted, results.Granted)
            kept = []
            for node in nodes:
                with node.client() as client:
                    kept.append(len(libraries(client)))
            assert kept == [0, 1, 1]
        finally:
            await store.close()


class Saying:
    """A server that answers the commands with `answers`, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), list[tuple[str | int, ...]]()

    async def command(self, *parts: str | int) -> Any:
        self.asked.append(parts)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def refused(text: str) -> Exception:
    """Return the exception that a command raises for this error of the server."""
    return failure(ErrorReply(text), sent=False)


LIBRARY = Library("dibs_x_1", CODE)
NOT_KNOWN = "ERR Function not found"


@pytest.mark.parametrize(
    "error",
    [
        refused("MOVED 1 127.0.0.1:1"),
        refused("ASK 1 127.0.0.1:1"),
        refused("ERR user_function:4: a bug script: f, on @user_function:4."),
        refused("WRONGTYPE Operation against a key script: f, on @user_function:3."),
        StoreDown("The connection to the store failed.", sent=True),
        StoreDown("No connection to the store.", sent=False),
    ],
)
async def test_what_began_or_belongs_elsewhere_is_not_done_again_as_a_script(
    error: Exception,
) -> None:
    server, known = Saying(), Functions()
    assert not await known.amend(server, LIBRARY, error)
    assert known.used
    assert not server.asked


@pytest.mark.parametrize(
    ("text", "lasts"),
    [
        ("ERR unknown command 'FCALL', with args beginning with: ", True),
        ("NOPERM User dibs has no permissions to run the 'fcall' command", True),
        ("ERR this server does as it likes", True),
        ("OOM command not allowed when used memory > 'maxmemory'.", False),
        ("READONLY You can't write against a read only replica.", False),
        ("MISCONF Errors writing to the AOF file: No space left", False),
        ("NOREPLICAS Not enough good replicas to write.", False),
    ],
)
@pytest.mark.parametrize("of", ["FCALL", "LOAD"])
async def test_a_refusal_lasts_as_long_as_its_reason(text: str, lasts: bool, of: str) -> None:
    now_s = 1000.0
    known = Functions(lambda: now_s)
    if of == "FCALL":
        server = Saying()
        assert await known.amend(server, LIBRARY, refused(text))
    else:
        server = Saying(["5", "0"], refused(text))
        assert await known.amend(server, LIBRARY, refused(NOT_KNOWN))
    assert not known.used
    now_s += functions.PAUSE_S + 1
    assert known.used is not lasts
    now_s = math.inf
    known.ask_again()
    assert known.used


async def test_who_comes_second_with_a_library_uses_that_of_the_first() -> None:
    server, known = (
        Saying(["5", "0"], refused("ERR Library 'dibs_x_1' already exists")),
        Functions(),
    )
    assert await known.amend(server, LIBRARY, refused(NOT_KNOWN))
    assert known.used


async def test_a_connection_that_is_lost_while_a_library_is_loaded_has_done_nothing() -> None:
    lost = StoreDown("The connection to the store failed.", sent=True)
    for answers in ([lost], [["5", "0"], lost], [["5", "0"], "dibs_x_1", lost]):
        with pytest.raises(StoreDown) as down:
            await Functions().amend(Saying(*answers), LIBRARY, refused(NOT_KNOWN))
        assert not down.value.sent


async def test_a_user_who_may_load_and_not_list_has_functions_all_the_same() -> None:
    no_right = refused("NOPERM User dibs has no permissions to run the 'function|list' command")
    known = Functions()
    assert await known.amend(Saying(["5", "0"], "x", no_right), LIBRARY, refused(NOT_KNOWN))
    assert known.used


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "local A = 1\nlocal function f() return A end\nlocal A = 2\nreturn f()",
            "defined twice: A",
        ),
        (
            "local A = B\nlocal B = 1\nlocal function f() return B end\nreturn f()",
            "its definition: B",
        ),
        ("  local A = 1", "does not begin a statement"),
    ],
)
def test_a_script_that_would_mean_something_else_as_a_library_is_refused(
    text: str, why: str
) -> None:
    with pytest.raises(NoLibrary, match=why):
        Library.of("x", [text], "INSIDE()")
