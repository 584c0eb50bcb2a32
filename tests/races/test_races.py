"""Real processes race for the tasks of a real repository, and survive crashes (I10)."""

import threading
from pathlib import Path

import httpx
from tests.conftest import new_session
from tests.harness import processes
from tests.harness.services import Service, running
from tests.races.racing import NO_LIMITS, race_for_one, share_out

REPOSITORY = Path(__file__).parents[2]


def test_of_fifty_processes_one_wins_and_every_other_hears_who_and_how_long(tmp_path: Path) -> None:
    with running(tmp_path / "service", env=NO_LIMITS) as service:
        told = race_for_one(service, tmp_path, racers=50, rounds=2)
    assert told == {"won": 2, "refused": 98}


def test_eight_sessions_share_out_a_repositorys_files_without_doubles(tmp_path: Path) -> None:
    listed = processes.run(["git", "ls-files"], cwd=REPOSITORY, check=True).stdout
    tasks = [f"review {path}" for path in listed.splitlines()[:25]]
    with running(tmp_path / "service", env=NO_LIMITS) as service:
        won = share_out(service, tmp_path, sessions=8, tasks=tasks)
        claims = httpx.get(f"{service.url}/v1/share.out/claims").json()["claims"]
    assert set(won) == set(tasks)
    assert {claim["task"]: claim["holder"]["label"] for claim in claims} == won
    assert len(set(won.values())) > 1


def test_kill_9_of_service_and_store_loses_no_acknowledged_claim(tmp_path: Path) -> None:
    service = Service(tmp_path / "service", env=NO_LIMITS)
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


def _caller(service: Service, session: str) -> httpx.Client:
    url = f"{service.url}/v1/crash.test"
    return httpx.Client(base_url=url, headers={"Dibs-Session": session}, timeout=10, verify=False)


def _claim(http: httpx.Client, task: str, acknowledged: dict[str, int]) -> None:
    answer = http.post("/claim", json={"task": task})
    if answer.status_code in (200, 201):
        acknowledged[task] = answer.json()["fence"]
    else:
        assert answer.status_code == 503, answer.text


def _crash_under_load(
    service: Service, session: str, acknowledged: dict[str, int], first: int
) -> None:
    """Kill service and store together while claims are on their way."""
    underway = threading.Event()

    def load() -> None:
        try:
            with _caller(service, session) as http:
                for number in range(first + 1, first + 200):
                    _claim(http, f"T-{number}", acknowledged)
                    if number == first + 50:
                        underway.set()
        except httpx.TransportError:
            pass  # the crash; what was not acknowledged may or may not be there

    thread = threading.Thread(target=load)
    thread.start()
    assert underway.wait(20)
    service.kill()  # its store dies with it
    thread.join(20)


def _everything(service: Service) -> dict[str, int]:
    found, cursor = {}, ""
    while True:
        query = {"limit": 200} | ({"cursor": cursor} if cursor else {})
        page = httpx.get(f"{service.url}/v1/crash.test/claims", params=query).json()
        found.update({claim["task"]: claim["fence"] for claim in page["claims"]})
        cursor = page["cursor"]
        if not cursor:
            return found
