"""A disk that fills up loses no acknowledged write, and every start works.

DIBS_DISK_ROUNDS: the rounds of load, full disk and kills (3; 10 in the long form).
"""

import contextlib
import http.client
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from tests.harness.processes import until
from tests.harness.services import ServiceProcess, new_session
from tests.tools.volumes import MB, fill, free, volume

from dibs.serve import DiskLog
from dibs.settings import Settings
from dibs.store.local.disk import RESERVE, DiskLimits, Volume, Watch, human, lend, make_room
from dibs.store.local.embedded import EmbeddedStore, StoreUnavailable

ROUNDS = int(os.environ.get("DIBS_DISK_ROUNDS", "3"))
UNLIMITED = ("--rate-per-project", "0", "--rate-per-session", "0")
NOTE = "n" * 900


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a volume of 64 MB."""
    with volume(tmp_path / "disk", 64) as place:
        yield place


def service_on(disk: Path, folder: Path, *flags: str) -> ServiceProcess:
    """Return a service whose claims are on the disk and whose own log is not."""
    return ServiceProcess(folder, *UNLIMITED, *flags, env={"DIBS_DATA_DIR": str(disk / "data")})


def beat(service: ServiceProcess, session: str, task: str) -> int:
    wish = {"task": task, "note": NOTE}
    return service.ask("POST", "/v1/p/heartbeat", wish, session)[0]


def until_claims_go_on(service: ServiceProcess) -> None:
    until(lambda: service.claim(f"new {time.monotonic()}")[0] == 201, "claims go on", 30)


def lines(service: ServiceProcess, event: str) -> list[str]:
    return [line for line in service.logged if event in line]


# The limit for new claims


@pytest.mark.parametrize(
    ("total", "kept"),
    [(64 * MB, 64 * MB * 15 // 100), (1024 * MB, 100 * MB), (500 * 1024 * MB, 100 * MB)],
    ids=["a small volume: 15 %", "1 GB: 100 MB", "a large one: 100 MB"],
)
def test_the_lesser_of_a_part_and_a_size_is_kept_free(total: int, kept: int) -> None:
    assert DiskLimits().kept_free(total) == kept
    assert DiskLimits(percent=0).kept_free(total) == 0
    assert DiskLimits(most=0).kept_free(total) == 0


def test_claims_stop_at_the_limit_and_go_on_a_little_above_it(tmp_path: Path) -> None:
    limits, kept = DiskLimits(), 100 * MB
    watch = Watch(tmp_path, limits)

    def why(free_mb: int) -> str:
        volume = Volume(1024 * MB, free_mb * MB, 0, 0, "", 0, reserve=2 * MB)
        watch._why = watch._look(volume, 0.0)
        return watch._why

    assert limits.kept_free(1024 * MB) == kept
    assert why(100) == ""
    assert "99.0 MB are free and 100 MB are reserved for the holders of claims" in why(99)
    assert why(105) != "", "the way back has a margin"
    assert why(110) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (10_066_329, "9.6 MB"), (100 * MB, "100 MB"), (5 << 40, "5.0 TB")],
)
def test_a_size_is_said_as_people_read_it(count: int, text: str) -> None:
    assert human(count) == text


def test_new_claims_stop_before_the_disk_is_full_while_holders_go_on(
    disk: Path, tmp_path: Path
) -> None:
    holder = new_session()
    with service_on(disk, tmp_path / "s") as service:
        assert service.claim("T-1", holder)[0] == 201
        taken = fill(disk, leave=8 * MB)

        def refused() -> bool:
            tries = [service.claim(f"new {time.monotonic()}") for _ in range(10)]
            for status, body in tries:
                assert status == 201 or (status, body["code"]) == (507, "full")
                assert status == 201 or "The disk of the store is full" in body["detail"]
            return {status for status, _ in tries} == {507}

        until(refused, "new claims are refused")
        assert service.claim("T-1")[0] == 409, "a refusal can still name the holder"
        assert service.claim("T-1", holder)[0] == 200
        assert beat(service, holder, "T-1") == 200
        status, ready, _ = service.ask("GET", "/readyz")
        assert (status, ready["status"], ready["durability"]) == (200, "full", "strict")
        assert "The disk of the store is full" in ready["reasons"][0]
        until(lambda: service.metrics()["dibs_store_full"] == 1, "the metric shows it")
        assert service.ask("POST", "/v1/p/release", {"task": "T-1"}, holder)[0] == 200
        taken.unlink()
        until(lambda: service.claim(f"again {time.monotonic()}")[0] == 201, "claims go on")
        until(lambda: lines(service, "store_disk_has_room"), "the end is logged")
        assert len(lines(service, "store_disk_full")) == 1
        assert len(lines(service, "store_disk_has_room")) == 1


@pytest.mark.long
def test_what_somebody_takes_while_the_log_is_written_anew_costs_no_later_start(
    disk: Path, tmp_path: Path
) -> None:
    """A start lends the reserve to the rewrite of the log; any process may take the lent space."""
    with service_on(disk, tmp_path / "s") as service:
        session = new_session()
        assert service.claim("T-1", session)[0] == 201
        for _ in range(2_500):
            assert beat(service, session, "T-1") == 200
    directory = next(path.parent for path in disk.rglob(RESERVE))
    before = Volume.of(directory)
    assert before.gain > before.for_holders // 2, "a rewrite would shorten the log"
    fill(disk)
    for _ in range(5):
        make_room(directory, lambda: [fill(disk)].clear())
        fill(disk)
    assert Volume.of(directory).reserve > 0


def test_what_a_running_store_lends_a_rewrite_is_not_all_of_the_reserve(disk: Path) -> None:
    """A rewrite needs the size of the log: here more than the reserve and the free space."""
    data = disk / "data"
    logs = data / "appendonlydir"
    logs.mkdir(parents=True)
    (logs / "appendonly.aof.1.incr.aof").write_bytes(bytes(20 * MB))
    (data / RESERVE).write_bytes(bytes(8 * MB))
    fill(disk, leave=4 * MB)
    volume = Volume.of(data)
    assert volume.free + volume.reserve < volume.for_a_rewrite
    lend(data)
    assert Volume.of(data).reserve == volume.for_holders // 2


@pytest.mark.long
def test_a_limit_of_nothing_never_stops_claims(disk: Path, tmp_path: Path) -> None:
    with service_on(disk, tmp_path / "s", "--disk-free-percent", "0") as service:
        fill(disk, leave=3 * MB)
        time.sleep(1.5)
        assert service.claim("T-1")[0] == 201


# A disk that is full regardless


@pytest.mark.long
def test_holders_go_on_when_somebody_else_takes_the_last_byte(disk: Path, tmp_path: Path) -> None:
    holder = new_session()
    with service_on(disk, tmp_path / "s") as service:
        assert service.claim("T-1", holder)[0] == 201
        until((disk / "data" / RESERVE).exists, "there is a reserve")
        fill(disk)
        # At once, unless the next write came before the service noticed that the disk is full.
        until(lambda: free(disk) > 0, "the reserve is released")
        until(lambda: beat(service, holder, "T-1") == 200, "holders go on")
        store = service.store()
        for _ in range(40):
            assert beat(service, holder, "T-1") == 200
            time.sleep(0.1)
        assert service.claim("T-2")[0] == 507
        assert service.store() == store


@pytest.mark.long
def test_a_service_starts_again_on_a_disk_without_a_free_byte(disk: Path, tmp_path: Path) -> None:
    holder = new_session()
    service = service_on(disk, tmp_path / "s")
    with service:
        fence = service.claim("T-1", holder)[1]["fence"]
        until((disk / "data" / RESERVE).exists, "there is a reserve")
        service.kill()
        for _ in range(3):
            fill(disk)
            service.start()
            status, claim = service.claim("T-1", holder)
            assert (status, claim["fence"]) == (200, fence)
            assert service.claim("T-2")[0] == 507
            assert service.ask("GET", "/readyz")[1]["status"] == "full"
            service.kill()
            until(lambda: free(disk) > 0, "the reserve is released")


def test_a_start_for_which_there_is_too_little_room_is_logged_though_the_watch_sees_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = DiskLog(lambda: "", Settings())
    for _ in range(3):
        assert watch("no room to start") == "no room to start"
    assert watch() == ""
    told = [record.getMessage().split(" ")[0] for record in caplog.records]
    assert told == ["store_disk_full", "store_disk_has_room"]


@pytest.mark.long
def test_without_room_and_reserve_the_service_says_so_and_comes_back_by_itself(
    disk: Path, tmp_path: Path
) -> None:
    holder = new_session()
    with service_on(disk, tmp_path / "s") as service:
        assert service.claim("T-1", holder)[0] == 201
        until((disk / "data" / RESERVE).exists, "there is a reserve")
        os.kill(service.store(), signal.SIGSTOP)
        (disk / "data" / RESERVE).unlink()
        taken = fill(disk)
        os.kill(service.store(), signal.SIGKILL)
        seen, until_s = [], time.monotonic() + 6
        while time.monotonic() < until_s:
            seen.append(service.ask("GET", "/readyz")[:2])
            time.sleep(0.05)
        late = seen[len(seen) // 2 :]
        for status, ready in late:
            assert status == 503 or ready["status"] == "full", "never ready between two crashes"
            assert "The disk of the store is full" in str(ready)
        assert len(service.logged) <= 8, service.logged
        until(lambda: lines(service, "store_disk_full"), "the full disk is logged")
        assert len(lines(service, "store_disk_full")) == 1
        taken.unlink()
        until(lambda: beat(service, holder, "T-1") == 200, "the store answers again")
        until(lambda: service.claim(f"new {time.monotonic()}")[0] == 201, "claims go on")


def test_without_room_and_reserve_a_start_says_so(disk: Path) -> None:
    data_dir = disk / "data"
    EmbeddedStore.start(data_dir).stop()
    (data_dir / RESERVE).unlink(missing_ok=True)
    taken = fill(disk)
    with pytest.raises(StoreUnavailable, match=r"is full: .* Claims are safe; free space there"):
        EmbeddedStore.start(data_dir)
    taken.unlink()
    EmbeddedStore.start(data_dir).stop()


# The reserve, and the log


def test_the_reserve_is_really_there_closed_to_others_and_of_the_size_of_the_log(
    disk: Path,
) -> None:
    store = EmbeddedStore.start(disk / "data")
    try:
        with redis.Redis.from_url(store.url) as client:
            for number in range(3_000):
                client.set(f"record{number}", "x" * 1000)
        reserve = disk / "data" / RESERVE
        log = Volume.of(disk / "data").log
        until(lambda: reserve.exists() and reserve.stat().st_size > log, "the reserve has grown")
        found = reserve.stat()
        assert found.st_blocks * 512 >= found.st_size
        assert found.st_mode & 0o077 == 0
    finally:
        store.stop()


@pytest.mark.long
def test_a_log_that_renewals_made_long_is_written_anew_on_an_almost_full_disk(disk: Path) -> None:
    store = EmbeddedStore.start(disk / "data")
    try:
        with redis.Redis.from_url(store.url) as client:
            for number in range(1_000):
                client.set(f"record{number}", "x" * 1000)
            for number in range(2_500):
                client.set(f"record{number % 1_000}", "y" * 1000)
            before = Volume.of(disk / "data").log
            until(lambda: Volume.of(disk / "data").reserve > before, "the reserve has grown")
            fill(disk, leave=MB)
            assert free(disk) < before
            until(lambda: Volume.of(disk / "data").log < 1.5 * MB, "the log is short again", 30)
            for number in range(6_000):
                client.set(f"record{number % 1_000}", "z" * 1000)
                time.sleep(0.0005)
        assert store.alive()
    finally:
        store.stop()


def test_what_a_killed_rewrite_left_is_removed_at_the_next_start(disk: Path) -> None:
    EmbeddedStore.start(disk / "data").stop()
    for name in ("temp-rewriteaof-bg-17.aof", "temp-rewriteaof-17.aof"):
        (disk / "data" / name).write_bytes(bytes(MB))
    EmbeddedStore.start(disk / "data").stop()
    assert not list((disk / "data").glob("temp-*"))


class Renewals:
    """Sessions that claim and renew continuously, with a record of the acknowledged claims."""

    def __init__(self, service: ServiceProcess) -> None:
        self.service, self.ended = service, threading.Event()
        self.acknowledged: dict[tuple[str, str], int] = {}
        self.answers: dict[int, int] = {}
        self.threads = [threading.Thread(target=self._run, args=(n,)) for n in range(3)]
        for thread in self.threads:
            thread.start()

    def _run(self, number: int) -> None:
        session, count = new_session(), 0
        while not self.ended.is_set():
            count += 1
            if count % 40 == 0:
                session = new_session()
            task = f"T-{number}-{count}"
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, body = self.service.claim(task, session, note=NOTE)
                self.answers[status] = self.answers.get(status, 0) + 1
                if status == 201:
                    self.acknowledged[task, session] = body["fence"]
                elif self.acknowledged:
                    held, holder = next(reversed(self.acknowledged))
                    beat(self.service, holder, held)
                continue
            time.sleep(0.05)

    def stop(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(30)


@pytest.mark.long
@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_a_disk_full_under_load_with_kills_in_between_loses_nothing_and_every_start_works(
    tmp_path: Path,
) -> None:
    starts = acknowledged = 0
    for number in range(ROUNDS):
        chance = random.Random(number)
        place = tmp_path / f"disk{number}"
        with volume(place, 24) as disk:
            service = service_on(disk, tmp_path / f"s{number}", "--max-claims-per-project", "99999")
            with service:
                load = Renewals(service)
                try:
                    time.sleep(chance.uniform(0.5, 2))
                    taken = fill(disk, leave=chance.choice([0, 0, MB // 4, 2 * MB]))
                    time.sleep(chance.uniform(0.2, 1.5))
                    with contextlib.suppress(StopIteration, ProcessLookupError):
                        os.kill(service.store(), signal.SIGKILL)
                    time.sleep(chance.uniform(0, 1))
                    fill(disk)
                    service.kill()
                    service.start()
                    starts += 1
                    time.sleep(chance.uniform(0.5, 1.5))
                    service.kill()
                    service.start()
                    starts += 1
                finally:
                    load.stop()
                taken.unlink()
                until_claims_go_on(service)
                for (task, session), fence in load.acknowledged.items():
                    status, claim = service.claim(task, session)
                    assert (status, claim.get("fence")) == (200, fence), (task, claim)
                acknowledged += len(load.acknowledged)
                assert load.answers.keys() <= {201, 409, 429, 503, 507}, (
                    load.answers,
                    service.log.read_text()[-8000:],
                )
    print(f"{starts} of {2 * ROUNDS} starts, {acknowledged} acknowledged claims, 0 lost")
    assert acknowledged > 20 * ROUNDS
