"""Processes that the tests start get default signals, and end with all their descendants."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from tests.harness.processes import (
    command,
    end,
    family,
    is_gone,
    kill,
    run,
    start,
    until,
)

ITS_SIGNALS = """
import signal
number = {"INT": 2, "TERM": 15, "HUP": 1, "QUIT": 3}
names = [name for name, n in number.items() if signal.getsignal(n) == signal.SIG_IGN]
names += sorted(each.name for each in signal.pthread_sigmask(signal.SIG_BLOCK, []))
print(",".join(names))
"""
DAEMON = "setsid sleep 60 >/dev/null 2>&1 & echo $!"
"""A shell line that starts a process in its own session and exits at once."""


@pytest.fixture
def unclean() -> Iterator[None]:
    """Ignore SIGINT, as in a background job of a script, and block SIGTERM."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGINT, before)


def test_children_of_a_run_with_ignored_and_blocked_signals_get_them_clean() -> None:
    first = "from tests.harness.processes import clean_signals, run; clean_signals(); import sys; "
    then = f"print(run([sys.executable, '-c', {ITS_SIGNALS!r}]).stdout)"
    block = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {3, 15}); "
    block += "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    shell = "trap '' INT TERM HUP QUIT; exec \"$@\""
    program = [sys.executable, "-c", block, first + then]
    done = run(["bash", "-c", shell, "bash", *program])
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_nothing_is_started_with_signals_that_are_not_clean(unclean: None) -> None:
    with pytest.raises(AssertionError, match="SIGINT, SIGTERM: call clean_signals"):
        start(["true"])


def test_ending_a_process_ends_what_left_its_session_too() -> None:
    process = start(
        [
            sys.executable,
            "-c",
            "import subprocess, time\n"
            "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
            "print(child.pid, flush=True)\n"
            "time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout
    grandchild = int(process.stdout.readline())
    began = time.monotonic()
    end(process)
    assert process.returncode == -signal.SIGKILL
    assert is_gone(grandchild)
    assert time.monotonic() - began < 5


def test_a_command_that_takes_too_long_is_ended_with_what_it_started() -> None:
    before = set(family(os.getpid()))
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run(["sh", "-c", "setsid sleep 60 & sleep 60"], timeout=0.5)
    until(lambda: set(family(os.getpid())) <= before, "nothing of it is there")
    assert time.monotonic() - began < 5


def test_what_is_stopped_is_ended_too() -> None:
    process = start(["sleep", "60"])
    process.send_signal(signal.SIGSTOP)
    end(process)
    assert process.returncode == -signal.SIGKILL


def test_an_orphan_is_ours() -> None:
    orphan = int(run(["sh", "-c", DAEMON]).stdout)
    until(lambda: command(orphan) == "sleep 60", "it runs")
    assert orphan in family(os.getpid())
    kill([orphan])


def test_until_says_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match="in vain until pigs fly"):
        until(lambda: False, "pigs fly", 0.05)


def test_what_the_tests_themselves_are_set_to_is_no_setting_of_what_they_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIBS_PROOF_SHRINK", "0")
    assert "DIBS_" not in run(["env"]).stdout
