"""Limits on the cost of one reader: a page, a refusal, a stream."""

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.harness.processes import until
from tests.harness.services import Running, new_session

from dibs.rate_limit import NAMES_MOST, RateLimit
from dibs.stream_limit import StreamLimit, TooMany


def test_however_many_ask_for_the_projects_the_store_is_asked_as_for_one(tmp_path: Path) -> None:
    with Running("--data-dir", str(tmp_path / "d")) as service:
        for number in range(20):
            assert service.claim("T-1", project=f"many.{number}")[0] == 201
        path = str(tmp_path / "d" / "valkey.sock")
        with redis.Redis(unix_socket_path=path, decode_responses=True) as store:
            until(lambda: "many.19" in service.ask("GET", "/")[1], "the page has all projects")
            before, began = scripts_run(store), time.monotonic()
            with ThreadPoolExecutor(20) as askers:
                pages = list(askers.map(lambda _: service.ask("GET", "/")[1], range(200)))
            seconds = time.monotonic() - began
            assert all("many.0" in page for page in pages)
            # In each second at most: the 20 projects once, plus the clock and the sweep.
            assert scripts_run(store) - before <= (20 + 25) * (seconds + 2)


def scripts_run(store: redis.Redis) -> int:
    stats: Any = store.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{by}", {}).get("calls", 0)) for by in ("evalsha", "fcall"))


def test_a_refusal_of_many_tasks_comes_without_their_queues(tmp_path: Path) -> None:
    with Running("--data-dir", str(tmp_path / "d")) as service:
        tasks = [f"T-{number}" for number in range(8)]
        body = {"all_of": tasks}
        path = "/v1/p/claim"
        assert service.ask("POST", path, body, new_session())[0] == 201
        for _ in range(10):
            for task in tasks:
                assert service.claim(task, queue=True, label="a" * 60)[0] == 409
        for many in ({"any_of": tasks}, {"all_of": tasks}):
            status, refused, _ = service.ask("POST", path, many, new_session())
            assert status == 409
            assert [one["task"] for one in refused["conflicts"]] == tasks
            assert all(one["claim"]["queue"] == [] for one in refused["conflicts"])
            assert all(one["claim"]["waiters"] == 10 for one in refused["conflicts"])
        assert len(service.claim("T-0")[1]["claim"]["queue"]) == 10


def test_a_long_note_is_cut_in_a_list_and_whole_for_its_task(tmp_path: Path) -> None:
    note = "n" * 1000
    with Running("--data-dir", str(tmp_path / "d")) as service:
        assert service.claim("T-1", note=note)[0] == 201
        assert service.claim("T-2", note="short")[0] == 201
        listed = service.ask("GET", "/v1/p/claims")[1]["claims"]
        notes = {claim["task"]: claim["note"] for claim in listed}
        assert notes == {"T-1": "n" * 299 + "…", "T-2": "short"}
        assert service.ask("GET", "/v1/p/claims/T-1")[1]["note"] == note
        assert note not in service.ask("GET", "/p/p")[1]


@pytest.mark.parametrize("path", ["/v1/p/events", "/p/p/stream"])
def test_streams_leave_connections_for_callers(tmp_path: Path, path: str) -> None:
    env = {"DIBS_MAX_CONNECTIONS": "40"}
    with Running("--data-dir", str(tmp_path / "d"), env=env) as service:
        streams = []
        statuses = []
        for _ in range(15):
            stream = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
            stream.request("GET", path, headers={"Accept": "text/event-stream"})
            reply = stream.getresponse()
            statuses.append(reply.status)
            streams.append((stream, reply))
            if reply.status == 200:
                reply.read1(10)
        assert statuses == [200] * 10 + [429] * 5
        assert service.claim("T-1")[0] == 201
        for stream, reply in streams:
            reply.close()
            stream.close()

        def again() -> bool:
            stream = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
            stream.request("GET", path, headers={"Accept": "text/event-stream"})
            status = stream.getresponse().status
            stream.close()
            return status == 200

        until(again, "there is room again", 40)


def test_the_shares_of_streams_are_by_project_by_address_and_in_all() -> None:
    streams = StreamLimit(8)
    held = [streams.one("a", "1"), streams.one("a", "2")]
    for one in held:
        one.__enter__()
    with pytest.raises(TooMany) as many:
        streams.check("a", "3")
    assert (many.value.whose, many.value.limit) == ("project", 2)
    held.append(streams.one("b", "1"))
    held[-1].__enter__()
    with pytest.raises(TooMany) as many:
        streams.check("c", "1")
    assert many.value.whose == "address"
    held.append(streams.one("c", "4"))
    held[-1].__enter__()
    with pytest.raises(TooMany) as many:
        streams.check("d", "5")
    assert (many.value.whose, many.value.limit) == ("service", 4)
    for one in held:
        one.__exit__(None, None, None)
    streams.check("a", "1")


def test_readers_of_a_project_are_refused_before_anybody_who_holds_or_claims(
    tmp_path: Path,
) -> None:
    env = {"DIBS_READS_PER_PROJECT": "5"}
    with Running("--data-dir", str(tmp_path / "d"), env=env) as service:
        ann = new_session()
        assert service.claim("T-1", ann)[0] == 201
        refused = []
        paths = ["/v1/p/claims", "/v1/p/claims/T-1", "/v1/p/events", "/p/p"]
        for path in paths:
            for _ in range(60):
                status, _, headers = service.ask("GET", path)
                if status == 429:
                    refused.append((path, headers["retry-after"]))
                    break
        assert refused == [(path, "1") for path in paths]
        assert service.ask("GET", "/v1/other/claims")[0] == 200
        assert service.ask("POST", "/v1/p/heartbeat", {"task": "T-1"}, ann)[0] == 200
        assert service.claim("T-2")[0] == 201
        assert service.ask("POST", "/v1/p/release", {"task": "T-1"}, ann)[0] == 200


def test_a_budget_lets_through_what_it_says_and_forgets_who_asked_longest_ago() -> None:
    budget = RateLimit(2, saved_s=3)
    let_through = 0
    for tenth in range(100):
        if not budget.wait_s("a", 100 + tenth / 10):
            budget.pay("a", 100 + tenth / 10)
            let_through += 1
    assert let_through == 6 + 20
    assert 0 < budget.wait_s("a", 109.9) <= 0.5
    assert budget.wait_s("b", 109.9) == 0
    for number in range(NAMES_MOST):
        budget.pay(f"n{number}", 110)
    assert len(budget._paid) == NAMES_MOST
    unlimited = RateLimit(0, saved_s=3)
    unlimited.pay("a", 1, 1000)
    assert unlimited.wait_s("a", 1) == 0
