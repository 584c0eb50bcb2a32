"""Each problem of the table can happen, and looks like every other."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import httpx
import pytest
import redis
from tests.http.conftest import ADMIN, Caller
from tests.tools.running import Service, running

from dibs.api.problems import TABLE

TEAM = "team-key-for-these-tests"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with keys and small limits, whose store the tests may harm."""
    env = {
        "DIBS_TEAM_KEY": f"old-{TEAM},{TEAM}",
        "DIBS_ADMIN_KEY": ADMIN,
        "DIBS_MAX_CLAIMS_PER_SESSION": "2",
        "DIBS_RATE_PER_SESSION": "5",
        "DIBS_MIN_TTL": "1s",
        "DIBS_GRACE": "0s",
    }
    with running(tmp_path_factory.mktemp("strict"), env=env) as service:
        yield service


@pytest.fixture
def caller(strict: Service, project: str) -> Iterator[Callable[..., Caller]]:
    """Makes sessions at that service."""
    made: list[Caller] = []

    def make(**headers: str) -> Caller:
        made.append(Caller(strict.url, project, **({"Authorization": f"Bearer {TEAM}"} | headers)))
        return made[-1]

    yield make
    for one in made:
        one.http.close()


@contextlib.contextmanager
def store_of(service: Service) -> Iterator["redis.Redis[str]"]:
    """The service's own store, over its socket."""
    client = redis.Redis(
        unix_socket_path=str(service.folder / "data" / "valkey.sock"), decode_responses=True
    )
    yield client
    client.close()


REACHED: set[str] = set()


def check(answer: httpx.Response, code: str) -> httpx.Response:
    """The answer is this problem, in the one shape."""
    [problem] = [problem for problem in TABLE if problem.code == code]
    assert answer.status_code == problem.status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["code"], body["type"], body["title"], body["status"]) == (
        code,
        f"/problems/{code}",
        problem.title,
        problem.status,
    )
    assert body["outcome"] in ("not-applied", "unknown")
    assert body["detail"].endswith((".", "…"))
    if "retry_after" in body:
        assert answer.headers["retry-after"] == str(body["retry_after"])
    REACHED.add(code)
    return answer


def test_everyday_problems(caller, project: str):
    ann, bob = caller(), caller()
    check(ann.post("claim"), "invalid")
    check(caller(**{"Dibs-Session": "x"}).post("claim", task="T"), "bad-session")
    check(caller(Authorization="").get("claims"), "unauthorized")
    check(caller(Authorization="Bearer nope").get("claims"), "unauthorized")
    check(ann.http.get("/nowhere"), "not-found")
    check(ann.http.put("/livez"), "wrong-method")
    check(ann.post("claim", task="T", note="x" * 20_000), "too-large")
    ann.post("claim", task="T-1")
    check(bob.post("claim", task="T-1"), "held")
    check(bob.post("release", task="T-1"), "not-holder")


def test_problems_of_endings(caller, project: str):
    ann, bob = caller(), caller()
    fence = ann.post("claim", task="T-1").json()["fence"]
    check(bob.post("break", task="T-1", reason="x", fence=fence), "forbidden")
    admin = caller(Authorization=f"Bearer {ADMIN}")
    check(admin.post("break", task="T-1", reason="x"), "fence-required")
    check(admin.post("break", task="T-1", reason="x", fence=1), "fence-moved")
    assert admin.post("break", task="T-1", reason="stuck", fence=fence).status_code == 200
    check(ann.post("heartbeat", task="T-1", fence=fence), "lost")
    bob.post("claim", task="T-2")
    bob.post("release", task="T-2", outcome="done")
    check(ann.post("claim", task="T-2"), "done")


def test_a_lapsed_claim_cools(tmp_path):
    env = {"DIBS_MIN_TTL": "1s", "DIBS_GRACE": "60s", "DIBS_RATE_PER_SESSION": "0"}
    with contextlib.ExitStack() as stack, running(tmp_path / "slow", env=env) as service:
        ann, bob = Caller(service.url, "cool"), Caller(service.url, "cool")
        stack.callback(ann.http.close)
        stack.callback(bob.http.close)
        ann.post("claim", task="T-1", ttl=1)
        while bob.get("claims/T-1").json()["state"] == "held":
            pass
        answer = check(bob.post("claim", task="T-1"), "cooling")
        assert 1 <= answer.json()["retry_after"] <= 60


def test_limits(caller, project: str):
    ann = caller()
    ann.post("claim", all_of=["T-1", "T-2"])
    check(ann.post("claim", task="T-3"), "quota")
    answers = [ann.post("heartbeat") for _ in range(20)]
    limited = [answer for answer in answers if answer.status_code == 429]
    assert limited
    assert check(limited[0], "rate-limited").json()["whose"] == "session"


def test_a_full_store(caller, strict: Service):
    ann, bob = caller(), caller()
    ann.post("claim", task="T-1")
    with store_of(strict) as store:
        store.config_set("maxmemory", 1)
        try:
            check(bob.post("claim", task="T-2"), "full")
            assert ann.post("heartbeat").status_code == 200
            assert ann.post("release", task="T-1").status_code == 200
        finally:
            store.config_set("maxmemory", 0)


def test_a_record_that_is_no_record(caller, strict: Service, project: str):
    with store_of(strict) as store:
        store.set(f"dibs:{{{project}}}:task:T-1", "not a record")
    answer = check(caller().post("claim", task="T-1"), "internal")
    assert answer.json()["outcome"] == "unknown"
    assert "not a record" not in answer.text


def test_a_store_that_does_not_answer(caller, strict: Service):
    ann = caller()
    ann.post("claim", task="T-0")
    with store_of(strict) as store:
        pid = int(store.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = check(ann.post("claim", task="T-1"), "unavailable")
        assert answer.json()["outcome"] == "unknown"
        assert check(ann.http.get("/readyz"), "unavailable").headers["retry-after"] == "1"
    finally:
        os.kill(pid, signal.SIGCONT)
    again = ann.post("claim", task="T-1")
    while again.status_code == 503:
        again = ann.post("claim", task="T-1")
    assert again.status_code in (200, 201), "asking again finds out, and takes effect once"
    assert again.json()["grants"] == 1


def test_every_problem_was_reached_and_explains_itself(strict: Service):
    """Runs last in this file: the tests above reach every code of the table."""
    assert {problem.code for problem in TABLE} - REACHED == set()
    for problem in TABLE:
        page = httpx.get(f"{strict.url}/problems/{problem.code}")
        assert page.status_code == 200
        assert problem.about in page.text
