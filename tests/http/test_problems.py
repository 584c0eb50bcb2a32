"""Each problem of the table can happen and has the same shape."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest
import redis
from tests.harness.processes import until
from tests.harness.services import ServiceProcess, running
from tests.http.conftest import ADMIN, Caller

from dibs.api import errors
from dibs.problems import TABLE
from dibs.store import Damaged, StoreDown, Unwilling

TEAM = "team-key-for-these-tests"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Start a service with keys and small limits, whose store the tests may damage."""
    env = {
        "DIBS_TEAM_KEY": f"old-{TEAM},{TEAM}",
        "DIBS_ADMIN_KEY": ADMIN,
        "DIBS_MAX_CLAIMS_PER_SESSION": "2",
        "DIBS_RECORD_BYTES": "64kb",
        "DIBS_RATE_PER_SESSION": "5",
        "DIBS_MIN_TTL": "1s",
        "DIBS_GRACE": "60s",
        "DIBS_MAX_WAITING": "3",
        "DIBS_GITHUB_SECRET": "a-secret-of-the-forge-for-these-tests",
    }
    with running(tmp_path_factory.mktemp("strict"), env=env) as service:
        yield service


@dataclass
class ProjectAtService:
    """One project at that service, and the sessions that call it."""

    service: ServiceProcess
    project: str
    open: contextlib.ExitStack

    def caller(self, **headers: str) -> Caller:
        """Return another session, with the team key."""
        keyed = {"Authorization": f"Bearer {TEAM}"} | headers
        made = Caller(self.service.url, self.project, **keyed)
        self.open.callback(made.http.close)
        return made

    def admin(self) -> Caller:
        """Return a session with the admin key."""
        return self.caller(Authorization=f"Bearer {ADMIN}")

    @contextlib.contextmanager
    def store(self) -> Iterator[redis.Redis]:
        """Connect to the service's own store over its socket."""
        path = str(self.service.folder / "data" / "valkey.sock")
        with redis.Redis(unix_socket_path=path, decode_responses=True) as client:
            yield client


@pytest.fixture
def desk(strict: ServiceProcess, project: str) -> Iterator[ProjectAtService]:
    """Yield a project that only this test uses."""
    with contextlib.ExitStack() as opened:
        yield ProjectAtService(strict, project, opened)


Provoke = Callable[[ProjectAtService], httpx.Response]
WAYS: list[tuple[str, Provoke]] = []
"""(code, function that provokes it); every code of the table is here at least once."""


def answers(code: str) -> Callable[[Provoke], Provoke]:
    """Register a function that returns an answer with the problem `code`."""

    def mark(way: Provoke) -> Provoke:
        WAYS.append((code, way))
        return way

    return mark


@answers("invalid")
def a_claim_that_names_no_task(desk: ProjectAtService) -> httpx.Response:
    return desk.caller().post("claim")


@answers("bad-session")
def a_session_that_can_be_guessed(desk: ProjectAtService) -> httpx.Response:
    return desk.caller(**{"Dibs-Session": "x"}).post("claim", task="T")


@answers("unauthorized")
def no_key(desk: ProjectAtService) -> httpx.Response:
    return desk.caller(Authorization="").get("claims")


@answers("unauthorized")
def a_wrong_key(desk: ProjectAtService) -> httpx.Response:
    return desk.caller(Authorization="Bearer nope").get("claims")


@answers("not-found")
def a_path_that_is_none(desk: ProjectAtService) -> httpx.Response:
    return desk.caller().http.get("/nowhere")


@answers("wrong-method")
def a_method_that_is_not_for_the_path(desk: ProjectAtService) -> httpx.Response:
    return desk.caller().http.put("/livez")


@answers("too-large")
def a_body_over_the_limit(desk: ProjectAtService) -> httpx.Response:
    return desk.caller().post("claim", task="T", note="x" * 20_000)


@answers("held")
def a_claim_of_anothers_task(desk: ProjectAtService) -> httpx.Response:
    desk.caller().post("claim", task="T-1")
    return desk.caller().post("claim", task="T-1")


@answers("not-holder")
def a_release_by_another(desk: ProjectAtService) -> httpx.Response:
    desk.caller().post("claim", task="T-1")
    return desk.caller().post("release", task="T-1")


@answers("forbidden")
def a_break_without_the_admin_key(desk: ProjectAtService) -> httpx.Response:
    fence = desk.caller().post("claim", task="T-1").json()["fence"]
    return desk.caller().post("break", task="T-1", reason="x", fence=fence)


@answers("fence-required")
def a_break_without_a_fence(desk: ProjectAtService) -> httpx.Response:
    desk.caller().post("claim", task="T-1")
    return desk.admin().post("break", task="T-1", reason="x")


@answers("fence-moved")
def a_break_of_an_earlier_claim(desk: ProjectAtService) -> httpx.Response:
    desk.caller().post("claim", task="T-1")
    return desk.admin().post("break", task="T-1", reason="x", fence=1)


@answers("lost")
def a_heartbeat_after_a_break(desk: ProjectAtService) -> httpx.Response:
    ann = desk.caller()
    fence = ann.post("claim", task="T-1").json()["fence"]
    broken = desk.admin().post("break", task="T-1", reason="stuck", fence=fence)
    assert broken.status_code == 200
    return ann.post("heartbeat", task="T-1", fence=fence)


@answers("done")
def a_claim_of_what_is_done(desk: ProjectAtService) -> httpx.Response:
    bob = desk.caller()
    bob.post("claim", task="T-2")
    bob.post("release", task="T-2", outcome="done")
    return desk.caller().post("claim", task="T-2")


@answers("cooling")
def a_claim_just_after_a_lapse(desk: ProjectAtService) -> httpx.Response:
    desk.caller().post("claim", task="T-1", ttl=1)
    onlooker = desk.caller()
    until(lambda: onlooker.get("claims/T-1").json()["state"] == "lapsed", "it lapses", every_s=0.3)
    answer = desk.caller().post("claim", task="T-1")
    assert 1 <= answer.json()["retry_after"] <= 60
    return answer


@answers("blocked")
def a_claim_of_what_needs_another(desk: ProjectAtService) -> httpx.Response:
    ann = desk.caller()
    ann.post("tasks", tasks=[{"task": "T-1"}, {"task": "T-2", "needs": ["T-1", "T-9"]}])
    ann.post("claim", task="T-1", label="ann")
    answer = desk.caller().post("claim", task="T-2")
    assert [need["state"] for need in answer.json()["needs"]] == ["held", "free"]
    assert "held by ann" in answer.json()["detail"]
    return answer


@answers("nothing-ready")
def asking_for_the_next_where_all_is_held(desk: ProjectAtService) -> httpx.Response:
    ann = desk.caller()
    ann.post("tasks", tasks=[{"task": "T-1"}, {"task": "T-2", "needs": ["T-1"]}])
    assert ann.post("claim", next=True).json()["task"] == "T-1"
    answer = desk.caller().post("claim", next=True)
    none = {"parked": 0, "review": 0, "on_hold": 0, "failed": 0, "cooling": 0}
    assert answer.json()["counts"] == none | {"held": 1, "blocked": 1}
    assert answer.json()["retry_after"] > 60
    return answer


@answers("on-hold")
def a_claim_of_what_a_person_keeps_back(desk: ProjectAtService) -> httpx.Response:
    held = desk.admin().post("hold", task="T-1", reason="the plan changes", until="2h")
    assert (held.status_code, held.json()["already"]) == (200, False)
    answer = desk.caller().post("claim", task="T-1")
    assert (answer.json()["of"], answer.json()["hold"]["reason"]) == ("task", "the plan changes")
    assert 7_190 <= answer.json()["retry_after"] <= 7_200
    let_go = desk.admin().post("unhold", task="T-1", reason="it is settled")
    assert let_go.json() == {"task": "T-1", "state": "free", "already": False}
    return answer


@answers("on-hold")
def a_claim_of_the_next_where_a_person_keeps_the_project_back(
    desk: ProjectAtService,
) -> httpx.Response:
    ann = desk.caller()
    ann.post("tasks", tasks=[{"task": "T-1"}])
    assert desk.admin().post("hold", reason="a release").json()["task"] is None
    answer = ann.post("claim", next=True)
    assert (answer.json()["of"], answer.json()["hold"]["until"]) == ("project", None)
    let_go = desk.admin().post("unhold", reason="it is out").json()
    assert let_go == {"task": None, "state": None, "already": False}
    assert ann.post("claim", next=True).status_code == 201
    return answer


@answers("failed")
def a_claim_of_what_was_given_up_too_often(desk: ProjectAtService) -> httpx.Response:
    ann = desk.caller()
    ann.post("tasks", tasks=[{"task": "T-1", "max_attempts": 1}])
    ann.post("claim", task="T-1", label="ann")
    ann.post("release", task="T-1", outcome="abandoned", note="no way")
    answer = desk.caller().post("claim", task="T-1")
    assert answer.json()["attempts"] == 1
    assert [tenure["note"] for tenure in answer.json()["tenures"]] == ["no way"]
    again = desk.admin().post("retry", task="T-1", reason="another way").json()
    assert again == {"task": "T-1", "state": "ready", "already": False}
    return answer


@answers("held")
def a_retry_of_what_somebody_has(desk: ProjectAtService) -> httpx.Response:
    desk.caller().post("claim", task="T-1")
    return desk.admin().post("retry", task="T-1", reason="again")


@answers("fence-moved")
def a_retry_of_an_earlier_tenure(desk: ProjectAtService) -> httpx.Response:
    ann = desk.caller()
    ann.post("claim", task="T-1")
    ann.post("release", task="T-1", outcome="done")
    return desk.admin().post("retry", task="T-1", fence=1, reason="again")


@answers("forbidden")
def a_hold_without_the_admin_key(desk: ProjectAtService) -> httpx.Response:
    for act in ("unhold", "retry"):
        assert desk.caller().post(act, task="T-1", reason="x").json()["code"] == "forbidden"
    return desk.caller().post("hold", reason="x")


@answers("bad-signature")
def a_delivery_that_nobody_signed(desk: ProjectAtService) -> httpx.Response:
    return desk.caller().http.post("/hooks/github", json={"action": "opened"})


@answers("unmatched")
def a_verdict_on_what_nobody_had(desk: ProjectAtService) -> httpx.Response:
    return desk.admin().post("resolve", task="T-1", outcome="merged")


@answers("ambiguous")
def a_verdict_on_a_branch_of_two_tasks(desk: ProjectAtService) -> httpx.Response:
    ann = desk.caller()
    ann.post("claim", all_of=["T-1", "T-2"], branch="feat/both")
    answer = desk.admin().post("resolve", branch="feat/both", outcome="merged")
    assert answer.json()["tasks"] == ["T-1", "T-2"]
    return answer


@answers("fence-moved")
def a_verdict_on_an_earlier_tenure(desk: ProjectAtService) -> httpx.Response:
    desk.caller().post("claim", task="T-1")
    return desk.admin().post("resolve", task="T-1", fence=1, outcome="merged")


@answers("quota")
def a_claim_of_the_next_while_too_many_wait_for_people(desk: ProjectAtService) -> httpx.Response:
    ann, bob = desk.caller(), desk.caller()
    ann.post("tasks", tasks=[{"task": f"T-{n}"} for n in range(4)])
    for _ in range(2):
        ann.post("claim", next=True)
        ann.post("heartbeat", state="parked")
    assert bob.post("claim", next=True).status_code == 201
    bob.post("heartbeat", state="parked")
    answer = bob.post("claim", next=True)
    assert (answer.json()["whose"], answer.json()["limit"]) == ("waiting", 3)
    assert answer.json()["counts"] == {"parked": 3, "review": 0, "failed": 0}
    assert bob.post("claim", task="T-3").status_code == 201, "a claim by name is not limited"
    return answer


@answers("too-large")
def a_list_over_a_mebibyte(desk: ProjectAtService) -> httpx.Response:
    entries = [{"task": f"T-{n}", "body": "x" * 8_000} for n in range(140)]
    return desk.caller().post("tasks", tasks=entries)


@answers("quota")
def a_list_where_the_project_weighs_what_it_may(desk: ProjectAtService) -> httpx.Response:
    ann = desk.caller()
    entries = [{"task": f"T-{n}", "body": "x" * 8_000} for n in range(7)]
    assert ann.post("tasks", tasks=entries).status_code == 200
    answer = ann.post("tasks", tasks=[{"task": "T-9", "body": "x" * 8_000}])
    assert (answer.json()["whose"], answer.json()["limit"]) == ("bytes", 65_536)
    assert ann.post("tasks", tasks=entries).json()["unchanged"], "an unchanged list is accepted"
    return answer


@answers("full")
def a_list_when_the_store_has_no_memory_left(desk: ProjectAtService) -> httpx.Response:
    ann = desk.caller()
    ann.post("tasks", tasks=[{"task": "T-1"}])
    with desk.store() as store:
        store.config_set("maxmemory", 1)
        try:
            answer = ann.post("tasks", tasks=[{"task": "T-2"}])
            assert ann.post("tasks", tasks=[{"task": "T-1"}]).json()["unchanged"] == ["T-1"]
            assert ann.get("tasks").json()["tasks"][0]["task"] == "T-1"
        finally:
            store.config_set("maxmemory", 0)
    return answer


@answers("quota")
def a_claim_more_than_a_session_may_have(desk: ProjectAtService) -> httpx.Response:
    ann = desk.caller()
    ann.post("claim", all_of=["T-1", "T-2"])
    return ann.post("claim", task="T-3")


@answers("quota")
def a_claim_in_a_project_that_weighs_what_it_may(desk: ProjectAtService) -> httpx.Response:
    for number in range(40):
        answer = desk.caller().post("claim", task=f"T-{number}", note="\U0001f600" * 1_000)
        if answer.status_code != 201:
            break
    assert (answer.json()["whose"], answer.json()["limit"]) == ("bytes", 65_536)
    return answer


@answers("rate-limited")
def more_calls_than_a_session_may_make(desk: ProjectAtService) -> httpx.Response:
    ann = desk.caller()
    every = [ann.post("heartbeat") for _ in range(20)]
    limited = [answer for answer in every if answer.status_code == 429]
    assert limited
    assert limited[0].json()["whose"] == "session"
    return limited[0]


@answers("full")
def a_claim_when_the_store_has_no_memory_left(desk: ProjectAtService) -> httpx.Response:
    ann, bob = desk.caller(), desk.caller()
    ann.post("claim", task="T-1")
    with desk.store() as store:
        store.config_set("maxmemory", 1)
        try:
            answer = bob.post("claim", task="T-2")
            assert ann.post("heartbeat").status_code == 200
            assert ann.post("release", task="T-1").status_code == 200
        finally:
            store.config_set("maxmemory", 0)
    return answer


@answers("internal")
def a_stream_that_has_had_its_last_event(desk: ProjectAtService) -> httpx.Response:
    last = f"{2**64 - 1}-{2**64 - 1}"
    with desk.store() as store:
        store.xadd(f"dibs:{{{desk.project}}}:events", {"type": "claimed"}, last)
    answer = desk.caller().post("claim", task="T-1")
    assert answer.json()["outcome"] == "unknown"
    assert "stream" not in answer.text
    return answer


@answers("unavailable")
def a_record_that_is_no_record(desk: ProjectAtService) -> httpx.Response:
    ann = desk.caller()
    ann.post("claim", task="T-2")
    with desk.store() as store:
        store.set(f"dibs:{{{desk.project}}}:task:T-1", "not a record")
        store.zadd(f"dibs:{{{desk.project}}}:live", {"T-1": 1})
    answer = ann.post("claim", task="T-1")
    assert answer.json()["outcome"] == "not-applied"
    assert "not a record" not in answer.text
    assert "break it with fence 1" in answer.json()["detail"]
    listed = ann.get("claims").json()
    assert [claim["task"] for claim in listed["claims"]] == ["T-2"]
    assert listed["damaged"] == ["T-1"]
    table = ann.http.get(f"/v1/{desk.project}/claims", headers={"Accept": "text/plain"}).text
    assert "Damaged: T-1." in table
    freed = desk.admin().post("break", task="T-1", fence=1, reason="nobody works on it")
    assert freed.json() == {"task": "T-1", "state": "free", "already": False}
    assert "damaged" not in ann.get("claims").json()
    return answer


@answers("unavailable")
def a_claim_while_the_store_stands_still(desk: ProjectAtService) -> httpx.Response:
    ann = desk.caller()
    ann.post(
        "claim", task="T-0"
    )  # the store knows the project now, so the service sends only the claim
    with stopped_store(desk):
        answer = ann.post("claim", task="T-1")
        assert answer.json()["outcome"] == "unknown"
    again = until(lambda: answered(ann.post("claim", task="T-1")), "the store answers", every_s=0.3)
    assert again.status_code in (200, 201), "the repeat takes effect once"
    assert again.json()["grants"] == 1
    return answer


@answers("unavailable")
def asking_whether_it_is_ready_while_the_store_stands_still(
    desk: ProjectAtService,
) -> httpx.Response:
    http = desk.caller().http
    with stopped_store(desk):  # the first answer may be a shared recent one
        answer = until(lambda: unready(http.get("/readyz")), "the service says it is not ready")
    assert answer.headers["retry-after"] == "1"
    return answer


def unready(answer: httpx.Response) -> httpx.Response | None:
    return answer if answer.status_code == 503 else None


@contextlib.contextmanager
def stopped_store(desk: ProjectAtService) -> Iterator[None]:
    """Stop the store during the block; then wait until the service reaches it again."""
    ann = desk.caller()
    with desk.store() as store:
        pid = int(store.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        until(lambda: answered(ann.http.get("/readyz")), "the service is ready again")


def answered(answer: httpx.Response) -> httpx.Response | None:
    """Return the answer, or None if the store could not answer."""
    return None if answer.status_code == 503 else answer


@pytest.mark.parametrize(("code", "way"), [pytest.param(*w, id=w[1].__name__) for w in WAYS])
def test_each_problem_has_the_one_shape(desk: ProjectAtService, code: str, way: Provoke) -> None:
    [problem] = [problem for problem in TABLE if problem.code == code]
    answer = way(desk)
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


def test_every_problem_of_the_table_is_provoked_above() -> None:
    assert {code for code, _ in WAYS} == {problem.code for problem in TABLE}


@pytest.mark.parametrize("code", [problem.code for problem in TABLE])
def test_every_problem_explains_itself_at_its_type(strict: ServiceProcess, code: str) -> None:
    [problem] = [problem for problem in TABLE if problem.code == code]
    page = httpx.get(f"{strict.url}/problems/{code}")
    assert page.status_code == 200
    assert problem.about in page.text


@pytest.mark.parametrize("kind", [StoreDown, Unwilling, Damaged])
@pytest.mark.parametrize("sent", [False, True])
def test_what_the_store_may_have_done_is_said_to_be_unknown_whatever_is_wrong_with_it(
    kind: type[StoreDown], sent: bool
) -> None:
    problem = json.loads(errors.answer({}, kind("The store is odd.", sent=sent)).body)
    assert problem["outcome"] == ("unknown" if sent else "not-applied")
    assert ("Nothing was changed" in problem["detail"]) <= (not sent)
