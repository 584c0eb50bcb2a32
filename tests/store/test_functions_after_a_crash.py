"""The functions that a store keeps come back with it, or are loaded again: after kill -9, a
failover, a restore, and while somebody flushes them. No act fails for lack of them, and no claim
is lost."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from tests.harness import acting
from tests.harness.processes import until
from tests.harness.services import new_session
from tests.ops.farm import PASSWORD, free_ports, sentinels
from tests.proofs import stores
from tests.store.test_functions import (
    FREE,
    OFTEN,
    PROJECT,
    all_three,
    anywhere,
    at,
    libraries,
    runs,
)
from tests.tools.servers import StoreServer, serving

from dibs import results
from dibs.model import Session, Task
from dibs.store import Store, StoreDown
from dibs.store.local import backup
from dibs.store.redis.store_url import link_to, parse

LOGGED = ("appendonly yes", "appendfsync always")
programs = pytest.mark.parametrize("program", ["embedded", "redis"])
"""The private server from the wheel, and Debian's."""


async def held(store: Store, task: str) -> Session:
    """Return a session that has claimed a task and sent one heartbeat."""
    ann = new_session()
    granted = await acting.claim(store, PROJECT, ann, [Task(task)])
    assert isinstance(granted, results.Granted), granted
    assert isinstance(await acting.heartbeat(store, PROJECT, ann, Task(task)), results.Renewed)
    return ann


async def goes_on(store: Store, task: str, ann: Session) -> None:
    """Assert that Ann still holds it: others are refused, her acts and all others work."""
    refused = await acting.claim(store, PROJECT, new_session(), [Task(task)])
    assert isinstance(refused, results.Conflict), refused
    assert isinstance(await acting.heartbeat(store, PROJECT, ann, Task(task)), results.Renewed)
    ended = await acting.release(store, PROJECT, ann, Task(task), outcome="released")
    assert isinstance(ended, results.Ended), ended
    await all_three(store, f"{task}-next")


async def answered(store: Store, task: str, ann: Session) -> None:
    """Wait until the store is reachable again."""
    async with asyncio.timeout(30):
        while True:
            try:
                await acting.show(store, PROJECT, Task(task), ann)
                return
            except StoreDown:
                await asyncio.sleep(0.05)


@contextmanager
def logged(kind: str, folder: Path, port: int, *more: str) -> Iterator[StoreServer]:
    """Yield a server whose log is in `folder`/data, for another start; end it with kill -9."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    with serving(kind, folder / "runs", *LOGGED, f"port {port}", f"dir {data}", *more) as server:
        yield server


@anywhere
async def test_a_server_that_was_killed_has_its_functions_from_its_log(
    kind: str, tmp_path: Path
) -> None:
    [port] = free_ports(1)
    store = Store(link_to(parse(f"redis://127.0.0.1:{port}")), FREE)
    try:
        with logged(kind, tmp_path, port):
            await store.open()
            ann = await held(store, "T-1")
            await all_three(store, "T-2")
        with logged(kind, tmp_path, port) as server, server.client() as operator:
            await answered(store, "T-1", ann)
            operator.config_resetstat()
            await goes_on(store, "T-1", ann)
            ways = runs(operator)
            assert len(libraries(operator)) == len(OFTEN)
            assert (ways["function|load"], ways["eval"], ways["fcall"]) == (0, 0, 6), ways
    finally:
        await store.close()


@programs
@pytest.mark.parametrize("rewritten", [False, True])
async def test_a_private_store_that_was_killed_has_its_functions_from_its_log(
    program: str, rewritten: bool, tmp_path: Path
) -> None:
    private = stores.Private(tmp_path, program)
    try:
        async with at(private.url) as store:
            ann = await held(store, "T-1")
            await all_three(store, "T-2")
        [operator] = private.clients()
        with operator:
            if rewritten:
                operator.bgrewriteaof()
                until(lambda: not rewriting(operator), "the log is rewritten")
        private.kill()
        private.start()
        [operator] = private.clients()
        with operator:
            assert len(libraries(operator)) == len(OFTEN)
            async with at(private.url) as store:
                await goes_on(store, "T-1", ann)
            assert runs(operator)["function|load"] == 0
    finally:
        private.stop()


def rewriting(operator: redis.Redis) -> bool:
    """Return whether the server rewrites its log."""
    told: dict[str, int] = operator.info("persistence")
    return bool(told["aof_rewrite_in_progress"] or told["aof_rewrite_scheduled"])


@programs
@pytest.mark.parametrize("kept", [40, 4_000])
async def test_a_library_that_a_crash_cut_short_is_given_again(
    program: str, kept: int, tmp_path: Path
) -> None:
    private = stores.Private(tmp_path, program)
    try:
        async with at(private.url) as store:
            ann = await held(store, "T-1")
            await all_three(store, "T-2")  # this release is the first: its library is loaded last
        private.kill()
        cut_off_in_its_last_library(tmp_path / "store", kept)
        private.start()
        [operator] = private.clients()
        with operator:
            assert len(libraries(operator)) == len(OFTEN) - 1
            async with at(private.url) as store:
                await goes_on(store, "T-1", ann)
            assert len(libraries(operator)) == len(OFTEN)
    finally:
        private.stop()


def cut_off_in_its_last_library(data_dir: Path, kept: int) -> None:
    """Keep `kept` bytes of the last library in a private store's log, and nothing after them."""
    log = max(data_dir.glob("appendonlydir/*.incr.aof"))
    os.truncate(log, log.read_bytes().rindex(b"FUNCTION\r\n$4\r\nLOAD") + kept)


async def test_another_server_on_the_same_log_has_them(tmp_path: Path) -> None:
    first, *then = ("embedded", "redis", "embedded")
    private = stores.Private(tmp_path, first)
    try:
        async with at(private.url) as store:
            ann = await held(store, "T-0")
            await all_three(store, "T-x")
        for number, program in enumerate(then):
            private.kill()
            private = stores.Private(tmp_path, program)
            [operator] = private.clients()
            with operator:
                assert len(libraries(operator)) == len(OFTEN)
                async with at(private.url) as store:
                    await goes_on(store, f"T-{number}", ann)
                    ann = await held(store, f"T-{number + 1}")
                assert runs(operator)["function|load"] == 0
    finally:
        private.stop()


@anywhere
async def test_no_act_fails_while_functions_and_scripts_are_flushed_again_and_again(
    kind: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path) as server, server.client() as operator:
        async with at(server.url) as store:
            flushed = 0

            async def flush() -> None:
                nonlocal flushed
                while True:
                    operator.function_flush()
                    operator.script_flush()
                    flushed += 1
                    await asyncio.sleep(0)

            flushing = asyncio.create_task(flush())
            try:
                for turn in range(20):
                    await asyncio.gather(
                        *(all_three(store, f"T-{turn}-{number}") for number in range(10))
                    )
            finally:
                flushing.cancel()
            assert flushed > 50
            ways = runs(operator)
            assert ways["function|load"] > 20, "the acts loaded the missing functions"
            await all_three(store, "T-last")


@pytest.mark.long
async def test_a_failover_goes_on_with_the_functions_that_the_replica_has(tmp_path: Path) -> None:
    with sentinels(tmp_path) as (servers, watchers):
        hosts = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
        url = f"redis+sentinel://:{quote(PASSWORD)}@{hosts}/claims"
        store = Store(link_to(parse(url), replicas=1), FREE)
        try:
            await store.open()
            ann = await held(store, "T-1")
            await all_three(store, "T-2")
            with servers[1].client() as replica:
                until(lambda: len(libraries(replica)) == len(OFTEN), "the replica has them")
                servers[0].kill()
                until(lambda: replica.info("replication")["role"] == "master", "it is promoted", 30)
                replica.config_set("min-replicas-to-write", 0)
                store.link.replicas = 0  # no replica is left
                await answered(store, "T-1", ann)
                await goes_on(store, "T-1", ann)
                ways = runs(replica)
                assert ways["fcall"] == 6
                assert len(libraries(replica)) == len(OFTEN)
        finally:
            await store.close()


@anywhere
async def test_a_dump_that_has_no_functions_is_gone_on_with(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as server, server.client() as operator:
        async with at(server.url) as store:
            ann = await held(store, "T-1")
        operator.function_flush()
        operator.save()
        dump = server.socket.parent / "dump.rdb"
        (tmp_path / "restored").mkdir()
        shutil.copyfile(dump, tmp_path / "restored" / "dump.rdb")
    with (
        serving(kind, tmp_path / "runs", f"dir {tmp_path / 'restored'}") as server,
        server.client() as operator,
    ):
        assert libraries(operator) == []
        async with at(server.url) as store:
            await goes_on(store, "T-1", ann)
        assert len(libraries(operator)) == len(OFTEN)


@programs
@pytest.mark.parametrize("flushed", [False, True])
async def test_a_backup_is_restored_with_functions_or_without(
    program: str, flushed: bool, tmp_path: Path
) -> None:
    private = stores.Private(tmp_path / "first", program)
    try:
        async with at(private.url) as store:
            ann = await held(store, "T-1")
        [operator] = private.clients()
        with operator:
            if flushed:  # as before dibs had functions
                operator.function_flush()
        backup.backup(tmp_path / "first/store", tmp_path / "copy")
    finally:
        private.stop()
    backup.restore(tmp_path / "second/store", tmp_path / "copy")
    private = stores.Private(tmp_path / "second", program)
    try:
        async with at(private.url) as store:
            await goes_on(store, "T-1", ann)
    finally:
        private.stop()
