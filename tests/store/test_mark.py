"""A log that was emptied or removed is damage, and does not start as an empty store."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.harness import processes
from tests.tools.servers import private

from dibs.store.local import aof, backup, mark
from dibs.store.local.embedded import EmbeddedStore, StoreUnavailable


def used(data_dir: Path, *, rewritten: bool = False) -> Path:
    """Return a data directory that has had claims."""
    with private(data_dir) as client:
        client.set("dibs:format", "2")
        client.set("record", "held")
        if rewritten:
            client.bgrewriteaof()
            while client.info("persistence")["aof_rewrite_in_progress"]:
                pass
            client.set("record", "parked")
    with private(data_dir):
        pass
    return data_dir


def newest(data_dir: Path) -> Path:
    return max(data_dir.glob("appendonlydir/*.incr.aof"))


def emptied(data_dir: Path) -> None:
    os.truncate(newest(data_dir), 0)


def all_emptied(data_dir: Path) -> None:
    for path in data_dir.glob("appendonlydir/*.aof"):
        os.truncate(path, 0)


def log_removed(data_dir: Path) -> None:
    shutil.rmtree(data_dir / "appendonlydir")


def manifest_removed(data_dir: Path) -> None:
    (data_dir / "appendonlydir" / aof.MANIFEST).unlink()


def begun_anew_meanwhile(data_dir: Path) -> None:
    """Replace the log with that of another store."""
    log_removed(data_dir)
    other = data_dir.with_name("other")
    used(other)
    shutil.copytree(other / "appendonlydir", data_dir / "appendonlydir")


@pytest.mark.parametrize("rewritten", [False, True], ids=["young", "rewritten"])
@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (emptied, "is empty"),
        (all_emptied, "its log is empty"),
        (log_removed, "its log, appendonlydir, is missing"),
        (manifest_removed, "its manifest, appendonlydir/appendonly.aof.manifest, is missing"),
        (begun_anew_meanwhile, "its log is that of another store"),
    ],
)
def test_a_log_that_lost_its_claims_is_refused_with_what_to_do(
    tmp_path: Path, harm: Callable[[Path], None], named: str, rewritten: bool
) -> None:
    data_dir = used(tmp_path / "data", rewritten=rewritten)
    harm(data_dir)
    before = sorted((p, p.read_bytes()) for p in data_dir.glob("appendonlydir/*"))
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as refused:
            EmbeddedStore.start(data_dir)
        assert str(refused.value).startswith(f"{data_dir} has had claims, but ")
        assert named in str(refused.value)
        assert "dibs restore" in str(refused.value)
        assert f"move {data_dir} away" in str(refused.value)
    assert sorted((p, p.read_bytes()) for p in data_dir.glob("appendonlydir/*")) == before


def test_the_advice_is_right_and_a_directory_moved_away_is_begun_anew(tmp_path: Path) -> None:
    data_dir = used(tmp_path / "data")
    emptied(data_dir)
    data_dir.rename(tmp_path / "moved away")
    with private(data_dir) as client:
        assert client.get("record") is None


def test_a_service_does_not_start_on_an_emptied_log(tmp_path: Path) -> None:
    data_dir = used(tmp_path / "data")
    emptied(data_dir)
    serve = [sys.executable, "-P", "-m", "dibs", "serve", "--port", "0", "--data-dir"]
    refused = processes.run([*serve, str(data_dir)], timeout=30)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"dibs serve: {data_dir} has had claims, but ")


def test_data_from_before_there_were_marks_is_marked_at_the_next_start(tmp_path: Path) -> None:
    data_dir = used(tmp_path / "data")
    with private(data_dir) as client:
        client.delete(mark.KEY)
    (data_dir / mark.FILE).unlink()
    with private(data_dir) as client:
        assert client.get("record") == "held"
    emptied(data_dir)
    with pytest.raises(StoreUnavailable, match="has had claims"):
        EmbeddedStore.start(data_dir)


@pytest.mark.parametrize("said", [b"", b"\0" * 60, b"[]", b'{"name": 1}'])
def test_a_mark_that_cannot_be_read_still_says_that_there_were_claims(
    tmp_path: Path, said: bytes
) -> None:
    data_dir = used(tmp_path / "data")
    (data_dir / mark.FILE).write_bytes(said)
    with private(data_dir) as client:
        assert client.get("record") == "held"
    assert mark.read(data_dir).name, "the mark is rewritten"
    (data_dir / mark.FILE).write_bytes(said)
    all_emptied(data_dir)
    with pytest.raises(StoreUnavailable, match="has had claims"):
        EmbeddedStore.start(data_dir)


def test_a_running_store_marks_the_file_that_a_rewrite_began(tmp_path: Path) -> None:
    with private(tmp_path / "data") as client:
        before = mark.read(tmp_path / "data").grown
        client.bgrewriteaof()
        while mark.read(tmp_path / "data").grown == before:
            client.set("record", "held")
    assert mark.read(tmp_path / "data").grown == newest(tmp_path / "data").name


def test_a_store_is_reached_only_after_it_was_found_to_be_the_right_one(tmp_path: Path) -> None:
    data_dir = used(tmp_path / "data")
    begun_anew_meanwhile(data_dir)
    with pytest.raises(StoreUnavailable):
        EmbeddedStore.start(data_dir)
    assert not (data_dir / "valkey.sock").exists()


def test_a_restored_log_brings_its_own_mark(tmp_path: Path) -> None:
    data_dir, other = used(tmp_path / "data"), used(tmp_path / "other")
    backup.backup(data_dir, tmp_path / "copy")
    log_removed(other)
    assert "restored" in backup.restore(other, tmp_path / "copy")
    with private(other) as client:
        assert client.get("record") == "held"
    assert mark.read(other).name == mark.read(data_dir).name


def test_a_restore_that_fails_leaves_the_mark_that_was_there(tmp_path: Path) -> None:
    data_dir = used(tmp_path / "data")
    with private(tmp_path / "no claims"):
        pass
    backup.backup(tmp_path / "no claims", tmp_path / "copy")
    for target, had in ((data_dir, mark.read(data_dir)), (tmp_path / "new", None)):
        shutil.rmtree(target / "appendonlydir", ignore_errors=True)
        with pytest.raises(StoreUnavailable, match="no claims of dibs"):
            backup.restore(target, tmp_path / "copy")
        assert mark.read(target) == had


def test_a_log_that_a_person_cut_is_taken_for_what_it_is(tmp_path: Path) -> None:
    data_dir = used(tmp_path / "data", rewritten=True)
    log = newest(data_dir)
    log.write_bytes(b"?" + log.read_bytes()[1:])
    repair = [sys.executable, "-P", "-m", "dibs", "repair", "--data-dir", str(data_dir)]
    processes.run(repair, check=True, timeout=30)
    assert log.stat().st_size == 0
    with private(data_dir) as client:
        assert client.get("record") == "held"
