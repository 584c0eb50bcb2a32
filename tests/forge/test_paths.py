"""Rule 22: between a pull request and its verdict, no other session gets the task."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.forge.conftest import ADMIN, CI
from tests.forge.told import issue, pull, told
from tests.harness.services import ServiceProcess
from tests.http.conftest import Caller
from tests.http.test_bad_input import problem_of

BRANCH = "feat/passkey"
Happens = Callable[[ServiceProcess, str, Caller, Caller], Any]
"""One step of a history; takes a service, a repository, the author and another session."""


def event(action: str, number: int = 7, **more: Any) -> Happens:
    """Deliver the forge's event about a pull request."""
    return lambda service, repository, ann, bob: told(
        service, pull(repository, action, number, **more)
    )


def by_person(act: str, **fields: Any) -> Happens:
    """Make a call of a person."""

    def happens(service: ServiceProcess, _: str, ann: Caller, bob: Caller) -> Any:
        lea = Caller(service.url, ann.project, Authorization=f"Bearer {ADMIN}")
        answer = lea.post(act, **fields)
        lea.http.close()
        return answer

    return happens


def by_ci(**fields: Any) -> Happens:
    """Report a verdict as CI."""

    def happens(service: ServiceProcess, _: str, ann: Caller, bob: Caller) -> Any:
        caller = Caller(service.url, ann.project, Authorization=f"Bearer {CI}")
        answer = caller.post("resolve", **fields)
        caller.http.close()
        return answer

    return happens


def by(who: int, act: str, **fields: Any) -> Happens:
    """Make a call as the author (0) or the other session (1)."""
    return lambda service, repository, *sessions: sessions[who].post(act, **fields)


FORK = {"head_repo": "stranger/web", "author_association": "NONE", "branch": BRANCH}
PATHS: dict[str, list[Happens]] = {
    "it becomes a draft": [event("converted_to_draft")],
    "it is ready again": [event("converted_to_draft"), event("ready_for_review")],
    "commits are pushed": [event("synchronize")],
    "it is opened again": [event("reopened")],
    "it is told twice": [event("opened"), event("opened")],
    "its branch has another name": [event("synchronize", branch="renamed")],
    "another one of its branch is closed": [event("closed", 8, branch=BRANCH)],
    "another one took its place and it is closed": [
        event("opened", 8, branch=BRANCH),
        event("closed", 7, branch=BRANCH),
    ],
    "a fork has such a branch": [event("opened", 9, **FORK), event("closed", 9, **FORK)],
    "a fork names it": [event("closed", 9, **FORK, body="Dibs: #12 17\n\nDibs: #12")],
    "a member names an old fence": [event("closed", 9, branch="other", body="Dibs: #12 17")],
    "its issue is closed": [
        lambda service, repository, *_: told(service, issue(repository, "closed"))
    ],
    "its issue loses the label and has it again": [
        lambda service, repository, *_: told(service, issue(repository, "unlabeled", labels=())),
        lambda service, repository, *_: told(service, issue(repository, "labeled")),
    ],
    "the list is written again": [by(1, "tasks", tasks=[{"task": "#12", "title": "other"}])],
    "it is dropped from the list": [by(1, "tasks", tasks=[{"task": "#12", "drop": True}])],
    "the author beats for all": [by(0, "heartbeat"), by(0, "heartbeat", state="parked")],
    "the author releases all": [by(0, "release", all=True, outcome="abandoned")],
    "the author takes the next": [by(0, "claim", next=True)],
    "another beats for it": [by(1, "heartbeat", task="#12")],
    "another releases it": [by(1, "release", task="#12", outcome="done")],
    "a person holds it back and lets it go": [
        by_person("hold", task="#12", reason="wait"),
        by_person("unhold", task="#12", reason="go on"),
    ],
    "a person holds the project back": [
        by_person("hold", reason="wait"),
        by_person("unhold", reason="go on"),
    ],
    "a person retries it": [by_person("retry", task="#12", reason="again")],
    "a person breaks another tenure": [by_person("break", task="#12", fence=17, reason="x")],
    "CI judges another fence": [by_ci(task="#12", fence=17, outcome="rejected")],
    "CI judges another pull request": [
        by_ci(task="#12", pr="https://e.org/pull/9", outcome="rejected")
    ],
}
WISHES: list[dict[str, Any]] = [
    {"task": "#12"},
    {"task": "#12", "reopen": True},
    {"task": "#12", "queue": True},
    {"any_of": ["#12"]},
    {"all_of": ["#12", "T-9"]},
    {"next": True},
    {"next": True, "reopen": True},
]


@pytest.mark.long
@pytest.mark.parametrize("path", PATHS)
def test_whatever_happens_before_the_verdict_the_task_is_nobody_elses(
    service: ServiceProcess, repository: str, ann: Caller, bob: Caller, path: str
) -> None:
    told(service, issue(repository, "labeled"))
    claim = ann.post("claim", task="#12", branch=BRANCH).json()
    assert told(service, pull(repository, "opened", branch=BRANCH))["did"] == "opened"
    for happens in PATHS[path]:
        happens(service, repository, ann, bob)
        now = bob.get("claims/%2312").json()
        assert (now["state"], now["fence"]) == ("review", claim["fence"])
        for wish in WISHES:
            assert bob.post("claim", **wish).status_code == 409, wish
    number = 8 if "another one took" in path else 7
    said = told(service, pull(repository, "closed", number, branch=BRANCH, merged=True))
    assert [one["state"] for one in said["matched"]] == ["done"]
    problem_of(bob.post("claim", task="#12"), 409, "done")
