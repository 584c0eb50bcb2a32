"""Events resume without gap or duplicate after reconnects and crashes, or send `reset`."""

import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis
from tests.harness.services import ServiceProcess
from tests.http.conftest import Caller

from dibs.store.broadcast import QUIET_S

OPEN = {"DIBS_RATE_PER_SESSION": "0", "DIBS_RATE_PER_PROJECT": "0"}
CALLS = {"DIBS_MAX_CLAIMS_PER_SESSION": "5000"}


class Follower(threading.Thread):
    """Reads a project's stream and reconnects with the last id that it saw."""

    def __init__(self, url: str, project: str, after: str) -> None:
        super().__init__(daemon=True)
        self.url = f"{url}/v1/{project}/events"
        self.after = after
        self.seen: list[tuple[str, str]] = []
        self.resets = 0
        self.connections = 0
        self.stopping = threading.Event()
        self.changed = threading.Condition()

    def run(self) -> None:
        """Follow the stream until told to stop."""
        while not self.stopping.is_set():
            with contextlib.suppress(httpx.TransportError):
                self._follow_once()

    def _follow_once(self) -> None:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": self.after}
        timeout = httpx.Timeout(5, read=30)
        with httpx.stream("GET", self.url, headers=headers, timeout=timeout) as stream:
            if stream.status_code != 200:
                return
            self.connections += 1
            message: dict[str, str] = {}
            for line in stream.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    message[name] = value
                    continue
                self._take(message)
                message = {}

    def _take(self, message: dict[str, str]) -> None:
        kind = message.get("event")
        if kind is None:
            return
        self.after = message["id"]
        with self.changed:
            if kind == "reset":
                self.resets += 1
            elif kind != "open":
                self.seen.append((kind, json.loads(message["data"])["task"]))
            self.changed.notify_all()

    def wait_for(self, enough: Callable[["Follower"], object]) -> None:
        """Wait until `enough(self)` is true."""
        with self.changed:
            assert self.changed.wait_for(lambda: enough(self), 30), self.seen[-5:]


@pytest.fixture
def crashing(tmp_path: Path) -> Iterator[ServiceProcess]:
    """Start a service that the test may damage."""
    service = ServiceProcess(tmp_path / "service", env=OPEN | CALLS).start()
    yield service
    service.stop()


def _until_granted(caller: Caller, task: str) -> None:
    """Claim a task, and repeat the call while the service or its store is down."""
    while True:
        with contextlib.suppress(httpx.TransportError):
            if caller.post("claim", task=task).status_code in (200, 201):
                return


@pytest.mark.long
def test_a_reader_misses_and_repeats_nothing_while_store_and_service_crash(
    crashing: ServiceProcess,
) -> None:
    caller = Caller(crashing.url, "ev.ents")
    _until_granted(caller, "first")
    after = caller.get("events").json()["next"]
    follower = Follower(crashing.url, "ev.ents", after)
    follower.start()
    for number in range(60):
        if number == 20:
            _kill_store(crashing)
        if number == 40:
            crashing.kill()
            crashing.start()
        _until_granted(caller, f"T-{number}")
    follower.wait_for(lambda one: one.seen and one.seen[-1][1] == "T-59")
    follower.stopping.set()
    assert follower.seen == [("claimed", f"T-{number}") for number in range(60)]
    assert follower.resets == 0
    assert follower.connections >= 2
    caller.http.close()


@pytest.mark.long
def test_a_store_that_lost_its_data_says_reset(crashing: ServiceProcess) -> None:
    caller = Caller(crashing.url, "ev.ents")
    _until_granted(caller, "first")
    after = caller.get("events").json()["next"]
    follower = Follower(crashing.url, "ev.ents", after)
    follower.start()
    follower.wait_for(lambda one: one.connections == 1 or one.seen)
    crashing.kill()
    shutil.rmtree(crashing.folder / "data")
    crashing.start()
    _until_granted(caller, "second")
    follower.wait_for(lambda one: one.resets == 1)
    _until_granted(caller, "third")
    follower.wait_for(lambda one: one.seen and one.seen[-1] == ("claimed", "third"))
    follower.stopping.set()
    caller.http.close()


def test_pages_join_without_gap_or_duplicate(crashing: ServiceProcess) -> None:
    caller = Caller(crashing.url, "ev.ents")
    for number in range(25):
        _until_granted(caller, f"T-{number}")
    seen, after = [], ""
    while True:
        page = caller.get("events", limit=7, **({"after": after} if after else {})).json()
        if not page["events"]:
            break
        seen += [event["task"] for event in page["events"]]
        after = page["next"]
    assert seen == [f"T-{number}" for number in range(25)]
    caller.http.close()


def test_who_was_there_before_the_first_event_misses_none(crashing: ServiceProcess) -> None:
    caller = Caller(crashing.url, "ev.ents")
    before = caller.get("events").json()
    assert (before["events"], before["next"]) == ([], "0-0-0")
    _until_granted(caller, "first")
    page = caller.get("events", after=before["next"]).json()
    assert [event["task"] for event in page["events"]] == ["first"]
    assert page["reset"] is False
    caller.http.close()


def test_a_beginning_that_is_no_longer_kept_says_reset(crashing: ServiceProcess) -> None:
    caller = Caller(crashing.url, "ev.ents")
    for task in ("first", "second"):
        _until_granted(caller, task)
    with _store(crashing) as store:
        store.xtrim("dibs:{ev.ents}:events", maxlen=1, approximate=False)
    page = caller.get("events", after="0-0-0").json()
    assert (page["events"], page["reset"]) == ([], True)
    caller.http.close()


def _store(service: ServiceProcess) -> contextlib.AbstractContextManager[redis.Redis]:
    path = str(service.folder / "data" / "valkey.sock")
    return contextlib.closing(redis.Redis(unix_socket_path=path))


def _kill_store(service: ServiceProcess) -> None:
    with _store(service) as store:
        os.kill(int(store.info("server")["process_id"]), signal.SIGKILL)


def test_a_stream_of_a_task_to_which_nothing_happens_says_that_it_is_there(
    crashing: ServiceProcess,
) -> None:
    caller = Caller(crashing.url, "quiet")
    headers, timeout = {"Accept": "text/event-stream"}, httpx.Timeout(5, read=QUIET_S / 2)
    url = f"{crashing.url}/v1/quiet/events?task=T-1"
    with httpx.stream("GET", url, headers=headers, timeout=timeout) as stream:
        lines = stream.iter_lines()
        assert "event: open" in [next(lines) for _ in range(4)]
        _until_granted(caller, "another")
        assert ": quiet" in [line for line, _ in zip(lines, range(2), strict=False)]
        _until_granted(caller, "T-1")
        while (line := next(lines)) != "event: claimed":
            assert not line.startswith("event:"), line
    caller.http.close()
