"""The GitHub Action: the required check, and the report of a verdict (rule 22)."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.forge.action_run import ROOT, Workflow
from tests.forge.conftest import CI
from tests.forge.told import RECORDED, pull
from tests.harness.services import ServiceProcess
from tests.http.conftest import Caller


@pytest.fixture
def flow(service: ServiceProcess, tmp_path: Path, repository: str) -> Workflow:
    """Return the workflows of a repository, with a key for CI."""
    return Workflow(service, tmp_path, repository, CI)


def fence_of(caller: Caller, task: str = "T-1", **wish: Any) -> int:
    """Claim a task and return its fence."""
    answer = caller.post("claim", task=task, **wish)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["fence"])


def group(repository: str, message: str = "Merge pull request #7") -> Any:
    """Return the event of a merge queue."""
    told = copy.deepcopy(RECORDED["merge_group"])
    told["repository"] |= {"full_name": repository}
    told["merge_group"]["head_commit"]["message"] = message
    return told


# verify


@pytest.mark.long
def test_a_current_fence_passes_and_another_fails_with_who_has_the_task(
    flow: Workflow, ann: Caller, bob: Caller
) -> None:
    fence = fence_of(ann, label="ann")
    event = pull(flow.repository, "synchronize", body=f"Passkeys.\r\n\r\nDibs: T-1 {fence}\r\n")
    ran = flow.verify(event)
    assert (ran.code, ran.said.startswith("::notice")) == (0, True)
    ann.post("release", task="T-1")
    over = flow.verify(event)
    assert (over.code, "is over" in over.said) == (1, True)
    newer = fence_of(bob, label="bob", branch="feat/other")
    lost = flow.verify(event, mode="warn")
    assert lost.code == 1
    assert "bob (ref " in lost.said
    assert str(newer) in lost.said


def test_without_a_line_the_claim_on_the_pull_request_or_its_branch_counts(
    flow: Workflow, ann: Caller
) -> None:
    event = pull(flow.repository, "opened")
    assert flow.verify(event).code == 1
    fence_of(ann, branch="feat/passkey")
    assert flow.verify(event).code == 0
    elsewhere = pull(flow.repository, "opened", branch="another")
    assert flow.verify(elsewhere).code == 1
    ann.post("heartbeat", task="T-1", state="review", pr=event["pull_request"]["html_url"] + "/")
    assert flow.verify(elsewhere).code == 0


def test_it_is_found_in_one_call_however_many_claims_there_are(
    flow: Workflow, ann: Caller, bob: Caller
) -> None:
    for number in range(220):
        who = (ann, bob)[number % 2] if number < 90 else Caller(flow.service.url, ann.project)
        who.http.headers["Authorization"] = ann.http.headers["Authorization"]
        fence_of(who, f"X-{number}", branch="another")
        if number >= 90:
            who.http.close()
    fence_of(ann, branch="feat/passkey")
    series = 'dibs_request_seconds_count{route="list"}'
    before = flow.service.metrics()[series]
    assert flow.verify(pull(flow.repository, "opened")).code == 0
    assert flow.service.metrics()[series] == before + 1


def test_several_tasks_of_one_pull_request_pass_and_of_one_branch_do_not(
    flow: Workflow, ann: Caller
) -> None:
    event = pull(flow.repository, "opened")
    for task in ("T-1", "T-2"):
        fence_of(ann, task, branch="feat/passkey")
    assert flow.verify(event).code == 1
    for task in ("T-1", "T-2"):
        ann.post("heartbeat", task=task, pr=event["pull_request"]["html_url"])
    ran = flow.verify(event)
    assert (ran.code, "T-1 is held" in ran.said, "T-2 is held" in ran.said) == (0, True, True)


def test_where_no_task_is_claimed_the_mode_decides(flow: Workflow) -> None:
    event = pull(flow.repository, "opened")
    warned, failed = flow.verify(event, mode="warn"), flow.verify(event, mode="require")
    assert (warned.code, warned.said.startswith("::warning")) == (0, True)
    assert (failed.code, failed.said.startswith("::error")) == (1, True)
    assert "Dibs: TASK FENCE" in failed.said


def test_a_merge_queue_is_checked_by_its_pull_request_or_its_commit(
    flow: Workflow, ann: Caller, bob: Caller
) -> None:
    fence = fence_of(ann)
    assert flow.verify(group(flow.repository), "merge_group").code == 1
    written = group(flow.repository, f"Passkeys (#7)\n\nDibs: T-1 {fence}")
    assert flow.verify(written, "merge_group").code == 0
    ann.post(
        "heartbeat",
        task="T-1",
        state="review",
        pr=pull(flow.repository, "opened")["pull_request"]["html_url"],
    )
    assert flow.verify(group(flow.repository), "merge_group").code == 0
    ann.post("release", task="T-1")
    fence_of(bob)
    assert flow.verify(written, "merge_group").code == 1


@pytest.mark.long
def test_a_service_that_does_not_answer_is_said_plainly(
    service: ServiceProcess, tmp_path: Path, repository: str
) -> None:
    flow = Workflow(service, tmp_path, repository, CI)
    event = pull(repository, "opened", body="Dibs: T-1 17")
    away = {"DIBS_URL": "http://127.0.0.1:9"}
    warned = flow.run(event, DIBS_UNREACHABLE="warn", **away)
    failed = flow.run(event, DIBS_UNREACHABLE="fail", **away)
    assert (warned.code, failed.code) == (0, 1)
    for ran in (warned, failed):
        assert "could not be reached" in ran.said
        assert "The check was not made" in ran.said


def test_a_fork_without_a_key_is_said_to_be_and_a_wrong_key_always_fails(
    service: ServiceProcess, tmp_path: Path, repository: str
) -> None:
    fork = pull(repository, "opened", head_repo="octo-dev/web", body="Dibs: T-1 17")
    keyless = Workflow(service, tmp_path, repository)
    warned, failed = keyless.verify(fork, mode="warn"), keyless.verify(fork)
    assert (warned.code, failed.code) == (0, 1)
    assert "no secrets" in warned.said
    assert "the input `key` must be a key for CI of this service (DIBS_CI_KEY)" in warned.said
    wrong = Workflow(service, tmp_path, repository, "x" * 30)
    assert wrong.verify(pull(repository, "opened"), mode="warn").code == 1


# resolve


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("by", ["pr", "trailer", "branch"])
def test_what_is_closed_ends_its_task(flow: Workflow, ann: Caller, merged: bool, by: str) -> None:
    event = pull(flow.repository, "closed", merged=merged, branch="of/its-own")
    wish = {"pr": {"pr": event["pull_request"]["html_url"]}, "branch": {"branch": "of/its-own"}}
    fence = fence_of(ann, **wish.get(by, {}))
    event["pull_request"]["body"] = f"Dibs: T-1 {fence}" if by == "trailer" else None
    ran = flow.resolve(event)
    assert (ran.code, ran.said.startswith("::notice")) == (0, True), ran.said
    assert ann.get("claims/T-1").json()["state"] == ("done" if merged else "free")
    assert flow.resolve(event).code == 0


def test_what_nobody_has_is_a_warning_and_changes_nothing(flow: Workflow, ann: Caller) -> None:
    ran = flow.resolve(pull(flow.repository, "closed", merged=True, body="Dibs: T-9 17"))
    assert (ran.code, "Nothing was changed" in ran.said) == (0, True)
    assert ann.get("claims", state="held,done,lapsed").json()["claims"] == []


def test_a_strangers_fork_ends_nobodys_claim(flow: Workflow, ann: Caller) -> None:
    fence = fence_of(ann, branch="feat/passkey")
    fork = {"head_repo": "stranger/web", "author_association": "NONE"}
    ran = flow.resolve(pull(flow.repository, "closed", body=f"Dibs: T-1 {fence}", **fork))
    assert (ran.code, "Nothing was changed" in ran.said) == (0, True)
    assert ann.get("claims/T-1").json()["state"] == "held"


def test_a_verdict_with_a_key_that_opens_nothing_fails(
    service: ServiceProcess, tmp_path: Path, repository: str
) -> None:
    for key in ("", "x" * 30):
        flow = Workflow(service, tmp_path, repository, key)
        assert flow.resolve(pull(repository, "closed")).code == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "claim"),
        ("POST", "heartbeat"),
        ("POST", "release"),
        ("POST", "break"),
        ("POST", "tasks"),
        ("POST", "hold"),
    ],
)
def test_the_key_for_ci_opens_no_other_act(
    service: ServiceProcess, project: str, method: str, path: str
) -> None:
    bearer = {"Authorization": f"Bearer {CI}"}
    status, body, _ = service.ask(
        method, f"/v1/{project}/{path}", {"task": "T-1"}, None, 10, **bearer
    )
    assert (status, body["code"]) == (403, "forbidden")


# Both


@pytest.mark.parametrize(
    ("event", "name", "said"),
    [
        (b"", "pull_request", "cannot be read"),
        (b"[]", "pull_request", "cannot be read"),
        (b'{"action": "opened"}', "pull_request", "neither a pull request"),
        (b"{}", "push", "neither a pull request"),
        (b'{"pull_request": {"head": "main"}}', "pull_request", "not as GitHub sends it"),
        (b'{"pull_request": {"body": 7}}', "pull_request", "not as GitHub sends it"),
        (b'{"merge_group": ["main"]}', "merge_group", "not as GitHub sends it"),
    ],
)
def test_an_event_that_is_none_of_ours_fails_in_a_line(
    flow: Workflow, event: bytes, name: str, said: str
) -> None:
    ran = flow.run(event, name)
    assert (ran.code, said in ran.said, ran.said.count("\n")) == (1, True, 1)


def test_a_merge_group_has_no_verdict(flow: Workflow) -> None:
    ran = flow.run(group(flow.repository), "merge_group", "resolve")
    assert (ran.code, "a merge group has no verdict" in ran.said) == (1, True)


@pytest.mark.parametrize(
    "setting", [{"DIBS_DO": "claim"}, {"DIBS_MODE": "yes"}, {"DIBS_URL": "file:///etc/passwd"}]
)
def test_a_wrong_setting_fails_with_its_name(flow: Workflow, setting: Any) -> None:
    ran = flow.run(pull(flow.repository, "opened"), **setting)
    named = next(iter(setting)).partition("_")[2].lower()  # the input's name in a workflow
    assert (ran.code, f"the input `{named}` is" in ran.said) == (1, True)


def test_what_strangers_write_begins_no_workflow_command(flow: Workflow, ann: Caller) -> None:
    evil = "T\r\n::add-mask::x%0A::set-env name=X::y"
    ran = flow.verify(pull(flow.repository, "opened", body=f"Dibs: {evil} 17"))
    assert ran.said.count("\n") == 1
    assert re.fullmatch(r"::(error|warning|notice) title=dibs::[^\r\n]*\n", ran.said)


def test_the_action_puts_nothing_from_outside_into_the_text_of_a_script() -> None:
    told = yaml.safe_load((ROOT / "action/action.yml").read_text())
    for step in told["runs"]["steps"]:
        assert "${{" not in step["run"]
        assert set(step["env"]) >= {"DIBS_KEY", "DIBS_URL"}
    page = (ROOT / "docs/forge.md").read_text()
    flows = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.S)]
    assert len(flows) == 2
    for shown in flows:
        for job in shown["jobs"].values():
            [step] = job["steps"]
            assert set(step) == {"uses", "with"}
            assert set(step["with"]) <= set(told["inputs"])
        assert shown["permissions"] == {}
