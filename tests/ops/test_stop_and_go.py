"""Restarts, backups and version changes lose no acknowledged claim."""

import gzip
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
from tests.harness import processes
from tests.harness.processes import clean_environ, until
from tests.harness.services import DIBS, Running, ServiceProcess, new_session
from tests.ops.steady_load import SteadyLoad

from dibs.store.local.embedded import EmbeddedStore

NO_RATES = dict.fromkeys(
    ("DIBS_RATE_PER_SESSION", "DIBS_RATE_PER_PROJECT", "DIBS_READS_PER_PROJECT"), "0"
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """Start a store that outlives services; yield its URL."""
    started = EmbeddedStore.start(tmp_path / "d")
    yield started.url
    started.stop()


def dibs(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return processes.run([*DIBS, *arguments], env=clean_environ(), timeout=60)


def has_more(load: SteadyLoad, than: int) -> bool:
    return len(load.grants) > than


@pytest.mark.long
def test_a_rolling_restart_under_load_loses_nothing_and_refuses_nobody(store: str) -> None:
    environ = NO_RATES | {"DIBS_REDIS_URL": store}
    services = [Running(env=environ), Running(env=environ)]
    ports = [service.port for service in services]
    projects = ["a", "b", "c"]
    try:
        with SteadyLoad(lambda: ports, projects) as load:
            for turn in range(2):
                for place in (0, 1):
                    count = len(load.grants)
                    until(partial(has_more, load, count + 100), "the load runs")
                    assert services[place].stop() < 2.5, turn
                    assert services[place].process.returncode == 0
                    services[place] = Running(env=environ, port=ports[place])
        load.assert_fences_only_grew()
        assert set(load.answers) <= {
            *("claim 201", "claim held", "release 200"),
            *("claim 200", "claim unavailable", "release unavailable"),
        }, load.answers
        assert load.answers["release not-holder"] == 0
        for grant in [grant for grant in load.grants if grant.kept]:
            path = f"/v1/{grant.project}/claims/{grant.task}?fence={grant.fence}"
            assert services[0].ask("GET", path)[1]["current"] is True, grant
        assert len(load.grants) > 400
    finally:
        for service in services:
            service.__exit__()


@pytest.mark.long
def test_a_backup_of_a_running_store_has_every_acknowledged_claim(tmp_path: Path) -> None:
    file = tmp_path / "claims.tar.gz"
    session = new_session()
    with Running("--data-dir", str(tmp_path / "d"), env=NO_RATES) as service:
        fence = service.claim("kept", session)[1]["fence"]
        with SteadyLoad(lambda: [service.port], ["p"], threads=2) as load:
            until(lambda: len(load.grants) > 50, "the load runs")
            before = [grant for grant in list(load.grants) if grant.kept]
            with redis.Redis.from_url(f"unix://{tmp_path}/d/valkey.sock") as client:
                threading.Timer(0.05, client.bgrewriteaof).start()
                made = dibs("backup", str(file), "--data-dir", str(tmp_path / "d"))
        assert made.returncode == 0, made.stderr
        assert file.stat().st_mode & 0o077 == 0
    restored = dibs("restore", str(file), "--data-dir", str(tmp_path / "other"))
    assert restored.returncode == 0, restored.stderr
    assert "the claims of 1 project " in restored.stdout
    with Running("--data-dir", str(tmp_path / "other"), env=NO_RATES) as service:
        assert service.claim("kept", session)[0] == 200
        assert service.claim("kept", session)[1]["fence"] == fence
        assert service.claim("kept")[0] == 409
        for grant in before:
            shown = service.ask("GET", f"/v1/p/claims/{grant.task}?fence={grant.fence}")[1]
            assert shown["current"] is True, grant
        newest = max(grant.fence for grant in load.grants)
        assert service.claim("new")[1]["fence"] > newest, "no fence is repeated"


@pytest.mark.long
def test_a_restore_touches_no_claims_that_are_there(tmp_path: Path) -> None:
    file, data = tmp_path / "b.tar.gz", str(tmp_path / "d")
    with Running("--data-dir", data) as service:
        service.claim("T-1")
        assert dibs("backup", str(file), "--data-dir", data).returncode == 0
        refused = dibs("restore", str(file), "--data-dir", data)
        assert refused.returncode == 1
        assert "already holds claims" in refused.stderr
        assert service.claim("T-1")[0] == 409


@pytest.mark.long
def test_what_is_no_backup_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    text, foreign, cut = tmp_path / "text", tmp_path / "foreign.tar.gz", tmp_path / "cut.tar.gz"
    text.write_text("hello")
    (tmp_path / "evil").write_text("x")
    with tarfile.open(foreign, "w:gz") as archive:
        archive.add(tmp_path / "evil", "../evil")
    with Running("--data-dir", str(tmp_path / "d")) as service:
        service.claim("T-1")
        assert dibs("backup", str(cut), "--data-dir", str(tmp_path / "d")).returncode == 0
    cut.write_bytes(cut.read_bytes()[:-200])
    for file in (text, foreign, cut, tmp_path / "missing"):
        refused = dibs("restore", str(file), "--data-dir", str(tmp_path / "other"))
        assert refused.returncode == 1, file
        assert "Traceback" not in refused.stderr
        assert not any((tmp_path / "other").glob("append*")), file


def test_a_backup_that_was_changed_is_refused_though_it_can_be_unpacked(tmp_path: Path) -> None:
    kept, changed = tmp_path / "b.tar.gz", tmp_path / "changed.tar.gz"
    with Running("--data-dir", str(tmp_path / "d")) as service:
        service.claim("T-1", label="held-by-ann")
        assert dibs("backup", str(kept), "--data-dir", str(tmp_path / "d")).returncode == 0
    checksum = kept.read_bytes()[-8:]
    other = gzip.decompress(kept.read_bytes()).replace(b"held-by-ann", b"held-by-bob")
    changed.write_bytes(gzip.compress(other)[:-8] + checksum)
    refused = dibs("restore", str(changed), "--data-dir", str(tmp_path / "other"))
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    assert "cannot read" in refused.stderr
    assert not any((tmp_path / "other").glob("append*"))


@pytest.mark.parametrize("file", [".", "a-file/b", "a-file", "none/b"])
def test_where_no_backup_can_be_written_is_said_in_a_line(tmp_path: Path, file: str) -> None:
    (tmp_path / "a-file").mkdir() if file == "a-file" else (tmp_path / "a-file").write_text("")
    with Running("--data-dir", str(tmp_path / "d")):
        made = processes.run(
            [*DIBS, "backup", file, "--data-dir", str(tmp_path / "d")], cwd=tmp_path, timeout=30
        )
    assert (made.returncode, made.stderr.count("\n")) == (1, 1), made.stderr
    assert made.stderr.startswith(f"dibs backup: cannot write {file}: ")


def test_nothing_to_back_up_is_said(tmp_path: Path) -> None:
    refused = dibs("backup", str(tmp_path / "b"), "--data-dir", str(tmp_path / "none"))
    assert refused.returncode == 1
    assert "nothing to copy" in refused.stderr
    assert os.listdir(tmp_path) == []


def test_data_of_a_newer_version_is_refused_with_a_sentence_and_kept(store: str) -> None:
    with Running(env={"DIBS_REDIS_URL": store}) as service:
        assert service.claim("T-1")[0] == 201
    with redis.Redis.from_url(store) as client:
        client.set("dibs:format", "4")
        refused = processes.run(
            [*DIBS, "serve", "--port", "0"],
            env=clean_environ({"DIBS_REDIS_URL": store}),
            timeout=30,
        )
        assert refused.returncode == 1
        assert "data of format 4; this dibs reads format 3" in refused.stderr
        assert client.get("dibs:format") == b"4"
        client.set("dibs:format", "3")  # the version that wrote it runs again
    with Running(env={"DIBS_REDIS_URL": store}) as service:
        assert service.claim("T-1")[0] == 409


@pytest.mark.long
@pytest.mark.parametrize("is_full", [False, True])
def test_data_of_the_format_before_is_gone_on_with_and_each_claim_kept(
    store: str, is_full: bool
) -> None:
    session = new_session()
    with Running(env={"DIBS_REDIS_URL": store}) as service:
        assert service.claim("T-1", session, note="mine")[0] == 201
    with redis.Redis.from_url(store) as client:
        client.set("dibs:format", "2")
        client.config_set("maxmemory", "1" if is_full else "0")
        for _ in range(2):  # the second start finds the upgrade done
            with Running(env={"DIBS_REDIS_URL": store}) as service:
                assert client.get("dibs:format") == b"3"
                status, claim = service.claim("T-1", session)
                assert (status, claim["note"]) == (200, "mine")
        client.config_set("maxmemory", "0")


def format_of(folder: Path) -> bytes | None:
    """Return the format of a private store's data; None while the store does not answer."""
    try:
        with redis.Redis(unix_socket_path=str(folder / "data" / "valkey.sock")) as client:
            return client.get("dibs:format")
    except redis.RedisError:
        return None


@pytest.mark.long
@pytest.mark.parametrize("killed_when", ["the store answers", "it is upgraded", "it is ready"])
def test_an_upgrade_that_is_killed_loses_no_claim(tmp_path: Path, killed_when: str) -> None:
    """kill -9 ends service and store, each time a little later; the next start works as usual."""
    session = new_session()
    with ServiceProcess(tmp_path, env=NO_RATES) as service:
        fences = {f"T-{n}": service.claim(f"T-{n}", session)[1]["fence"] for n in range(40)}
        with redis.Redis(unix_socket_path=str(tmp_path / "data" / "valkey.sock")) as client:
            client.set("dibs:format", "2")
        moments = {
            "the store answers": lambda: format_of(tmp_path) is not None,
            "it is upgraded": lambda: format_of(tmp_path) == b"3",
            "it is ready": lambda: bool(service.said),
        }
        for _ in range(2):
            service.kill()
            command = [*DIBS, "serve", "--port", "0"]
            with open(service.out, "w") as out:
                process = processes.start(command, env=service.env, cwd=tmp_path, stdout=out)
                until(moments[killed_when], killed_when, every_s=0.001)
                process.kill()
                processes.end(process)
        service.start()
        assert format_of(tmp_path) == b"3"
        for task, fence in fences.items():
            status, claim = service.claim(task, session)
            assert (status, claim["fence"]) == (200, fence)


@pytest.mark.long
def test_a_service_whose_store_was_taken_over_by_a_newer_version_stops(store: str) -> None:
    """A newer service upgraded the store: the old service must not simply go on."""
    with Running(env={"DIBS_REDIS_URL": store}) as service:
        assert service.claim("T-1")[0] == 201
        with redis.Redis.from_url(store) as client:
            client.set("dibs:format", "4")
            until(lambda: service.ask("GET", "/v1/p/claims")[0] == 503, "it stops within a second")
            status, body = service.claim("T-2")
            assert (status, body["outcome"]) == (503, "not-applied")
            assert "data of format 4" in body["detail"]
            assert client.exists("dibs:{p}:task:T-2") == 0
            client.set("dibs:format", "3")
        until(lambda: service.claim("T-2")[0] in (201, 409), "claims are granted again")
