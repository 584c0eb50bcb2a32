"""Real processes race for the tasks of a real repository, and survive crashes (I10)."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import processes
from tests.harness.services import ServiceProcess, new_session, running
from tests.races.draining import drain, tasks_of
from tests.races.racing import NO_LIMITS, race_for_one, share_out

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.long
def test_of_fifty_processes_one_wins_and_every_other_hears_who_and_how_long(tmp_path: Path) -> None:
    with running(tmp_path / "service", env=NO_LIMITS) as service:
        told = race_for_one(service, tmp_path, racers=50, rounds=2)
    assert told == {"won": 2, "refused": 98}


@pytest.mark.long
def test_eight_sessions_share_out_a_repositorys_files_without_doubles(tmp_path: Path) -> None:
    listed = processes.run(["git", "ls-files"], cwd=REPOSITORY, check=True).stdout
    tasks = [f"review {path}" for path in listed.splitlines()[:25]]
    with running(tmp_path / "service", env=NO_LIMITS) as service:
        won = share_out(service, tmp_path, sessions=8, tasks=tasks)
        claims = httpx.get(f"{service.url}/v1/share.out/claims").json()["claims"]
    assert set(won) == set(tasks)
    assert {claim["task"]: claim["holder"]["label"] for claim in claims} == won
    assert len(set(won.values())) > 1


@pytest.mark.long
def test_kill_9_of_service_and_store_loses_no_acknowledged_claim(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path / "service", env=NO_LIMITS)
    acknowledged: dict[str, int] = {}
    session = new_session()
    killed_at = iter([137, 611, 1009, 1666])
    try:
        service.start()
        next_kill = next(killed_at)
        number = 0
        while len(acknowledged) < 2000:
            if len(acknowledged) >= next_kill:
                next_kill = next(killed_at, 10**9)
                _crash_under_load(service, session, acknowledged, number)
                number += 200
                service.start()
            with _caller(service, session) as http:
                for _ in range(50):
                    number += 1
                    _claim(http, f"T-{number}", acknowledged)
        service.kill()
        service.start()
        held = _everything(service)
    finally:
        service.stop()
    lost = {task for task, fence in acknowledged.items() if held.get(task) != fence}
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged claims are gone: {lost}"


def _caller(service: ServiceProcess, session: str) -> httpx.Client:
    url = f"{service.url}/v1/crash.test"
    return httpx.Client(base_url=url, headers={"Dibs-Session": session}, timeout=10, verify=False)


def _claim(http: httpx.Client, task: str, acknowledged: dict[str, int]) -> None:
    answer = http.post("/claim", json={"task": task})
    if answer.status_code in (200, 201):
        acknowledged[task] = answer.json()["fence"]
    else:
        assert answer.status_code == 503, answer.text


def _crash_under_load(
    service: ServiceProcess, session: str, acknowledged: dict[str, int], first: int
) -> None:
    """Kill service and store together while claims are in progress."""
    underway = threading.Event()

    def load() -> None:
        try:
            with _caller(service, session) as http:
                for number in range(first + 1, first + 200):
                    _claim(http, f"T-{number}", acknowledged)
                    if number == first + 50:
                        underway.set()
        except httpx.TransportError:
            pass  # the crash; an unacknowledged claim may or may not exist

    thread = threading.Thread(target=load)
    thread.start()
    assert underway.wait(20)
    service.kill()  # the store dies with the service
    thread.join(20)


def _everything(service: ServiceProcess) -> dict[str, int]:
    found, cursor = {}, ""
    while True:
        query = {"limit": 200} | ({"cursor": cursor} if cursor else {})
        page = httpx.get(f"{service.url}/v1/crash.test/claims", params=query).json()
        found.update({claim["task"]: claim["fence"] for claim in page["claims"]})
        cursor = page["cursor"]
        if not cursor:
            return found


@pytest.mark.long
def test_fifty_processes_drain_a_list_each_task_once_after_its_needs_and_in_order(
    tmp_path: Path,
) -> None:
    """Rules 23 and 24, with 500 tasks whose needs are ten levels deep."""
    with running(tmp_path / "service", env=NO_LIMITS) as service:
        drain(service.port, 50, tasks_of(500, 10))


BATCH = 25


def _batch(number: int) -> list[dict[str, Any]]:
    """Return one request of a list, in which each task needs one of the previous batch."""
    names = [f"B-{number}-{n}" for n in range(BATCH)]
    needs = {"needs": [f"B-{number - 1}-0"]} if number else {}
    return [{"task": name, "body": f"text of {name}", **needs} for name in names]


@pytest.mark.long
def test_kill_9_in_the_middle_of_a_list_leaves_each_request_whole_or_undone(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path / "service", env=NO_LIMITS)
    session, written = new_session(), set[int]()
    try:
        service.start()
        with _caller(service, session) as http:
            assert http.post("/claim", json={"task": "B-0-1"}).status_code == 201
        for crash in range(4):
            with _written(service, session, crash * 30, written) as underway:
                assert underway.wait(20)
                service.kill()  # the store dies with the service, in the middle of the list
            service.start()
        kept = _whole_list(service)
        batches = {number for _, number, _ in kept}
        assert written <= batches, "each acknowledged batch exists"
        for number in batches:
            assert {n for _, b, n in kept if b == number} == set(range(BATCH)), "all or nothing"
        held = _everything(service)
        assert set(held) == {"B-0-1"}, "the claim survived every crash"
        with _caller(service, session) as http:
            for number in range(120):
                answer = http.post("/tasks", json={"tasks": _batch(number)}).json()
                told = "unchanged" if number in batches else "created"
                assert len(answer[told]) == BATCH, (number, answer)
        states = {task: state for task, (state, _, _) in _states(service).items()}
        assert states["B-0-0"] == "ready"
        assert states["B-7-3"] == "blocked"
    finally:
        service.stop()


@contextlib.contextmanager
def _written(
    service: ServiceProcess, session: str, first: int, written: set[int]
) -> Iterator[threading.Event]:
    """Write thirty requests of a list from a thread; yield an event that is set while it runs."""
    underway = threading.Event()

    def load() -> None:
        try:
            with _caller(service, session) as http:
                for number in range(first, first + 30):
                    if http.post("/tasks", json={"tasks": _batch(number)}).status_code == 200:
                        written.add(number)
                    if number == first + 9:
                        underway.set()
        except httpx.TransportError:
            pass  # the crash; an unacknowledged request is complete or has no effect
        finally:
            underway.set()

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield underway
    finally:
        thread.join(20)


def _states(service: ServiceProcess) -> dict[str, tuple[str, int, int]]:
    """Return each listed task's state, batch, and place in the batch."""
    found, cursor = {}, ""
    while True:
        query = {"limit": 200} | ({"cursor": cursor} if cursor else {})
        page = httpx.get(f"{service.url}/v1/crash.test/tasks", params=query).json()
        for task in page["tasks"]:
            _, batch, place = task["task"].split("-")
            found[task["task"]] = (task["state"], int(batch), int(place))
        cursor = page["cursor"]
        if not cursor:
            return found


def _whole_list(service: ServiceProcess) -> set[tuple[str, int, int]]:
    return set(_states(service).values())
