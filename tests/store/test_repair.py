"""A damaged log: the next start cuts what a crash leaves, `dibs repair` cuts the rest."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness import processes
from tests.harness.processes import until
from tests.harness.services import ServiceProcess, new_session
from tests.tools.servers import private

from dibs.store.local import aof, embedded, log_repair, mark
from dibs.store.local.embedded import EmbeddedStore, StoreKilled, StoreUnavailable

WRITES = 200
ADMIN = "a key of the admins for tests"


def write(client: "redis.Redis", numbers: range) -> None:
    """Write one transaction for each number, with the commands of a claim."""
    for number in numbers:
        with client.pipeline(transaction=True) as act:
            act.set(f"record{number}", '{"state":"held","note":"' + "x" * 60 + '"}')
            act.zadd("live", {f"T-{number}": number})
            act.hset("meta", mapping={"fence": number, "epoch": 1})
            act.xadd("events", {"type": "claimed", "task": f"T-{number}"})
            act.execute()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def log(data_dir: Path) -> Path:
    """Return the growing file of a log of WRITES transactions; its store is stopped."""
    with private(data_dir) as client:
        write(client, range(WRITES))
    return max(data_dir.glob("appendonlydir/*.incr.aof"))


def held(data_dir: Path) -> int:
    """Return the number of writes that a store started on the directory has."""
    with private(data_dir) as client:
        fence = int(client.hget("meta", "fence") or -1)
        assert client.zcard("live") == client.xlen("events") == fence + 1
        return fence + 1


def dibs_repair(data_dir: Path) -> "subprocess.CompletedProcess[str]":
    return processes.run(
        [sys.executable, "-P", "-m", "dibs", "repair", "--data-dir", str(data_dir)],
        timeout=60,
    )


def cut_short_by(count: int) -> Callable[[Path], None]:
    return lambda log: os.truncate(log, log.stat().st_size - count)


def zeros_at_the_end(log: Path) -> None:
    log.write_bytes(log.read_bytes() + bytes(512))


def zeros_over_the_end(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-200] + bytes(200))


def text_at_the_end(log: Path) -> None:
    log.write_bytes(log.read_bytes() + b"text by somebody else\n")


def garbage_in_the_middle(log: Path) -> None:
    text = log.read_bytes()
    middle = text.index(b"\r\n$", len(text) // 2) + 2  # in no value: that would go unnoticed
    log.write_bytes(text[:middle] + b"?" * 20 + text[middle + 20 :])


def a_length_that_reaches_over_the_rest(log: Path) -> None:
    text = log.read_bytes()
    at = text.index(b"$86\r\n", len(text) // 2)
    log.write_bytes(text[:at] + b"$86999999" + text[at + 3 :])


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (cut_short_by(7), WRITES - 1),
        (cut_short_by(3_000), WRITES - 9),
        (zeros_at_the_end, WRITES),
        (zeros_over_the_end, WRITES - 1),
    ],
    ids=["7 bytes", "3,000 bytes", "zeros at the end", "zeros over the end"],
)
def test_what_a_crash_or_a_power_loss_leaves_is_cut_at_the_next_start_and_kept(
    data_dir: Path,
    log: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    kept: int,
) -> None:
    damage(log)
    damaged = log.read_bytes()
    assert held(data_dir) == kept
    told = [each.getMessage() for each in caplog.records if "store_log_cut" in each.getMessage()]
    assert len(told) == 1
    (aside,) = data_dir.glob("cut-*")
    assert str(aside) in told[0]
    assert damaged.endswith(aside.read_bytes())
    assert aside.stat().st_mode & 0o077 == 0
    assert held(data_dir) == kept, "the next start cuts nothing"
    assert len(list(data_dir.glob("cut-*"))) == 1


@pytest.mark.parametrize(
    "damage", [text_at_the_end, garbage_in_the_middle, a_length_that_reaches_over_the_rest]
)
def test_other_damage_is_refused_and_nothing_is_cut_until_a_person_repairs_it(
    data_dir: Path, log: Path, damage: Callable[[Path], None]
) -> None:
    damage(log)
    damaged = log.read_bytes()
    with pytest.raises(StoreUnavailable) as refused:
        EmbeddedStore.start(data_dir)
    assert f"dibs repair --data-dir {data_dir}" in str(refused.value)
    assert "refuses to start without them" in str(refused.value)
    assert log.read_bytes() == damaged
    assert not list(data_dir.glob("cut-*"))

    done = dibs_repair(data_dir)
    assert (done.returncode, done.stderr) == (0, "")
    (aside,) = data_dir.glob("cut-*")
    assert str(aside) in done.stdout
    assert log.read_bytes() + aside.read_bytes() == damaged
    expected = WRITES if damage is text_at_the_end else WRITES // 2
    assert abs(held(data_dir) - expected) <= 2
    assert ("are no longer in the log" in done.stdout) is (damage is not text_at_the_end)


def test_a_transaction_without_its_end_is_cut_whole(data_dir: Path, log: Path) -> None:
    text = log.read_bytes()
    last = text.rindex(b"*1\r\n$5\r\nMULTI\r\n")
    log.write_bytes(text[: text.index(b"*4\r\n$4\r\nZADD", last)])
    assert "an unfinished transaction" in log_repair.repair(data_dir)
    assert log.stat().st_size == last
    assert held(data_dir) == WRITES - 1


def test_a_whole_log_is_left_as_it_is(data_dir: Path, log: Path) -> None:
    before = {path.name: path.read_bytes() for path in log.parent.iterdir()}
    for _ in range(2):
        done = dibs_repair(data_dir)
        assert (done.returncode, done.stderr) == (0, "")
        assert "is undamaged" in done.stdout
    assert {path.name: path.read_bytes() for path in log.parent.iterdir()} == before
    assert not list(data_dir.glob("cut-*"))


def test_a_repair_can_be_repeated(data_dir: Path, log: Path) -> None:
    garbage_in_the_middle(log)
    dibs_repair(data_dir)
    kept = log.read_bytes()
    assert "is undamaged" in dibs_repair(data_dir).stdout
    assert log.read_bytes() == kept


def test_no_log_is_repaired_under_a_running_dibs(data_dir: Path, log: Path) -> None:
    with private(data_dir):
        refused = dibs_repair(data_dir)
    assert refused.returncode == 1
    assert f"dibs repair: Another dibs (pid {os.getpid()}) already uses" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize("there", [False, True], ids=["no directory", "an empty one"])
def test_where_nothing_is_there_is_nothing_to_repair(data_dir: Path, there: bool) -> None:
    if there:
        data_dir.mkdir(mode=0o700)
    refused = dibs_repair(data_dir)
    assert refused.returncode == 1
    assert refused.stderr == f"dibs repair: {data_dir} holds no claims of a private store.\n"


def test_a_log_whose_manifest_is_gone_is_not_repaired(data_dir: Path, log: Path) -> None:
    (log.parent / aof.MANIFEST).unlink()
    refused = dibs_repair(data_dir)
    assert refused.returncode == 1
    assert "restore a backup" in refused.stderr


def test_damage_in_the_base_sets_what_came_later_aside_too(data_dir: Path) -> None:
    with private(data_dir) as client:
        write(client, range(50))
        client.bgrewriteaof()
        while client.info("persistence")["aof_rewrite_in_progress"]:
            pass
        write(client, range(50, 80))
    (base,) = data_dir.glob("appendonlydir/*.base.aof")
    (grown,) = data_dir.glob("appendonlydir/*.incr.aof")
    garbage_in_the_middle(base)
    whole_base, whole_grown = base.read_bytes(), grown.read_bytes()
    done = dibs_repair(data_dir)
    assert (done.returncode, done.stderr) == (0, "")
    aside = {path.name.split("Z-")[1]: path.read_bytes() for path in data_dir.glob("cut-*")}
    assert aside.pop(f"{grown.name}-from-0") == whole_grown
    assert whole_base.endswith(next(iter(aside.values())))
    with private(data_dir) as client:
        assert 0 < client.dbsize() < 50


def test_every_command_that_a_server_logs_is_known(data_dir: Path) -> None:
    with private(data_dir) as client:
        listed = client.execute_command("COMMAND")
    rows = listed.values() if isinstance(listed, dict) else listed
    by_name = {row["name"]: row for row in rows} if isinstance(listed, dict) else {}
    assert by_name
    logged = {name for name, row in by_name.items() if "write" in row["flags"]}
    # No flag shows it: PFCOUNT is a read, and is logged when it updates its cached count.
    logged |= {"pfcount"}
    logged |= {"select", "multi", "exec"}
    known = {name.decode(): words for name, words in aof.FEWEST.items()}
    assert {name: abs(by_name[name]["arity"]) for name in logged}.items() <= known.items()
    assert set(known) - logged == {"function", "xgroup"}


def test_a_server_that_was_killed_while_it_started_is_no_damage(
    data_dir: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the log has a fault: the next start reports it."""
    text = log.read_bytes()
    log.write_bytes(text.replace(b"$4\r\nZADD", b"$4\r\nWHAT", 1))
    real = embedded._wait_until_ready

    def killed(process: "subprocess.Popen[bytes]", path: str) -> None:
        process.kill()
        process.wait(10)
        real(process, path)

    with monkeypatch.context() as patched:
        patched.setattr(embedded, "_wait_until_ready", killed)
        with pytest.raises(StoreKilled, match="ended while starting"):
            EmbeddedStore.start(data_dir)
    with pytest.raises(StoreUnavailable, match="dibs repair"):
        EmbeddedStore.start(data_dir)


@pytest.mark.long
def test_a_log_that_a_service_wrote_looks_whole(tmp_path: Path) -> None:
    """Covers every command of dibs: `repair` would cut the log at one that it does not know."""
    service = ServiceProcess(
        tmp_path / "s", env={"DIBS_ADMIN_KEY": ADMIN, "DIBS_DATA_DIR": str(tmp_path / "data")}
    )
    ann, bob = new_session(), new_session()

    def ask(act: str, who: str, **fields: object) -> dict[str, Any]:
        status, body, _ = service.ask("POST", f"/v1/p/{act}", fields, who)
        assert status in (200, 201, 409), body
        return dict(body)

    with service:
        fence = ask("claim", ann, task="T-1", note="n", label="ann")["fence"]
        ask("claim", bob, task="T-1", queue=True)
        ask("claim", ann, any_of=["T-2", "T-3"])
        ask("heartbeat", ann, task="T-1", state="parked")
        ask("heartbeat", ann)
        ask("release", ann, task="T-2", outcome="done")
        wish = {"task": "T-1", "fence": fence, "reason": "stuck"}
        assert service.ask("POST", "/v1/p/break", wish, Authorization=f"Bearer {ADMIN}")[0] == 200
        for page in ("/", "/p/p", "/v1/p/claims", "/v1/p/events", "/readyz"):
            assert service.ask("GET", page)[0] == 200
        until(lambda: "avoided" in whole(tmp_path / "data"), "the collision is recorded")
        assert service.ask("GET", "/p/p")[0] == 200
        ask("release", bob, all=True)
        service.kill()
    assert log_repair.find_fault((tmp_path / "data").resolve())[0] is None
    assert "pfcount" in whole(tmp_path / "data").lower(), "a logged read was among the commands"


def whole(data_dir: Path) -> str:
    """Return the text of the log."""
    return "".join(path.read_text() for path in sorted(data_dir.glob("appendonlydir/*.aof")))


# Arbitrary damage


class Logs:
    """A log to damage repeatedly, and a server to load the rest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with private(folder) as client:
            write(client, range(12))
            client.hdel("meta", "epoch")
            client.zrem("live", "T-3")
            client.pexpire("record3", 10**9)
        self.path = max(folder.glob("appendonlydir/*.incr.aof"))
        self.text = self.path.read_bytes()
        self.path.write_bytes(self.text)
        self.ends = self._ends()

    def _ends(self) -> list[int]:
        """Return where each command or transaction of the sound log ends, found by cutting."""
        ends = []
        for at in range(1, len(self.text) + 1):
            if self.text[at - 2 : at] == b"\r\n" and self.text[at : at + 1] in (b"*", b""):
                self.path.write_bytes(self.text[:at])
                if aof.scan(self.path).fault == "":
                    ends.append(at)
        return ends

    def repaired(self, damaged: bytes) -> bytes:
        """Repair a damaged log and return the rest; assert that the cut part was put aside."""
        self.path.write_bytes(damaged)
        log_repair.repair(self.folder)
        kept = self.path.read_bytes()
        aside = list(self.folder.glob("cut-*"))
        assert damaged == kept + b"".join(path.read_bytes() for path in aside)
        for path in aside:
            path.unlink()
        return kept


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    return Logs(tmp_path_factory.mktemp("logs") / "data")


ANY_BYTES = st.binary(min_size=1, max_size=40) | st.integers(1, 600).map(bytes)


@pytest.mark.long
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.floats(0, 1), rest=st.none() | ANY_BYTES, over=st.booleans())
def test_whatever_happened_every_whole_command_before_the_damage_is_kept_and_the_log_loads(
    logs: Logs, at: float, rest: bytes | None, over: bool
) -> None:
    place = round(at * len(logs.text))
    end = logs.text[place + len(rest or b"") if over else place :]
    damaged = logs.text[:place] if rest is None else logs.text[:place] + rest + end
    kept = logs.repaired(damaged)
    before = max((end for end in logs.ends if end <= place), default=0)
    assert kept.startswith(logs.text[:before])
    try:
        with private(logs.folder) as client:
            assert client.ping()
    except mark.Gone:  # a valid log that has lost its start was not cut
        assert mark.KEY.encode() not in kept
    logs.path.write_bytes(kept)
