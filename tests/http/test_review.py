"""Rules 22 and 28 over HTTP: a task waits for the verdict on its pull request."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.harness.services import ServiceProcess, new_session, running
from tests.http.conftest import ADMIN, Caller
from tests.http.test_bad_input import problem_of

from dibs.acts import POSTS

TEAM, CI = "team-key-for-these-tests", "key-of-ci-for-these-tests"
PR = "https://github.com/acme/web/pull/7"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Start a service with a key for each kind of caller."""
    keys = {"DIBS_TEAM_KEY": TEAM, "DIBS_ADMIN_KEY": ADMIN, "DIBS_CI_KEY": f"{CI},{CI}-2"}
    rates = {"DIBS_RATE_PER_SESSION": "0", "DIBS_RATE_PER_PROJECT": "0"}
    with running(tmp_path_factory.mktemp("review"), env=keys | rates) as started:
        yield started


def caller(service: ServiceProcess, project: str, key: str) -> Caller:
    return Caller(service.url, project, Authorization=f"Bearer {key}")


@pytest.fixture
def ann(service: ServiceProcess, project: str) -> Iterator[Caller]:
    """Yield a session."""
    made = caller(service, project, TEAM)
    yield made
    made.http.close()


@pytest.fixture
def bob(service: ServiceProcess, project: str) -> Iterator[Caller]:
    """Yield another session."""
    made = caller(service, project, TEAM)
    yield made
    made.http.close()


@pytest.fixture
def ci(service: ServiceProcess, project: str) -> Iterator[Caller]:
    """Yield CI, which is no session: it has only its key."""
    made = caller(service, project, CI)
    del made.http.headers["Dibs-Session"]
    yield made
    made.http.close()


def in_review(who: Caller, task: str = "T-1", **wish: Any) -> dict[str, Any]:
    """Claim a task and open a pull request for it."""
    fence = who.post("claim", task=task, **wish).json()["fence"]
    answer = who.post("heartbeat", task=task, fence=fence, state="review", pr=PR)
    assert answer.status_code == 200, answer.text
    claim: dict[str, Any] = answer.json()
    return claim


def test_no_path_from_opened_to_merged_gives_the_task_to_another(
    ann: Caller, bob: Caller, ci: Caller
) -> None:
    """Two sessions; one pull request is rejected, and one is merged."""
    ann.post("tasks", tasks=[{"task": "T-1"}, {"task": "T-2", "needs": ["T-1"]}])
    assert ann.post("claim", next=True, branch="feat/one", label="ann").status_code == 201
    claim = ann.post("heartbeat", task="T-1", state="review", pr=PR + "/files?w=1#top").json()
    assert (claim["state"], claim["pr"]) == ("review", PR)
    refused = problem_of(bob.post("claim", task="T-1"), 409, "held")
    assert (refused["claim"]["state"], refused["claim"]["pr"]) == ("review", PR)
    assert f"is in review, held by ann (ref {claim['holder']['ref']})" in refused["detail"]
    day = claim["expires_at"][:10]
    assert f"for 7 days more, until {day} " in refused["detail"], "a distant end needs a date"
    nothing = problem_of(bob.post("claim", next=True), 409, "nothing-ready")
    assert (nothing["counts"]["review"], nothing["counts"]["blocked"]) == (1, 1)

    ended = ci.post("resolve", pr=PR, outcome="rejected", note="wrong way").json()
    assert ended == {"task": "T-1", "state": "ready", "already": False}
    taken = bob.post("claim", next=True, branch="feat/two").json()
    assert (taken["task"], taken["attempt"]) == ("T-1", 2)
    before = taken["previous"]
    assert (before["outcome"], before["pr"], before["note"]) == ("rejected", PR, "wrong way")
    assert before["holder"]["branch"] == "feat/one"
    [lost] = ann.post("heartbeat").json()["lost"]
    assert (lost["task"], lost["reason"], lost["pr"]) == ("T-1", "rejected", PR)

    second = PR.replace("/7", "/8")
    bob.post("heartbeat", task="T-1", state="review", pr=second)
    stale = ci.post("resolve", pr=PR, outcome="merged")
    assert problem_of(stale, 412, "fence-moved")["claim"]["fence"] == taken["fence"]
    merged = ci.post("resolve", branch="feat/two", outcome="merged", sha="a" * 40)
    assert merged.json() == {"task": "T-1", "state": "done", "already": False}
    assert ci.post("resolve", pr=second, outcome="merged").json()["already"] is True
    assert ann.post("claim", next=True).json()["task"] == "T-2"
    told = [event["type"] for event in ann.get("events").json()["events"]]
    assert [word for word in told if word in ("review", "rejected", "done", "ready")] == [
        *("review", "rejected", "review", "ready", "done"),
    ]


def test_a_session_may_end_and_its_review_stays(ann: Caller, bob: Caller) -> None:
    claim = in_review(ann)
    assert ann.post("heartbeat", state="parked").json()["claims"][0]["state"] == "review"
    assert ann.post("release", all=True).json() == {"released": []}
    assert problem_of(bob.post("claim", task="T-1"), 409, "held")
    assert ann.get("claims/T-1", fence=claim["fence"]).json()["current"] is True
    assert 6 * 86_400 < claim["expires_in"] <= 7 * 86_400


def test_who_reviews_can_go_on_or_end_it(ann: Caller, bob: Caller) -> None:
    claim = in_review(ann)
    again = ann.post("claim", task="T-1").json()
    assert (again["state"], again["fence"], again["pr"]) == ("held", claim["fence"], PR)
    in_review(ann)
    assert ann.post("release", task="T-1", outcome="released").json()["state"] == "free"
    taken = bob.post("claim", task="T-1").json()
    assert taken["previous"]["pr"] == PR


PATHS = {
    "": PR,
    "/": PR,
    "/files": PR,
    "/commits/1?diff=split#top": PR,
    "?w=1": PR,
}


@pytest.mark.parametrize("more", PATHS)
def test_a_pull_request_has_one_name(ann: Caller, ci: Caller, more: str) -> None:
    in_review(ann)
    spelled = PR.replace("github.com", "GitHub.com") + more
    assert ci.post("resolve", pr=spelled, outcome="merged").json()["task"] == "T-1"


@pytest.mark.parametrize(
    "pr",
    [
        "https://github.com/acme/web/pull/70",
        "https://github.com/acme/other/pull/7",
        "https://gitlab.com/acme/web/pull/7",
        "https://git.acme.example/acme/web/pull/7",
        "http://github.com/acme/web/pull/7",
    ],
)
def test_another_pull_request_is_another(ann: Caller, ci: Caller, pr: str) -> None:
    in_review(ann)
    problem_of(ci.post("resolve", pr=pr, outcome="merged"), 404, "unmatched")
    assert ann.get("claims/T-1").json()["state"] == "review"


@pytest.mark.parametrize(
    "pr",
    [
        "https://git.acme.example/team/web/pulls/12",
        "https://gitlab.com/group/sub/web/-/merge_requests/3",
        "https://bitbucket.org/acme/web/pull-requests/4",
        "https://dev.azure.com/acme/p/_git/web/pullrequest/9",
    ],
)
def test_pull_requests_of_other_forges_are_found_too(ann: Caller, ci: Caller, pr: str) -> None:
    ann.post("claim", task="T-1", pr=pr)
    assert ci.post("resolve", pr=pr + "/diffs?x=1", outcome="merged").json()["state"] == "done"


def test_a_key_for_ci_finds_a_claim_by_its_pull_request_or_branch_in_one_call(
    ann: Caller, ci: Caller
) -> None:
    in_review(ann, branch="feat/one")
    ann.post("claim", task="T-2", branch="feat/two")
    for named, tasks in (
        ({"pr": PR.replace("acme", "Acme") + "/files?w=1#x"}, ["T-1"]),
        ({"branch": "feat/two"}, ["T-2"]),
        ({"pr": PR, "branch": "feat/two"}, ["T-1"]),
        ({"pr": PR + "7", "branch": "feat/two"}, ["T-2"]),
        ({"pr": PR + "7"}, []),
        ({"branch": "feat/one", "state": "held"}, []),
        ({"branch": "feat/%", "q": "feat"}, []),
    ):
        page = ci.get("claims", **named).json()
        assert [claim["task"] for claim in page["claims"]] == tasks, named
        assert page["cursor"] is None
    for wrong in ({"pr": "acme/web#7"}, {"branch": "a\nb"}, {"branch": "x" * 201}):
        errors = problem_of(ci.get("claims", **wrong), 422, "invalid")["errors"]
        assert [error["field"] for error in errors] == list(wrong)


def test_two_tasks_on_a_branch_are_both_named(ann: Caller, bob: Caller, ci: Caller) -> None:
    for who, task in ((ann, "T-1"), (bob, "T-2")):
        in_review(who, task, branch="feat/both")
    for named in ({"branch": "feat/both"}, {"pr": PR}):
        problem = problem_of(ci.post("resolve", outcome="merged", **named), 409, "ambiguous")
        assert problem["tasks"] == ["T-1", "T-2"]
        assert "T-1 and T-2" in problem["detail"]
    fence = bob.get("claims/T-2").json()["fence"]
    ended = ci.post("resolve", task="T-2", fence=fence, outcome="merged").json()
    assert (ended["task"], ended["state"]) == ("T-2", "done")
    assert ci.post("resolve", branch="feat/both", outcome="merged").json()["task"] == "T-1"


def test_a_verdict_with_another_fence_changes_nothing(ann: Caller, ci: Caller) -> None:
    claim = in_review(ann)
    other = in_review(ann, "T-2")
    for fence in (claim["fence"] - 1, claim["fence"] + 1, other["fence"]):
        answer = ci.post("resolve", task="T-1", fence=fence, outcome="rejected")
        problem_of(answer, 412, "fence-moved")
    assert ann.get("claims/T-1").json()["state"] == "review"


@pytest.mark.parametrize(
    "named", [{"task": "T-9"}, {"pr": PR}, {"branch": "nobody's"}, {"task": "T-9", "fence": 7}]
)
def test_what_nobody_had_is_not_made_up(ann: Caller, ci: Caller, named: dict[str, Any]) -> None:
    ann.post("tasks", tasks=[{"task": "listed"}])
    for outcome in ("merged", "rejected"):
        problem_of(ci.post("resolve", outcome=outcome, **named), 404, "unmatched")
        problem_of(ci.post("resolve", outcome=outcome, task="listed"), 404, "unmatched")
    assert ann.get("claims").json()["claims"] == []
    assert ann.get("claims/T-9").json()["state"] == "free"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"outcome": "merged"}, "task"),
        ({"task": "T-1"}, "outcome"),
        ({"task": "T-1", "outcome": "closed"}, "outcome"),
        ({"task": "T-1", "outcome": "opened"}, "outcome"),
        ({"task": "T-1", "outcome": None}, "outcome"),
        ({"pr": "acme/web#7", "outcome": "merged"}, "pr"),
        ({"pr": "javascript:alert(1)", "outcome": "merged"}, "pr"),
        ({"pr": "https://e.org/" + "x" * 500, "outcome": "merged"}, "pr"),
        ({"branch": "a\nb", "outcome": "merged"}, "branch"),
        ({"task": "T-1", "fence": 0, "outcome": "merged"}, "fence"),
        ({"task": "T-1", "sha": "x" * 65, "outcome": "merged"}, "sha"),
        ({"task": " T-1", "outcome": "merged"}, "task"),
        ({"task": "T-1", "outcome": "merged", "by": "ann"}, "by"),
    ],
)
def test_a_bad_verdict_is_refused_with_its_field(
    ci: Caller, given: dict[str, Any], field: str
) -> None:
    errors = problem_of(ci.post("resolve", **given), 422, "invalid")["errors"]
    assert field in [error["field"] for error in errors]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"state": "review"}, "state"),
        ({"state": "review", "task": "T-1"}, "state"),
        ({"state": "review", "pr": PR}, "pr"),
        ({"pr": PR}, "pr"),
        ({"state": "review", "task": "T-1", "pr": "7"}, "pr"),
        ({"state": "merged", "task": "T-1"}, "state"),
    ],
)
def test_a_review_names_its_task_and_its_pull_request(
    ann: Caller, given: dict[str, Any], field: str
) -> None:
    errors = problem_of(ann.post("heartbeat", **given), 422, "invalid")["errors"]
    assert field in [error["field"] for error in errors]


def test_a_review_of_what_one_does_not_hold_is_refused(ann: Caller, bob: Caller) -> None:
    ann.post("claim", task="T-1")
    answer = bob.post("heartbeat", task="T-1", state="review", pr=PR)
    problem_of(answer, 409, "not-holder")
    assert ann.get("claims/T-1").json()["state"] == "held"


def test_forms_say_a_review_and_a_verdict_too(ann: Caller, ci: Caller) -> None:
    ann.form("claim", task="T-1", pr=PR, branch="b")
    assert ann.form("heartbeat", task="T-1", state="review", pr=PR).json()["state"] == "review"
    assert ci.form("resolve", branch="b", outcome="merged").json()["state"] == "done"


ACTS: dict[str, dict[str, Any]] = {
    "claim": {"task": "T-2"},
    "heartbeat": {},
    "release": {"all": True},
    "tasks": {"tasks": [{"task": "T-2"}]},
    "break": {"task": "T-1", "fence": 7, "reason": "x"},
    "hold": {"reason": "x"},
    "unhold": {"reason": "x"},
    "retry": {"task": "T-1", "reason": "x"},
}


def test_a_key_for_ci_reads_and_resolves_and_opens_nothing_else(
    service: ServiceProcess, project: str, ann: Caller, ci: Caller
) -> None:
    in_review(ann)
    assert ACTS.keys() == POSTS.keys() - {"resolve"}, "the test covers every other act"
    for act, fields in ACTS.items():
        problem = problem_of(ci.post(act, **fields), 403, "forbidden")
        assert "A key for CI" in problem["detail"]
        with_session = httpx.post(
            f"{service.url}/v1/{project}/{act}",
            json=fields,
            headers={"Authorization": f"Bearer {CI}", "Dibs-Session": new_session()},
        )
        problem_of(with_session, 403, "forbidden")
    for path in ("claims", "claims/T-1", "tasks", "tasks/T-1", "events"):
        assert ci.get(path).status_code == 200, path
    basic = httpx.get(f"{service.url}/v1/{project}/claims", auth=("ci", f"{CI}-2"))
    assert basic.status_code == 200
    for page in ("/", f"/p/{project}"):
        assert httpx.get(f"{service.url}{page}", auth=("ci", CI)).status_code in (401, 403)
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
        assert httpx.get(f"{service.url}{path}").status_code == 200
    assert ann.get("claims/T-1").json()["state"] == "review"
    assert "listed" not in ann.get("claims/T-2").json()


@pytest.mark.long
def test_who_has_another_key_or_none_resolves_nothing(
    service: ServiceProcess, project: str, ann: Caller
) -> None:
    in_review(ann)
    verdict = {"task": "T-1", "outcome": "rejected"}
    problem_of(ann.post("resolve", **verdict), 403, "forbidden")
    url = f"{service.url}/v1/{project}/resolve"
    for key in ("", "Bearer nope", f"Bearer {CI[:-1]}", f"Bearer {CI},{CI}-2"):
        problem_of(
            httpx.post(url, json=verdict, headers={"Authorization": key}), 401, "unauthorized"
        )
    assert ann.get("claims/T-1").json()["state"] == "review"
    person = httpx.post(url, json=verdict, auth=("lea", ADMIN))
    assert person.json() == {"task": "T-1", "state": "free", "already": False}
    [lost] = ann.post("heartbeat").json()["lost"]
    assert lost["by"]["label"] == "lea"
