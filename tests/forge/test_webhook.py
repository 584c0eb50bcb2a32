"""A forge's webhook: authentication, matching of tasks, and effects (rule 22)."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jsonschema_rs
import pytest
from tests.client.parts import client
from tests.forge.conftest import TEAM
from tests.forge.told import (
    OLD_SECRET,
    RECORDED,
    deliver,
    issue,
    pull,
    signed,
    told,
)
from tests.harness.services import ServiceProcess, running
from tests.http.conftest import Caller
from tests.http.test_bad_input import problem_of

from dibs.forge.repository import project_of

MEBIBYTE = 1 << 20


def held(caller: Caller, task: str = "T-1", **wish: Any) -> dict[str, Any]:
    """Claim a task and return the claim."""
    answer = caller.post("claim", task=task, **wish)
    assert answer.status_code == 201, answer.text
    claim: dict[str, Any] = answer.json()
    return claim


def state(caller: Caller, task: str = "T-1") -> str:
    """Return the state of a task."""
    return str(caller.get(f"claims/{task}").json()["state"])


# Authentication


def test_a_signature_of_any_of_the_secrets_lets_in(
    service: ServiceProcess, repository: str
) -> None:
    for secret in (OLD_SECRET, None):
        body = json.dumps(pull(repository, "opened")).encode()
        headers = signed(body, secret) if secret else signed(body)
        assert deliver(service, body, headers=dict(headers)).status_code == 202


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X-Hub-Signature-256": None}, "is missing"),
        ({"X-Hub-Signature-256": "sha256=" + "0" * 64}, "does not match this body"),
        ({"X-Hub-Signature-256": "sha256=" + "0" * 63}, "64 hexadecimal"),
        ({"X-Hub-Signature-256": "sha1=" + "0" * 40}, "64 hexadecimal"),
        ({"X-Hub-Signature-256": "", "X-Hub-Signature": "sha1=" + "0" * 40}, "64 hexadecimal"),
        ({"X-Hub-Signature-256": None, "X-Hub-Signature": "sha1=" + "0" * 40}, "SHA-1"),
        ({"X-Hub-Signature-256": None, "Authorization": "Bearer team-key-for-tests"}, "is missing"),
    ],
)
def test_what_is_not_signed_is_refused_and_changes_nothing(
    service: ServiceProcess, repository: str, ann: Caller, headers: Any, said: str
) -> None:
    held(ann, branch="feat/passkey")
    answer = deliver(service, pull(repository, "closed", merged=True), headers=headers)
    assert said in problem_of(answer, 401, "bad-signature")["detail"]
    assert state(ann) == "held"


def test_a_signature_is_of_the_body_as_it_came(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    held(ann, branch="feat/passkey")
    good = json.dumps(pull(repository, "closed", merged=False)).encode()
    forged = good.replace(b'"merged": false', b'"merged": true')
    assert good != forged
    problem_of(deliver(service, forged, headers=dict(signed(good))), 401, "bad-signature")
    problem_of(deliver(service, good, headers=dict(signed(good, "x" * 30))), 401, "bad-signature")
    old = signed(good, algorithm="sha1")
    answer = deliver(service, good, headers={"X-Hub-Signature-256": None, **old})
    assert "SHA-1" in problem_of(answer, 401, "bad-signature")["detail"]
    assert state(ann) == "held"


def test_without_a_secret_there_is_no_such_path(tmp_path: Any) -> None:
    with running(tmp_path / "service") as service:
        problem_of(deliver(service, pull("forge/x", "opened")), 404, "not-found")


def test_the_path_is_for_post_alone(service: ServiceProcess) -> None:
    for method in ("GET", "PUT", "DELETE"):
        status, body, headers = service.ask(method, "/hooks/github")
        assert (status, body["code"], headers["allow"]) == (405, "wrong-method", "POST")


# Bad bodies


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"payload=%7B%7D", "not JSON"),
        (b'{"action": "closed", "pull_req', "not JSON"),
        (b"[1]", "must be one JSON object"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "field action of"),
        (b'{"action": 1}', "The field action"),
        (b'{"action": "closed", "repository": {"full_name": "a/b"}}', "field html_url of"),
        (
            b'{"action": "closed", "repository": {"full_name": "a/b", "html_url": "https://x/a/b"}}',
            "field pull_request of",
        ),
    ],
)
def test_a_body_that_is_no_event_is_refused_in_a_sentence(
    service: ServiceProcess, body: bytes, said: str
) -> None:
    problem = problem_of(deliver(service, body, "pull_request"), 422, "invalid")
    assert said in problem["errors"][0]["message"]


def test_a_body_that_is_too_large_is_said_to_be(service: ServiceProcess) -> None:
    body = json.dumps({"action": "opened", "x": "y" * MEBIBYTE}).encode()
    assert "1 MiB" in problem_of(deliver(service, body), 413, "too-large")["detail"]
    whole = pull("forge/large", "opened", body="y" * 900_000)
    assert told(service, whole)["result"] == "unmatched"


@pytest.mark.parametrize("name", ["X-GitHub-Event", "X-GitHub-Delivery", "Content-Type"])
def test_a_delivery_without_its_headers_is_refused(service: ServiceProcess, name: str) -> None:
    answer = deliver(service, pull("forge/x", "opened"), "pull_request", headers={name: None})
    assert problem_of(answer, 422, "invalid")["errors"][0]["field"] == name


@pytest.mark.parametrize("name", ["X-Hub-Signature-256", "X-GitHub-Event", "X-GitHub-Delivery"])
def test_a_header_of_a_delivery_that_stands_there_twice_is_refused(
    service: ServiceProcess, name: str
) -> None:
    body = json.dumps(RECORDED["ping"]).encode()
    sent = {"X-GitHub-Event": "ping", "X-GitHub-Delivery": "d-1", **signed(body)}
    twice = [*sent.items(), (name, sent[name]), ("Content-Type", "application/json")]
    answer = httpx.post(f"{service.url}/hooks/github", content=body, headers=twice)
    assert problem_of(answer, 422, "invalid")["errors"][0]["field"].lower() == name.lower()


# Matching of tasks


@pytest.mark.parametrize("event", ["ping", "push", "check_run", "a-new-one"])
def test_an_event_that_is_not_for_us_is_taken_and_said_to_be(
    service: ServiceProcess, event: str
) -> None:
    said = told(service, RECORDED["ping"], event)
    assert (said["result"], said["matched"]) == ("nothing", [])
    assert event in said["why"][0]


@pytest.mark.parametrize("action", ["synchronize", "converted_to_draft", "labeled", "a-new-one"])
def test_an_action_that_is_not_for_us_changes_nothing(
    service: ServiceProcess, repository: str, ann: Caller, action: str
) -> None:
    held(ann, branch="feat/passkey")
    said = told(service, pull(repository, action))
    assert (said["result"], state(ann)) == ("nothing", "held")


def test_a_repository_that_the_service_does_not_accept_is_ignored(service: ServiceProcess) -> None:
    said = told(service, pull("other/web", "closed", merged=True))
    assert (said["result"], said["project"]) == ("ignored", None)
    assert "other/web" in said["why"][0]


@pytest.mark.parametrize(
    "page",
    [
        "https://github.com/Acme/Web",
        "https://github.com/acme/web.app",
        "https://github.com/acme/_x",
        "https://github.com/-x/y",
        "https://github.com/ac--me/web",
        "https://git.corp.org/acme/web",
        "https://git.corp.org/acme/web.app",
        "https://git--hub.corp.org/acme/web",
        "https://intranet/acme/web",
        "https://git.corp.org:8443/acme/web",
        "https://github.com/" + "a" * 39 + "/" + "b" * 100,
    ],
)
def test_a_repository_has_the_project_that_the_client_calls_it(page: str) -> None:
    assert project_of(page, {}) == client.project_of(page)


@pytest.mark.parametrize("page", ["http://[x/a/b", "https://github.com", "a/b", "https:///a/b"])
def test_what_is_no_page_of_a_repository_has_no_project(page: str) -> None:
    assert project_of(page, {"a/b": "web"}) == ""


def test_a_setting_says_which_project_a_repository_is(service: ServiceProcess) -> None:
    named = Caller(service.url, "chosen.name", Authorization=f"Bearer {TEAM}")
    held(named, pr="https://github.com/Forge/Named/pull/7")
    said = told(service, pull("Forge/Named", "opened"))
    assert (said["project"], said["matched"][0]["task"]) == ("chosen.name", "T-1")
    named.http.close()


# Pull requests


@pytest.mark.parametrize("action", ["opened", "reopened", "ready_for_review"])
@pytest.mark.parametrize("by", ["pr", "trailer", "branch"])
def test_a_task_waits_for_the_review_of_its_pull_request(
    service: ServiceProcess, repository: str, ann: Caller, bob: Caller, action: str, by: str
) -> None:
    url = f"https://github.com/{repository}/pull/7"
    claim = held(ann, **{"pr": {"pr": url}, "branch": {"branch": "feat/passkey"}}.get(by, {}))
    body = f"Passkeys.\r\n\r\nDibs: T-1 {claim['fence']}\r\n" if by == "trailer" else None
    branch = "feat/passkey" if by == "branch" else "another"
    said = told(service, pull(repository, action, body=body, branch=branch))
    [matched] = said["matched"]
    assert (said["did"], matched) == (
        "opened",
        {"task": "T-1", "state": "review", "already": False, "by": by},
    )
    refused = problem_of(bob.post("claim", task="T-1"), 409, "held")
    assert refused["claim"]["pr"] == url
    assert "is in review, held by" in refused["detail"]


@pytest.mark.parametrize("merged", [True, False])
def test_a_pull_request_that_is_closed_ends_its_task(
    service: ServiceProcess, repository: str, ann: Caller, bob: Caller, merged: bool
) -> None:
    held(ann, branch="feat/passkey", note="lexer tests still fail")
    told(service, pull(repository, "opened"))
    said = told(service, pull(repository, "closed", merged=merged, merge_commit_sha="c" * 40))
    assert said["did"] == ("merged" if merged else "rejected")
    if merged:
        assert state(ann) == "done"
        [event] = [event for event in ann.get("events").json()["events"] if event["type"] == "done"]
        assert event["by"] == "octo-dev@github"
    else:
        before = held(bob)["previous"]
        assert (before["outcome"], before["note"]) == ("rejected", "lexer tests still fail")
        assert before["holder"]["branch"] == "feat/passkey"


@pytest.mark.parametrize("tail", ["?w=1", "/", "/files", "#discussion_r1", "/commits/abc?x#y"])
def test_a_pull_request_is_known_by_each_of_its_urls(
    service: ServiceProcess, repository: str, ann: Caller, tail: str
) -> None:
    held(ann, pr=f"https://github.com/{repository}/pull/7{tail}")
    assert told(service, pull(repository, "opened", branch="another"))["matched"][0]["by"] == "pr"


def test_a_host_of_ones_own_works_as_well(
    service: ServiceProcess, repository: str, project: str
) -> None:
    host = "https://git.corp.org"
    there = Caller(service.url, f"git--corp--org.{project}", Authorization=f"Bearer {TEAM}")
    held(there, pr=f"https://GIT.corp.org/{repository}/pull/7/")
    said = told(service, pull(repository, "opened", host=host, branch="another"))
    assert (said["project"], said["matched"][0]["by"]) == (there.project, "pr")
    there.http.close()


def test_what_nobody_has_is_said_to_be_unmatched_and_makes_up_no_claim(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    for action, more in (("opened", {}), ("closed", {"merged": True}), ("closed", {})):
        said = told(service, pull(repository, action, body="Dibs: T-9 17", **more))
        assert (said["result"], said["matched"]) == ("unmatched", [])
        assert "T-9" in said["why"][0]
    assert ann.get("claims", state="held,review,done,lapsed").json()["claims"] == []


def test_a_trailer_with_the_fence_of_before_touches_no_newer_tenure(
    service: ServiceProcess, repository: str, ann: Caller, bob: Caller
) -> None:
    old = held(ann, pr=f"https://github.com/{repository}/pull/7")
    ann.post("release", task="T-1")
    new = held(bob)
    trailer = f"Dibs: T-1 {old['fence']}"
    for merged in (True, False):
        said = told(service, pull(repository, "closed", merged=merged, body=trailer))
        assert said["result"] == "unmatched"
    now = bob.get("claims/T-1").json()
    assert (now["fence"], now["state"]) == (new["fence"], "held")


def test_a_pull_request_that_another_took_the_place_of_ends_nothing(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    trailer = f"Dibs: T-1 {held(ann)['fence']}"
    told(service, pull(repository, "opened", 7, body=trailer))
    told(service, pull(repository, "opened", 8, body=trailer))
    said = told(service, pull(repository, "closed", 7, body=trailer))
    assert (said["result"], state(ann)) == ("unmatched", "review")
    assert "/pull/8" in said["why"][0]
    assert told(service, pull(repository, "closed", 8, merged=True))["did"] == "merged"
    told(service, pull(repository, "closed", 7, body=trailer))
    assert state(ann) == "done"


def test_one_pull_request_may_be_of_several_tasks(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    lines = "\n".join(f"Dibs: {task} {held(ann, task)['fence']}" for task in ("T-1", "T 2"))
    told(service, pull(repository, "opened", body=lines))
    said = told(service, pull(repository, "closed", merged=True, body=lines))
    assert sorted(one["task"] for one in said["matched"]) == ["T 2", "T-1"]
    assert [state(ann, task) for task in ("T-1", "T%202")] == ["done", "done"]


def test_two_tasks_on_one_branch_are_both_named_and_neither_is_touched(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    for task in ("T-1", "T-2"):
        held(ann, task, branch="feat/passkey")
    said = told(service, pull(repository, "closed", merged=True))
    assert (said["result"], state(ann, "T-1"), state(ann, "T-2")) == ("unmatched", "held", "held")
    assert "T-1 and T-2" in said["why"][0]


@pytest.mark.parametrize("association", ["NONE", "CONTRIBUTOR", "FIRST_TIME_CONTRIBUTOR", None])
def test_a_stranger_with_a_fork_ends_nobodys_claim(
    service: ServiceProcess, repository: str, ann: Caller, association: str | None
) -> None:
    fence = held(ann, branch="feat/passkey")["fence"]
    fork = {"head_repo": "stranger/web", "author_association": association}
    for action in ("opened", "closed"):
        said = told(service, pull(repository, action, body=f"Dibs: T-1 {fence}", **fork))
        assert (said["result"], state(ann)) == ("unmatched", "held")
        assert "in a fork" in said["why"][0]


def test_a_fork_of_somebody_who_belongs_here_is_known_by_its_trailer(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    fence = held(ann, branch="feat/passkey")["fence"]
    fork = {"head_repo": "octo-dev/web", "author_association": "COLLABORATOR"}
    assert told(service, pull(repository, "opened", **fork))["result"] == "unmatched"
    said = told(service, pull(repository, "opened", body=f"Dibs: T-1 {fence}", **fork))
    assert said["matched"][0]["by"] == "trailer"


def test_what_it_answers_is_as_the_description_says(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    described = service.ask("GET", "/openapi.json")[1]
    operation = described["paths"]["/hooks/github"]["post"]
    assert set(operation["responses"]) >= {"202", "401", "404", "413", "422", "503"}
    schema = {"$ref": "#/components/schemas/Delivery", "components": described["components"]}
    as_said = jsonschema_rs.validator_for(schema).is_valid
    held(ann, branch="feat/passkey")
    told_of = [(RECORDED["ping"], "ping"), (pull(repository, "opened"), "pull_request")]
    told_of += (
        (pull(repository, "closed", 99), "pull_request"),
        (issue(repository, "labeled"), "issues"),
    )
    results = set()
    for payload, event in told_of:
        said = told(service, payload, event)
        assert as_said(said), said
        results.add(said["result"])
    assert results == {"nothing", "done", "unmatched"}
    assert not as_said({**said, "result": "refused"})


# Replays


def test_a_delivery_that_came_before_is_dropped_by_its_id_and_by_its_body(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    held(ann, branch="feat/passkey")
    told(service, pull(repository, "opened"))
    closed = pull(repository, "closed")
    assert told(service, closed, id="d-1")["did"] == "rejected"
    told(service, pull(repository, "reopened"))
    assert state(ann) == "review"
    for id in ("d-1", "another-id"):
        said = told(service, closed, id=id)
        assert (said["result"], said["matched"]) == ("replayed", [])
    again = pull(repository, "closed")
    assert told(service, again, id="d-1")["result"] == "replayed"
    assert state(ann) == "review"


def test_what_is_told_late_does_not_undo_what_came_later(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    held(ann, branch="feat/passkey")
    opened, closed = pull(repository, "opened"), pull(repository, "closed")
    assert told(service, closed)["did"] == "rejected"
    assert told(service, opened)["result"] == "overtaken"
    assert state(ann) == "free"


def test_what_is_a_week_old_is_not_listened_to(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    held(ann, branch="feat/passkey")
    long_ago = (datetime.now(UTC) - timedelta(days=8)).isoformat()
    said = told(service, pull(repository, "closed", updated_at=long_ago))
    assert (said["result"], state(ann)) == ("old", "held")


def test_what_could_not_be_matched_may_be_sent_again(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    opened = pull(repository, "opened")
    assert told(service, opened, id="d-2")["result"] == "unmatched"
    held(ann, branch="feat/passkey")
    assert told(service, opened, id="d-2")["did"] == "opened"


# Issues


def listed(caller: Caller, task: str = "#12") -> Any:
    """Return a task with its listing."""
    return caller.get("tasks/" + task.replace("#", "%23")).json()


@pytest.mark.parametrize("action", ["opened", "edited", "labeled", "reopened"])
def test_an_issue_with_the_label_is_listed(
    service: ServiceProcess, repository: str, ann: Caller, bob: Caller, action: str
) -> None:
    said = told(service, issue(repository, action, labels=["Agents", "P1"]))
    assert (said["did"], said["matched"][0]) == (
        "created",
        {"task": "#12", "state": "ready", "by": "issue"},
    )
    facts = listed(ann)["listed"]
    assert facts["title"] == "Passkeys expire too early"
    assert facts["body"] == "They end after a day.\n\nThey should last for 90."
    assert facts["url"] == f"https://github.com/{repository}/issues/12"
    assert (facts["source"], facts["priority"]) == (f"github:{repository}", 1)
    assert bob.post("claim", next=True).json()["task"] == "#12"


@pytest.mark.parametrize(
    ("action", "more"),
    [("unlabeled", {"labels": ()}), ("closed", {}), ("deleted", {}), ("transferred", {})],
)
def test_an_issue_that_loses_the_label_or_is_closed_is_dropped(
    service: ServiceProcess, repository: str, ann: Caller, action: str, more: Any
) -> None:
    told(service, issue(repository, "labeled"))
    assert told(service, issue(repository, action, **more))["did"] == "dropped"
    assert listed(ann)["listed"]["dropped"]
    assert told(service, issue(repository, "reopened"))["did"] == "updated"
    assert listed(ann)["state"] == "ready"


def test_a_closed_issue_whose_task_is_done_stays_done(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    told(service, issue(repository, "labeled"))
    held(ann, "#12")
    ann.post("release", task="#12", outcome="done")
    told(service, issue(repository, "closed"))
    assert state(ann, "%2312") == "done"


def test_an_issue_that_somebody_works_on_goes_on_when_it_is_closed(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    told(service, issue(repository, "labeled"))
    held(ann, "#12")
    told(service, issue(repository, "closed"))
    assert state(ann, "%2312") == "held"


@pytest.mark.parametrize(
    ("action", "labels"),
    [("opened", ()), ("labeled", ("other",)), ("assigned", ("agents",)), ("pinned", ("agents",))],
)
def test_an_issue_that_is_not_for_us_changes_nothing(
    service: ServiceProcess, repository: str, ann: Caller, action: str, labels: Any
) -> None:
    said = told(service, issue(repository, action, labels=labels))
    assert (said["result"], said["matched"]) == ("nothing", [])
    assert ann.get("tasks").json()["tasks"] == []


def test_a_task_that_is_listed_from_elsewhere_is_left_alone(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    ann.post("tasks", tasks=[{"task": "#12", "title": "mine", "source": "tasks.md"}])
    for action in ("labeled", "closed"):
        said = told(service, issue(repository, action))
        assert (said["result"], "tasks.md" in said["why"][0]) == ("unmatched", True)
    assert listed(ann)["listed"]["title"] == "mine"


def test_text_of_strangers_is_cut_and_cleaned(
    service: ServiceProcess, repository: str, ann: Caller
) -> None:
    title = "A\u202eb\x07 " + "e" + "\u0301" * 9 + " x" * 300
    told(service, issue(repository, "labeled", title=title, body="\x00y\u2028" + "z" * 70_000))
    facts = listed(ann)["listed"]
    assert len(facts["title"]) <= 200
    assert len(facts["body"]) == 8_192
    assert facts["body"].endswith("…")
    assert not any(char in facts["title"] + facts["body"] for char in "\u202e\x07\x00\u2028")


def test_a_service_without_a_label_lists_no_issues(tmp_path: Any) -> None:
    env = {"DIBS_GITHUB_SECRET": "a-webhook-secret-for-tests"}
    with running(tmp_path / "service", env=env) as service:
        said = told(service, issue("forge/x", "labeled"))
        assert (said["result"], "DIBS_GITHUB_LABEL" in said["why"][0]) == ("nothing", True)


def test_what_was_told_is_counted(service: ServiceProcess, repository: str) -> None:
    def counts(event: str, result: str) -> float:
        series = f'dibs_forge_events_total{{event="{event}",result="{result}"}}'
        return service.metrics()[series]

    before = counts("pull_request", "unmatched"), counts("other", "refused")
    told(service, pull(repository, "opened"))
    deliver(service, pull(repository, "opened"), headers={"X-Hub-Signature-256": None})
    after = counts("pull_request", "unmatched"), counts("other", "refused")
    assert after == (before[0] + 1, before[1] + 1)
