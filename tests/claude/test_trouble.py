"""The real Claude Code with a slow tool or a service that does not answer."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.claude.claude_code import DIBS, bash, claude, conversation, write
from tests.claude.conftest import with_dibs
from tests.client.conftest import Sandbox
from tests.harness.processes import until
from tests.harness.services import ServiceProcess, running

LONG = "sleep 14"
ALLOWED = ("--allowedTools", "Bash(sleep *)", "Bash(tail *)")


def seen(box: Sandbox, task: str) -> dict[str, object]:
    """Return the task as the service reports it."""
    return dict(box.dibs("show", task, "--json").said(0).json)


def test_a_long_call_of_a_tool_does_not_cost_the_claim(repo: Sandbox) -> None:
    steps = [bash(f"{DIBS} claim T-1 --ttl 4s"), bash(LONG), bash(f"{DIBS} verify T-1")]
    with conversation(repo, *steps, flags=ALLOWED) as talk:
        talk.send("Work on T-1")
        until(lambda: seen(repo, "T-1")["state"] == "held", "it is claimed", 60)
        fence = seen(repo, "T-1")["fence"]
        states = set()
        while len(talk.model.asked) < 4:
            states.add((seen(repo, "T-1")["state"], seen(repo, "T-1")["fence"]))
            time.sleep(0.3)
        assert states == {("held", fence)}
        assert "T-1: held by you" in talk.model.results()[-1]


def test_a_session_that_dies_in_the_middle_of_a_call_is_not_kept_alive(repo: Sandbox) -> None:
    steps = [bash(f"{DIBS} claim T-1 --ttl 4s"), bash("tail -f /dev/null")]
    with conversation(repo, *steps, flags=ALLOWED) as talk:
        talk.send("Work on T-1")
        until(repo.keepers, "the call is in progress", 60)
        os.killpg(talk.process.pid, signal.SIGKILL)
        until(lambda: seen(repo, "T-1")["state"] != "held", "the claim has ended")
        until(lambda: not repo.keepers(), "its keeper has ended")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ServiceProcess]:
    """Start a service that a test may stop."""
    with running(tmp_path / "service", "--memory") as service:
        yield service


@pytest.fixture
def box(own: ServiceProcess, tmp_path: Path) -> Iterator[Sandbox]:
    """Yield a repository where edits need a claim at that service."""
    box = with_dibs(tmp_path / "vm", own, DIBS_GATE="block")
    yield box
    box.stop()


@pytest.mark.parametrize("how", ["gone", "frozen"])
def test_an_outage_stops_nobodys_work_and_is_told_truly(
    box: Sandbox, own: ServiceProcess, how: str
) -> None:
    if how == "gone":
        own.kill()
    else:
        os.kill(own.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        model = claude(box, bash(f"{DIBS} claim T-1"), write(box, "a.py"), write(box, "b.py"))
        took = time.monotonic() - began
    finally:
        if how == "frozen":
            os.kill(own.pid, signal.SIGCONT)
    claimed, *_ = model.results()
    assert "Exit code 3" in claimed
    assert (box.repo / "a.py").exists()
    assert (box.repo / "b.py").exists()
    assert took < 60


def test_a_slow_service_is_waited_for(box: Sandbox, own: ServiceProcess) -> None:
    box.dibs("claim", "T-0").said(0)
    os.kill(own.pid, signal.SIGSTOP)
    with conversation(box, bash(f"{DIBS} claim T-1"), write(box, "a.py"), {"text": "-"}) as talk:
        talk.send("Work on T-1")
        until(lambda: len(talk.model.asked) >= 1, "the model was asked", 60)
        time.sleep(2)
        os.kill(own.pid, signal.SIGCONT)
        until(lambda: len(talk.model.asked) >= 3, "both tools were used", 60)
        assert "T-1: held by you" in talk.model.results()[0]
        assert (box.repo / "a.py").exists()
