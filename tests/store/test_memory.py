"""The private store has a memory budget, and at its limit holders go on."""

import os
import signal
from pathlib import Path

import pytest
from tests.harness.processes import until
from tests.harness.services import Running, new_session

from dibs.store.local import memory

MB = 1 << 20
HOST = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
URL = "https://example.org/" + "u" * 150
NO_LIMIT = str(0x7FFFFFFFFFFFF000)


def machine(root: Path, groups: str, limits: dict[str, str]) -> Path:
    """Return a file system in which this process is in these groups, with these limits."""
    for path, text in {"proc/self/cgroup": groups, **limits}.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "gives"),
    [
        ("", {}, HOST),
        ("0::/\n", {"sys/fs/cgroup/memory.max": f"{256 * MB}\n"}, 256 * MB),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "max\n"}, HOST),
        (
            "0::/system.slice/dibs.service\n",
            {
                "sys/fs/cgroup/system.slice/dibs.service/memory.max": "max\n",
                "sys/fs/cgroup/system.slice/memory.max": f"{128 * MB}\n",
            },
            128 * MB,
        ),
        (
            "8:pids:/x\n4:memory:/docker/ab12\n0::/\n",
            {"sys/fs/cgroup/memory/docker/ab12/memory.limit_in_bytes": f"{64 * MB}\n"},
            64 * MB,
        ),
        (
            "4:hugetlb,memory:/docker/ab12\n",
            {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{96 * MB}\n"},
            96 * MB,
        ),
        (
            "4:memory:/\n",
            {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{NO_LIMIT}\n"},
            HOST,
        ),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "\n"}, HOST),
    ],
    ids=[
        "no groups",
        "a container",
        "a container without a limit",
        "a service whose slice has one",
        "version 1",
        "version 1 in a container",
        "version 1 without a limit",
        "nothing to read",
    ],
)
def test_the_memory_that_a_container_or_the_host_gives_is_found(
    tmp_path: Path, groups: str, limits: dict[str, str], gives: int
) -> None:
    root = machine(tmp_path, groups, limits)
    assert memory.given(root) == gives
    assert memory.budget("40%", root) == gives * 40 // 100
    assert memory.budget(str(5 * MB), root) == 5 * MB


def test_a_machine_that_tells_nothing_gives_what_the_host_has(tmp_path: Path) -> None:
    assert memory.given(tmp_path) == HOST


def test_by_default_the_store_may_use_a_quarter_of_what_there_is(tmp_path: Path) -> None:
    with Running("--data-dir", str(tmp_path / "d")) as service:
        limit = until(
            lambda: service.metrics().get('dibs_store_memory_bytes{what="limit"}'),
            "the sweeper has shown the store's limit",
        )
    assert limit == memory.given() * 25 // 100


@pytest.mark.long
def test_at_its_budget_the_store_refuses_new_claims_while_holders_go_on_and_restarts_work(
    tmp_path: Path,
) -> None:
    holder = new_session()
    flags = ("--data-dir", str(tmp_path / "d"), "--store-memory", "3mb", "--rate-per-project", "0")

    def fill(service: Running, task: str) -> int:
        status, body = service.claim(task, note="n" * 1000, url=URL)
        if status == 507:
            assert body["code"] == "full"
        return status

    def holder_goes_on(service: Running) -> None:
        beat = {"task": "T-1", "note": "b" * 900}
        assert service.ask("POST", "/v1/p/heartbeat", beat, holder)[0] == 200

    with Running(*flags) as service:
        assert service.claim("T-1", holder)[0] == 201
        statuses = [fill(service, f"fill {number}") for number in range(1_900)]
        assert set(statuses) == {201, 507}
        assert statuses[-20:] == [507] * 20
        holder_goes_on(service)
        _, ready, _ = service.ask("GET", "/readyz")
        assert ready["status"] == "full"
        assert "at its memory limit" in ready["reasons"][0]
        assert ready["durability"] == "strict"
        os.kill(service.pid, signal.SIGKILL)
    with Running(*flags) as service:
        statuses = [fill(service, f"fill again {number}") for number in range(600)]
        assert statuses[-20:] == [507] * 20, "data loaded from disk takes a little less"
        holder_goes_on(service)
        assert service.ask("POST", "/v1/p/release", {"task": "T-1"}, holder)[0] == 200


@pytest.mark.long
def test_history_leaves_a_store_room_for_new_claims(tmp_path: Path) -> None:
    """Tasks that strangers finish, in as many projects as they like, end up in the history."""
    flags = ["--data-dir", str(tmp_path / "d"), "--store-memory", "4mb", "--event-bytes", "64kb"]
    flags += ["--grace", "1s", "--retention", "1s", "--rate-per-project", "0"]
    with Running(*flags) as service:
        for number in range(150):
            who, project = new_session(), f"/v1/p{number % 8}"
            wish = {"all_of": [f"T-{number}-{n}" for n in range(30)], "note": "n" * 1000}
            status, _, _ = service.ask("POST", f"{project}/claim", wish, who)
            assert status in (201, 507)
            if status == 201:
                end = {"all": True, "outcome": "done"}
                assert service.ask("POST", f"{project}/release", end, who)[0] == 200
        until(lambda: "store_memory_short" in service.log.read_text(), "the service notices", 30)
        until(lambda: "store_memory_enough" in service.log.read_text(), "there is room", 60)
        for number in range(30):
            assert service.claim(f"new {number}", note="n" * 1000)[0] == 201
        kept = [service.ask("GET", f"/v1/p{n}/history?limit=1")[1]["tenures"] for n in range(8)]
        assert any(kept), "only as much history goes as has to"
