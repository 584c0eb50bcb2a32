"""A keeper renews a claim while one tool runs longer than the ttl and no event comes.

It sends heartbeats only while a call is in progress and the agent lives: a dead session's claim
lapses as usual.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from tests.client.conftest import Make, Sandbox
from tests.harness import processes
from tests.harness.processes import until

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
ME = {"CLAUDE_CODE_SESSION_ID": "5f0e"}

# Runs a hook for each line that it reads, through a shell, as an agent does.
AGENT = """
import json, subprocess, sys
for line in sys.stdin:
    command, payload = json.loads(line)
    shell = ["sh", "-c", command + " 2>/dev/null || true"]
    subprocess.run(shell, input=json.dumps(payload), text=True)
    print("ran", flush=True)
"""


class StandIn:
    """A stand-in for the agent: a process that starts its hooks as its children."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self.process = processes.start(
            [sys.executable, "-c", AGENT],
            cwd=box.repo,
            env=box.environ({"CLAUDE_PROJECT_DIR": str(box.repo)}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def event(self, name: str, **fields: object) -> None:
        """Run the hook of an event and wait for its end."""
        assert self.process.stdin
        assert self.process.stdout
        payload = {"hook_event_name": name, "session_id": "5f0e", **fields}
        line = json.dumps([" ".join(self.box.command("hook")), payload])
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().endswith("ran\n")

    def begins(self, call: str = "toolu_1", tool: str = "Bash") -> None:
        """Begin a tool call."""
        self.event("PreToolUse", tool_name=tool, tool_use_id=call, tool_input={"command": "make"})

    def ends(self, call: str = "toolu_1") -> None:
        """End a tool call."""
        self.event("PostToolUse", tool_name="Bash", tool_use_id=call)


@pytest.fixture
def agent(sandbox: Make) -> Iterator[StandIn]:
    """Yield an agent whose session holds T-1 with a ttl of 4 seconds."""
    box = sandbox(**ME)
    box.dibs("claim", "T-1", "--ttl", "4s").said(0)
    agent = StandIn(box)
    yield agent
    processes.end(agent.process)
    until(lambda: not box.keepers(), "the keeper has ended")


def seen(box: Sandbox, task: str = "T-1") -> dict[str, object]:
    """Return the task as the service reports it."""
    return dict(box.dibs("show", task, "--json").said(0).json)


def outlives_its_ttl(box: Sandbox) -> None:
    """Assert that T-1 is still held with the same fence after two ttls."""
    fence, end = seen(box)["fence"], time.monotonic() + 8
    while time.monotonic() < end:
        now = seen(box)
        assert (now["state"], now["fence"]) == ("held", fence)
        time.sleep(0.3)


def lapses(box: Sandbox) -> None:
    """Assert that T-1 lapses."""
    until(lambda: seen(box)["state"] == "lapsed", "the claim lapses")


@pytest.mark.long
def test_a_claim_outlives_a_tool_that_runs_for_longer_than_it_lasts(agent: StandIn) -> None:
    agent.begins()
    outlives_its_ttl(agent.box)
    agent.ends()
    lapses(agent.box)


@pytest.mark.long
def test_a_claim_dies_with_its_agent_in_the_middle_of_a_tool(agent: StandIn) -> None:
    agent.begins()
    until(lambda: len(agent.box.keepers()) == 1, "a keeper runs")
    agent.process.kill()
    agent.process.wait(10)
    until(lambda: not agent.box.keepers(), "the keeper has ended")
    lapses(agent.box)


@pytest.mark.long
def test_of_two_calls_at_once_the_longer_one_counts(agent: StandIn) -> None:
    agent.begins("toolu_1")
    agent.begins("toolu_2")
    agent.ends("toolu_1")
    outlives_its_ttl(agent.box)
    assert len(agent.box.keepers()) == 1


@pytest.mark.parametrize("event", ["UserPromptSubmit", "StopFailure"])
def test_a_call_that_was_interrupted_ends_with_its_turn(agent: StandIn, event: str) -> None:
    agent.begins()
    agent.event(event)
    assert not list((agent.box.home / ".local/state/dibs").rglob("*.tools/*"))


def test_a_call_whose_end_nobody_told_counts_for_two_hours(agent: StandIn) -> None:
    agent.begins()
    long_ago = time.time() - 7201
    for path in (agent.box.home / ".local/state/dibs").rglob("*.tools/*"):
        os.utime(path, (long_ago, long_ago))
    lapses(agent.box)
    until(lambda: not agent.box.keepers(), "the keeper has ended")


@pytest.mark.long
def test_work_in_the_background_keeps_a_claim_after_the_turn(agent: StandIn) -> None:
    agent.begins()
    agent.ends()
    agent.event("Stop", background_tasks=[{"id": "b1"}])
    outlives_its_ttl(agent.box)
    agent.event("Stop", background_tasks=[])
    assert seen(agent.box)["state"] == "parked"


def test_who_holds_nothing_has_no_keeper(sandbox: Make) -> None:
    box = sandbox(**ME)
    agent = StandIn(box)
    agent.begins()
    assert not box.keepers()
    processes.end(agent.process)


@pytest.mark.long
@pytest.mark.parametrize("call", ["../../escape", "", "x" * 10_000, "\u00e9\\n", "."])
def test_an_odd_id_of_a_call_is_as_good_as_any(agent: StandIn, call: str) -> None:
    agent.begins(call)
    outlives_its_ttl(agent.box)
    agent.ends(call)
    assert not list((agent.box.home / ".local/state/dibs").rglob("*.tools/*"))
