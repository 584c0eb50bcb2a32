"""A session keeps its identity through `/clear`, resume and compaction, and takes no other's."""

import json
import os
import sys
from pathlib import Path

import pytest
from tests.client.agents import Agent
from tests.client.conftest import CLIENT, Make, Sandbox
from tests.harness import processes

HAS_PROC = os.path.isdir("/proc/self")


def holds(agent: Agent, task: str) -> bool:
    """Return whether this agent's session holds the task."""
    return bool(agent.dibs("show", task, "--json").said(0).json.get("mine"))


def state(agent: Agent, task: str) -> str:
    """Return the task's state as the service reports it."""
    return str(agent.dibs("show", task, "--json").said(0).json["state"])


def secrets(box: Sandbox) -> list[str]:
    """Return the secrets stored on a machine."""
    kept = (json.loads(path.read_text()).get("session") for path in box.state_files())
    return [secret for secret in kept if secret]


def test_clear_releases_nothing_and_the_next_conversation_goes_on(sandbox: Make) -> None:
    ann = Agent(sandbox(), "aaa")
    ann.begins()
    fence = ann.dibs("claim", "T-1", "--json").said(0).json["fence"]
    said = ann.clears("bbb")
    assert "this session holds T-1 until" in said
    assert ann.dibs("claim", "T-1", "--json").said(0).json["fence"] == fence
    ann.hook("Stop")
    said = ann.clears("ccc")
    assert "this session holds T-1 until" in said
    assert state(ann, "T-1") == "parked"  # parked, so its wait for a person was kept
    ann.hook("UserPromptSubmit")
    assert state(ann, "T-1") == "held"
    ann.dibs("done", "T-1").said(0)
    assert "holds no task" in ann.clears("ddd")


def test_clear_keeps_the_claims_of_every_repository_and_sub_agent(sandbox: Make) -> None:
    ann = Agent(sandbox(), "aaa")
    ann.begins()
    other = {"DIBS_PROJECT": f"{ann.box.env['DIBS_PROJECT']}.other"}
    ann.dibs("claim", "T-1").said(0)
    ann.dibs("claim", "T-2", **other).said(0)
    ann.dibs("claim", "T-3", "--as", "sub").said(0)
    said = ann.clears("bbb")
    assert "T-1 until" in said
    assert f"in {other['DIBS_PROJECT']}" in said
    assert "(sub-agent sub)" in said
    ann.dibs("verify", "T-2", **other).said(0)
    ann.dibs("verify", "T-3", "--as", "sub").said(0)
    ann.dibs("release", "T-2", **other).said(0)


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc to read processes")
def test_two_agents_that_are_cleared_at_once_are_never_mixed_up(sandbox: Make) -> None:
    box = sandbox()
    ann, bob = Agent(box, "aaa"), Agent(box, "bbb")
    for agent, task in ((ann, "A-1"), (bob, "B-1")):
        agent.begins()
        agent.dibs("claim", task).said(0)
    ann.hook("SessionEnd", reason="clear")
    bob.hook("SessionEnd", reason="clear")
    ann.conversation, bob.conversation = "ccc", "ddd"
    assert "holds B-1 until" in bob.begins("clear")
    assert "holds A-1 until" in ann.begins("clear")
    assert (holds(ann, "A-1"), holds(ann, "B-1")) == (True, False)
    assert (holds(bob, "A-1"), holds(bob, "B-1")) == (False, True)


def test_another_checkout_or_another_agent_adopts_nothing(sandbox: Make) -> None:
    box = sandbox()
    ann, bob = Agent(box, "aaa"), Agent(box, "bbb")
    ann.begins()
    ann.dibs("claim", "T-1").said(0)
    ann.hook("SessionEnd", reason="clear")
    elsewhere = box.folder / "elsewhere"
    elsewhere.mkdir()
    ann.conversation = "ccc"
    said = ann.hook("SessionStart", {"CLAUDE_PROJECT_DIR": str(elsewhere)}, source="clear")
    assert "holds T-1" not in said
    if HAS_PROC:
        assert "holds no task" in bob.begins("clear")
    assert not holds(bob, "T-1")


def without_processes(box: Sandbox, conversation: str, event: str, **fields: str) -> str:
    """Return a hook's output on a platform that cannot list processes."""
    payload = json.dumps({"session_id": conversation, "hook_event_name": event, **fields})
    done = processes.run(
        [sys.executable, "-c", BLIND, str(CLIENT)],
        cwd=box.repo,
        env=box.environ({"CLAUDE_CODE_SESSION_ID": conversation}),
        input=payload,
        check=True,
    )
    return done.stdout


BLIND = """
import importlib.util, json, sys
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
dibs = load("dibs_client", sys.argv[1])
hook = load("hook", sys.argv[1].replace("dibs.py", "hook.py"))
hook.agent_process = lambda: ""
hook.run(dibs.Session(dibs.Setup()), json.load(sys.stdin))
"""


def test_where_processes_are_unknown_the_only_candidate_is_adopted_and_of_two_none(
    sandbox: Make,
) -> None:
    box = sandbox()
    box.dibs("claim", "A-1", CLAUDE_CODE_SESSION_ID="aaa").said(0)
    without_processes(box, "aaa", "SessionEnd", reason="clear")
    assert "holds A-1" in without_processes(box, "ccc", "SessionStart", source="clear")
    box.dibs("claim", "B-1", CLAUDE_CODE_SESSION_ID="bbb").said(0)
    for name in ("ccc", "bbb"):
        without_processes(box, name, "SessionEnd", reason="clear")
    for name in ("ddd", "eee"):
        said = without_processes(box, name, "SessionStart", source="clear")
        assert "holds no task" in said
        assert "Two sessions were cleared here at once: this one continues neither" in said
        assert len(said) / 4 <= 100
    box.dibs("claim", "A-1", CLAUDE_CODE_SESSION_ID="ddd").said(1)


def test_a_cleared_conversation_that_is_resumed_is_another_session_by_then(sandbox: Make) -> None:
    box = sandbox()
    ann, bob = Agent(box, "aaa"), Agent(box, "aaa")
    ann.begins()
    ann.dibs("claim", "T-1").said(0)
    ann.clears("bbb")
    said = bob.begins("resume")  # in another terminal: both are live
    assert "holds no task" in said
    assert "This is a new session, as after a fork" in said
    bob.dibs("claim", "T-1").said(1)
    bob.dibs("claim", "T-2").said(0)
    assert len(set(secrets(box))) == len(secrets(box)) == 2


def test_a_clear_that_is_long_ago_is_adopted_by_nobody(sandbox: Make) -> None:
    ann = Agent(sandbox(), "aaa")
    ann.begins()
    ann.dibs("claim", "T-1").said(0)
    ann.hook("SessionEnd", reason="clear")
    notes = ann.box.home / ".local/state/dibs/cleared"
    *words, at = notes.read_text().split()
    notes.write_text(" ".join([*words, str(float(at) - 61)]) + "\n")
    ann.conversation = "bbb"
    assert "holds no task" in ann.begins("clear")


def test_resume_and_compaction_change_nothing(sandbox: Make) -> None:
    ann = Agent(sandbox(), "aaa")
    ann.begins()
    ann.dibs("claim", "T-1").said(0)
    for source in ("resume", "compact", "startup"):
        said = ann.begins(source)
        assert "holds T-1" in said
        assert "new session" not in said
        assert "VM" not in said
    ann.hook("SessionEnd", reason="resume")  # the person switches to another conversation
    assert state(ann, "T-1") == "parked"
    assert "holds T-1" in ann.begins("resume")
    assert state(ann, "T-1") == "held"


def test_a_fork_inherits_nothing_and_is_told_so(sandbox: Make) -> None:
    box = sandbox()
    ann, fork = Agent(box, "aaa"), Agent(box, "fork")
    ann.begins()
    ann.dibs("claim", "T-1").said(0)
    said = fork.begins("resume")
    assert "this session holds no task" in said
    assert "new session, as after a fork: it holds no claim that the conversation made" in said
    assert "VM" not in said
    assert len(said) / 4 <= 100
    fork.dibs("claim", "T-1").said(1)


def test_only_a_cloud_machine_is_called_a_vm(sandbox: Make) -> None:
    ann = Agent(sandbox(), "aaa")
    ann.dibs("claim", "T-1").said(0)
    ann.box.forget()
    assert "VM" not in ann.begins("resume")
    ann.box.forget()
    cloud = {"CLAUDE_CODE_REMOTE": "true"}
    assert "VM is new" in ann.hook("SessionStart", cloud, source="compact")


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc to read processes")
def test_an_agent_that_tells_its_commands_no_id_is_known_by_its_process(sandbox: Make) -> None:
    box = sandbox()
    ann, bob = (Agent(box, name, tells=False) for name in ("ann", "bob"))
    for agent in (ann, bob):
        agent.begins()
    ann.dibs("claim", "T-1").said(0)
    bob.dibs("claim", "T-1").said(1)
    assert "holds T-1" in ann.begins("resume")
    assert "holds no task" in bob.begins("resume")
    assert "holds T-1" in ann.clears("cleared")
    ann.hook("Stop")
    assert state(ann, "T-1") == "parked"
    ann.hook("SessionEnd", reason="exit")
    assert state(bob, "T-1") == "free"


@pytest.mark.parametrize("place", ["cleared", "moved", "sessions/aaa.list", "sessions/aaa.stamp"])
@pytest.mark.parametrize(
    "text", ["", "x\n", "a b c d e f\n", "\x00\xff\n", "- - -\n" * 50, "a " * 9]
)
def test_what_is_kept_and_damaged_costs_no_claim(sandbox: Make, place: str, text: str) -> None:
    ann = Agent(sandbox(), "aaa")
    ann.begins()
    ann.dibs("claim", "T-1").said(0)
    path = ann.box.home / ".local/state/dibs" / place
    path.write_text(text)
    path.chmod(0o600)
    ann.hook("PostToolUse")
    ann.hook("UserPromptSubmit")
    ann.dibs("verify", "T-1").said(0)
    assert "holds T-1" in ann.begins("resume")


@pytest.mark.parametrize(
    "name", ["a/b/../../c", "x" * 10_000, "..", "", "\n", "é" * 300, "a b", "~", "$(id)", "a\x00b"]
)
def test_an_id_of_any_shape_is_a_name_and_no_path(sandbox: Make, name: str) -> None:
    box = sandbox()
    ann = Agent(box, "")
    ann.conversation = name.replace("\x00", "")[:4000]
    payload = {"session_id": name, "hook_event_name": "SessionStart", "source": "clear"}
    for payload["hook_event_name"] in ("SessionStart", "SubagentStart", "SubagentStop", "Stop"):
        ann.run(box.command("hook"), json.dumps(payload | {"agent_id": name})).said(0)
    ann.dibs("claim", "T-1").said(0)
    if name.strip() and "\x00" not in name and "$" not in name:
        quoted = "'" + name + "'"
        ann.dibs("claim", "T-2", "--as", quoted).said(0)
        ann.dibs("claim", "T-2").said(1)
    ann.hook("SessionEnd", reason="clear")
    found = [path for path in box.home.rglob("*") if path.is_file()]
    assert all(str(path).startswith(str(box.home / ".local/state/dibs")) for path in found), found


def test_doubled_ids_are_one(sandbox: Make) -> None:
    box = sandbox()
    text = '{"session_id": "a", "session_id": "b", "hook_event_name": "SessionStart"}'
    box.dibs("hook", stdin=text).said(0)
    assert (
        box.dibs("claim", "T-1", "--as", "x", "--as", "y", "--json")
        .said(0)
        .json["holder"]["label"]
        .endswith("/y")
    )


def test_a_home_that_cannot_be_written_fails_no_hook(sandbox: Make) -> None:
    ann = Agent(sandbox(XDG_STATE_HOME="/proc/nothing"), "aaa")
    assert "holds no task" in ann.begins()
    assert "holds no task" in ann.clears("bbb")
    for event in ("Stop", "SubagentStart", "SubagentStop", "SessionEnd"):
        ann.hook(event, agent_id="x")
    answer = ann.dibs("claim", "T-1").said(2)
    assert answer.stderr.count("\n") == 1


def test_files_of_another_user_are_not_believed(sandbox: Make, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can chown")
    ann = Agent(sandbox(), "aaa")
    ann.begins()
    ann.dibs("claim", "T-1").said(0)
    kept = ann.box.home / ".local/state/dibs"
    for name in ("moved", "cleared", "sessions/aaa.list"):
        path = kept / name
        path.write_text("aaa bbb 1\n")
        os.chown(path, 12345, 12345)
    ann.dibs("verify", "T-1").said(0)
    assert "holds no task" in ann.clears("ccc"), "the file that records a clear has another owner"
    assert holds_as(ann, "aaa")


def holds_as(ann: Agent, conversation: str) -> bool:
    """Return whether the session of this conversation holds T-1."""
    ann.conversation = conversation
    return ann.dibs("verify", "T-1").returncode == 0
