"""The claims that the gate counts as held when work begins: by clock, by the service, by name."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator

import pytest
from tests.client.conftest import Make, Sandbox
from tests.client.test_hooks import LOCAL, bash, edit
from tests.harness.processes import until


def over_by_its_own_clock(ann: Sandbox) -> None:
    """Wait until the client counts T-1 as over."""
    end = json.loads(ann.state_files()[0].read_text())["claims"]["T-1"]["until"][0]
    until(lambda: time.time() > end, "the claim is over")


@contextlib.contextmanager
def hanging(ann: Sandbox) -> Iterator[dict[str, str]]:
    """Yield an environment whose service accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        folder = ann.state_files()[0].parents[1]
        folder.rename(folder.with_name(url.replace(":", "%3A").replace("/", "%2F")))
        yield {"DIBS_URL": url}


def test_what_is_over_by_our_own_clock_is_asked_about_before_an_edit(sandbox: Make) -> None:
    """A tool call longer than the ttl delayed the heartbeats; nobody has taken the task."""
    ann = sandbox(DIBS_GATE="block", **LOCAL)
    fence = ann.dibs("claim", "T-1", "--ttl", "2s", "--json").said(0).json["fence"]
    over_by_its_own_clock(ann)
    assert edit(ann) == {}
    ann.dibs("verify", "T-1", "--fence", str(fence)).said(0)


def test_the_gate_closes_when_the_claim_is_over_and_another_has_it(sandbox: Make) -> None:
    ann, bob = sandbox(DIBS_GATE="block", **LOCAL), sandbox(DIBS_LABEL="bob")
    ann.dibs("claim", "T-1", "--ttl", "2s").said(0)
    bob.dibs("claim", "T-1", "--wait", "20s").said(0)
    said = edit(ann)
    assert said["permissionDecision"] == "deny"
    assert "T-1 was lost: lapsed at " in said["permissionDecisionReason"]
    assert "This session holds no task" in said["permissionDecisionReason"]


def test_what_could_not_be_confirmed_stops_no_edit_and_is_told_once(sandbox: Make) -> None:
    ann = sandbox(DIBS_GATE="block", **LOCAL)
    ann.dibs("claim", "T-1", "--ttl", "2s").said(0)
    over_by_its_own_clock(ann)
    with hanging(ann) as env:
        begun = time.monotonic()
        said = edit(ann, env=env)
        assert time.monotonic() - begun < 4
        found = r"The claim on T-1 has not been confirmed since \d\d:\d\dZ"
        assert re.search(found, said["additionalContext"])
        assert "holds no task" not in json.dumps(said)
        begun = time.monotonic()
        assert edit(ann, env=env) == {}
        assert time.monotonic() - begun < 1, "the client calls a service that hangs only once"


def test_where_a_session_says_what_it_works_on_another_task_does_not_do(sandbox: Make) -> None:
    ann = sandbox(DIBS_GATE="block", DIBS_TASK="T-2", **LOCAL)
    ann.dibs("claim", "T-1").said(0)
    said = edit(ann)
    assert said["permissionDecision"] == "deny"
    assert "works on T-2 (DIBS_TASK) and does not hold it" in said["permissionDecisionReason"]
    ann.dibs("claim", "T-2").said(0)
    assert edit(ann) == {}


def test_what_dibs_run_has_started_works_on_the_task_that_it_holds(sandbox: Make) -> None:
    ann = sandbox(DIBS_GATE="block", **LOCAL)
    assert edit(ann, env={"DIBS_TASK": "T-1", "DIBS_FENCE": "7"}) == {}


def test_the_advice_works_from_any_folder(sandbox: Make) -> None:
    ann = sandbox(DIBS_GATE="block", **LOCAL)
    ann.dibs("init").said(0)
    ann.script = ann.repo / ".claude/skills/dibs/dibs"
    assert f"`sh {ann.script} claim TASK`" in edit(ann)["permissionDecisionReason"]


@pytest.mark.parametrize("tool", ["create_pull_request", "push_files", "merge_pull_request"])
def test_a_pull_request_by_a_forges_tool_is_work(sandbox: Make, tool: str) -> None:
    ann = sandbox(DIBS_GATE="block", **LOCAL)

    def called(tool: str, **given: str) -> str:
        return ann.hook("PreToolUse", tool_name=tool, tool_input=given).stdout

    owner, name = "Acme", ann.folder.parent.name
    assert '"deny"' in called(f"mcp__github__{tool}", title="x")
    assert '"deny"' in called(f"mcp__github__{tool}", owner=owner, repo=name)
    assert called(f"mcp__github__{tool}", owner=owner, repo="another") == ""
    assert called(f"mcp__github__{tool.replace('create', 'get').replace('push', 'list')}s") == ""
    ann.dibs("claim", "T-1").said(0)
    assert called(f"mcp__github__{tool}", title="x") == ""


def test_plan_mode_stops_nothing(sandbox: Make) -> None:
    ann = sandbox(DIBS_GATE="block", **LOCAL)
    assert edit(ann, permission_mode="plan") == {}
    assert bash(ann, "git push")["permissionDecision"] == "deny"


@pytest.mark.long
def test_a_turns_end_waits_no_second_time_for_a_service_that_hangs(sandbox: Make) -> None:
    ann = sandbox(**LOCAL)
    ann.dibs("claim", "T-1").said(0)
    home = str(ann.state_files()[0].parents[1])
    with hanging(ann) as env:
        ann.hook("Stop", env)
        begun = time.monotonic()
        ann.hook("Stop", env)
        assert time.monotonic() - begun < 1.5
    (path,) = [path for path in ann.state_files() if "claims" in path.read_text()]
    path.parents[1].rename(home)  # the state is back, and the end of the next turn parks the claim
    ann.hook("Stop")
    until(lambda: "parked" in ann.dibs("show", "T-1").said(0).stdout, "another process has parked")


def test_doctor_says_it_in_json_too(sandbox: Make) -> None:
    ann = sandbox(**LOCAL)
    told = ann.dibs("doctor", "--json").said(0).json
    assert told["is_ok"]
    assert all(check["is_ok"] for check in told["checks"])
    wrong = ann.dibs("doctor", "--json", DIBS_URL="http://127.0.0.1:1").said(3).json
    assert (wrong["is_ok"], wrong["code"]) == (False, 3)


def test_a_person_sees_what_is_held_in_a_status_line(sandbox: Make) -> None:
    """The status line reads files only: it costs no call to the service and no tokens."""
    ann = sandbox(**LOCAL)
    given = json.dumps({"session_id": "5f0e", "workspace": {"project_dir": str(ann.repo)}})

    def line() -> str:
        return ann.dibs("hook", "status", stdin=given).said(0).stdout

    assert line() == ""
    ann.dibs("claim", "T-1").said(0)
    assert re.fullmatch(r"T-1, (28|29|30) min left\n", line())
    ann.dibs("claim", "a name", "--ttl", "10m").said(0)
    assert '"a name", ' in line()
    ann.dibs("park").said(0)
    assert "T-1, waits" in line()
