"""`dibs run`, and the effects of a stopped, killed or frozen session (rule 17, I11)."""

import os
import signal
import subprocess
import sys
import time

import pytest
from tests.client.conftest import Make, Sandbox
from tests.client.sandboxproxy import sandbox_proxy
from tests.harness import processes
from tests.harness.processes import is_gone, until
from tests.harness.services import ServiceProcess


def children(run: "subprocess.Popen[str]") -> list[int]:
    """Return the child processes of this one."""
    return processes.children(run.pid)


def signal_all(run: "subprocess.Popen[str]", number: int) -> None:
    """Signal a run and its command, as when a VM freezes or dies with all its processes."""
    for pid in [*children(run), run.pid]:
        os.kill(pid, number)


def state(ann: Sandbox) -> str:
    """Return the task's state as the service reports it."""
    return str(ann.dibs("show", "T-1", "--json").said(0).json["state"])


def test_run_holds_the_task_for_the_command_and_passes_its_exit_code_on(sandbox: Make) -> None:
    ann = sandbox()
    script = f'{" ".join(ann.command("verify", "T-1"))} && echo "$DIBS_TASK $DIBS_FENCE"; exit 7'
    answer = ann.dibs("run", "T-1", "--", "sh", "-c", script).said(7)
    held, named = answer.stdout.splitlines()
    assert held.startswith("T-1: held by you")
    assert named.split()[1] in held
    assert state(ann) == "free"


def test_run_can_mark_the_task_as_done(sandbox: Make) -> None:
    ann = sandbox()
    ann.dibs("run", "T-1", "--done", "--", "false").said(1)
    assert state(ann) == "free"
    ann.dibs("run", "T-1", "--done", "--", "true").said(0)
    assert state(ann) == "done"


def test_run_starts_nothing_when_the_task_is_taken(sandbox: Make) -> None:
    ann, bob = sandbox(DIBS_LABEL="ann"), sandbox(DIBS_LABEL="bob")
    ann.dibs("claim", "T-1").said(0)
    bob.dibs("run", "T-1", "--", "touch", "began").said(1)
    assert not (bob.repo / "began").exists()


@pytest.mark.long
def test_run_keeps_a_short_claim_alive(sandbox: Make) -> None:
    ann, bob = sandbox(DIBS_LABEL="ann"), sandbox(DIBS_LABEL="bob")
    run = ann.start("run", "T-1", "--ttl", "3s", "--", "sleep", "7")
    until(lambda: children(run), "the command runs")
    begun = time.monotonic()
    while time.monotonic() - begun < 5:  # longer than the ttl and its grace
        bob.dibs("claim", "T-1").said(1)
    out, err = run.communicate(timeout=20)
    assert run.returncode == 0, out + err
    assert ann.dibs("show", "T-1", "--json").json["lapses"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_run_passes_signals_on(sandbox: Make, number: int) -> None:
    ann = sandbox()
    trap = "trap 'exit 42' INT TERM HUP; touch ready; while :; do sleep 0.05; done"
    run = ann.start("run", "T-1", "--", "sh", "-c", trap)
    until(lambda: children(run), "the command runs")
    until((ann.repo / "ready").exists, "the shell has set its trap")
    run.send_signal(number)
    run.communicate(timeout=20)
    assert run.returncode == 42
    assert state(ann) == "free"


def test_a_signal_while_the_command_is_being_started_reaches_it(sandbox: Make) -> None:
    """Otherwise the signal would end the run, and its command would go on without heartbeats."""
    ann = sandbox()
    slow = ann.folder / "slow.py"
    slow.write_text(
        "import os, signal, subprocess\n"
        "begin = subprocess.Popen.__init__\n"
        "def begun(self, *args, **options):\n"
        "    begin(self, *args, **options)\n"
        "    if 'sleep' in self.args:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "subprocess.Popen.__init__ = begun\n"
        "import runpy, sys\n"
        f"sys.argv[0] = {str(ann.script)!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    run = ann.start_as([sys.executable, str(slow), "run", "T-1", "--", "sleep", "60"])
    run.communicate(timeout=20)
    assert run.returncode == 128 + signal.SIGTERM
    assert state(ann) == "free"


def test_run_in_the_background_of_a_script_leaves_ctrl_c_and_hangups_to_others(
    sandbox: Make,
) -> None:
    ann = sandbox()
    program = """
import os, pathlib, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, lambda number, _frame: os._exit(40 + number))
pathlib.Path("ready").touch()
while True:
    signal.pause()
"""
    background = ["bash", "-c", "trap '' INT HUP; exec \"$@\"", "bash"]
    command = ann.command("run", "T-1", "--", sys.executable, "-c", program)
    run = ann.start_as([*background, *command])
    until((ann.repo / "ready").exists, "the command has set its handlers")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        run.send_signal(number)
    run.communicate(timeout=20)
    assert run.returncode == 40 + signal.SIGTERM


def test_a_command_that_a_signal_ended_has_the_code_of_shells(sandbox: Make) -> None:
    sandbox().dibs("run", "T-1", "--", "sh", "-c", "kill -9 $$").said(137)


def test_run_stops_the_command_when_a_frozen_session_lost_the_task(sandbox: Make) -> None:
    ann, bob = sandbox(DIBS_LABEL="ann"), sandbox(DIBS_LABEL="bob")
    run = ann.start("run", "T-1", "--ttl", "2s", "--", "sleep", "60")
    until(lambda: children(run), "the command runs")
    [command] = children(run)
    signal_all(run, signal.SIGSTOP)
    bob.dibs("claim", "T-1", "--wait", "20s").said(0)
    signal_all(run, signal.SIGCONT)
    _, err = run.communicate(timeout=20)
    assert run.returncode == 4, err
    assert "bob" in err
    assert is_gone(command)
    bob.dibs("verify", "T-1").said(0)


@pytest.mark.long
def test_a_frozen_session_that_lost_nothing_goes_on_with_its_fence(sandbox: Make) -> None:
    ann = sandbox(DIBS_LABEL="ann")
    run = ann.start("run", "T-1", "--ttl", "1s", "--", "sleep", "4")
    until(lambda: children(run), "the command runs")
    fence = ann.dibs("show", "T-1", "--json").json["fence"]
    signal_all(run, signal.SIGSTOP)
    until(lambda: state(ann) == "lapsed", "the claim lapsed")
    signal_all(run, signal.SIGCONT)
    until(lambda: state(ann) == "held", "the claim is alive again")
    assert ann.dibs("show", "T-1", "--json").json["fence"] == fence
    run.communicate(timeout=20)
    assert run.returncode == 0


@pytest.mark.long
def test_a_killed_session_frees_its_task_by_itself(sandbox: Make) -> None:
    ann, bob = sandbox(DIBS_LABEL="ann"), sandbox(DIBS_LABEL="bob")
    run = ann.start("run", "T-1", "--ttl", "8s", "--", "sleep", "60")
    until(lambda: children(run), "the command runs")
    signal_all(run, signal.SIGKILL)
    run.communicate(timeout=20)
    bob.dibs("claim", "T-1").said(1)
    claim = bob.dibs("claim", "T-1", "--wait", "20s", "--json").said(0).json
    assert claim["previous"]["holder"]["label"] == "ann"


@pytest.mark.long
def test_a_session_that_is_cut_off_stops_before_anybody_else_may_begin(
    service: ServiceProcess, sandbox: Make
) -> None:
    ann = sandbox("https://dibs.test", DIBS_LABEL="ann")
    bob = sandbox(DIBS_LABEL="bob")
    with sandbox_proxy(ann.folder, service.port) as proxy:
        ann.env |= {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(proxy.ca_file)}
        run = ann.start("run", "T-1", "--ttl", "4s", "--", "sleep", "60")
        until(lambda: children(run), "the command runs")
        [command] = children(run)
        proxy.mode = "reset"
        until(lambda: bob.dibs("claim", "T-1").returncode == 0, "the task is free")
        assert is_gone(command)
        _, err = run.communicate(timeout=20)
    assert run.returncode == 4, err


def test_a_session_that_is_cut_off_knows_by_its_own_clock_that_it_lost(
    service: ServiceProcess, sandbox: Make
) -> None:
    ann = sandbox("https://dibs.test", DIBS_LABEL="ann")
    with sandbox_proxy(ann.folder, service.port) as proxy:
        ann.env |= {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(proxy.ca_file)}
        ann.dibs("claim", "T-1", "--ttl", "3s").said(0)
        proxy.mode = "reset"
        ann.dibs("verify", "T-1").said(3)
        until(lambda: ann.dibs("verify", "T-1").returncode == 4, "the run counts its claim as over")


def test_a_stopped_command_of_the_same_session_is_named_not_waited_for(sandbox: Make) -> None:
    ann = sandbox()
    ann.dibs("claim", "T-1").said(0)
    lock = next(path for path in (ann.home / ".local").rglob("*.lock"))
    holder = processes.start(["flock", str(lock), "sleep", "60"], start_new_session=True)
    try:
        until(lambda: children(holder), "the lock is held")
        ann.stamp_is_old()
        begun = time.monotonic()
        ann.hook("PostToolUse")
        assert time.monotonic() - begun < 4
    finally:
        processes.end(holder)
