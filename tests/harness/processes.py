"""Processes that tests and benchmarks start: with clean signals, bounded, and none left behind.

Tests start processes with `start` or `run` (and end them with `end`), not with `subprocess`:

    process = start([sys.executable, "-m", "dibs", "serve"], stdout=log)
    ...
    end(process)            # and all its descendants, also those that left its group or session

A process group does not contain every descendant: a daemon has its own session. The process tree
does. After `adopt_orphans`, a process whose parent ended becomes a child of this process instead
of init's, so that every descendant stays below this process and `family` finds it.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

CLEAN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals whose default action every child must have. subprocess itself restores SIGPIPE."""
TIMEOUT_S = 60.0
"""Seconds after which `run` kills a command."""
_PR_SET_CHILD_SUBREAPER = 36


def until(
    met: Callable[[], Any], what: str, within_s: float = 15.0, *, every_s: float = 0.02
) -> Any:
    """Call `met` every `every_s` seconds until it returns a true value, and return that.

    Raises AssertionError with `what` after `within_s` seconds.
    """
    deadline = time.monotonic() + within_s
    while not (found := met()):
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s in vain until {what}"
        time.sleep(every_s)
    return found


# Signals


def clean_signals() -> None:
    """Let children start with default signals, however this process was started.

    A process that `nohup`, a background job of a script or a supervisor started may have signals
    ignored or blocked, and its children inherit that: a Ctrl-C that a test sends would be lost.
    An ignored signal still has no effect in this process: an empty handler replaces SIG_IGN, and
    handlers, unlike SIG_IGN, end at the exec of a child. Call it in the main thread, before threads
    start.
    """
    for number in CLEAN:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _without_effect)
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # otherwise no child could be waited for
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _without_effect(_number: int, _frame: object) -> None:
    """Do nothing, in place of SIG_IGN."""


def unclean_signals() -> list[str]:
    """Return the names of the signals that a child would inherit ignored or blocked."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    ignored = {number for number in CLEAN if signal.getsignal(number) == signal.SIG_IGN}
    return sorted(signal.Signals(number).name for number in ignored | blocked)


# Start, run, end


def clean_environ(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without dibs settings, plus `more`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIBS_")}
    return inherited | {"PYTHONUNBUFFERED": "1"} | dict(more or {})


def start(command: Sequence[str | Path], **options: Any) -> "subprocess.Popen[str]":
    """Start a command with clean signals, and without dibs settings other than those in `env`.

    `options` are those of Popen; the streams are text.
    """
    unclean = unclean_signals()
    assert not unclean, f"a child would not get {', '.join(unclean)}: call clean_signals() first"
    return subprocess.Popen(command, **{"text": True, "env": clean_environ(), **options})


def run(
    command: Sequence[str | Path] | str, *, timeout: float = TIMEOUT_S, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end with clean signals; return its captured output as text.

    `options` are those of Popen, and `input` and `check` of subprocess.run. After `timeout`
    seconds the command and all its descendants are killed, and TimeoutExpired is raised.
    """
    said, check = options.pop("input", None), options.pop("check", False)
    if said is not None:
        options["stdin"] = subprocess.PIPE
    if options.pop("capture_output", True):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = start(command, **options)
    try:
        out, err = process.communicate(said, timeout)
    except BaseException:
        end(process)
        raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{out or ''}{err or ''}"
    return done


def end(process: "subprocess.Popen[Any]", within_s: float = 10.0) -> tuple[Any, Any]:
    """Kill a process and all its descendants; return the output in its pipes.

    Waits `within_s` seconds at most, even if another process holds the pipes open.
    """
    if process.poll() is None:
        kill([process.pid, *family(process.pid)])
    try:
        return process.communicate(timeout=within_s)
    except ValueError:  # the test itself closed a pipe
        process.wait(within_s)
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
    return None, None


def kill(pids: Iterable[int]) -> None:
    """Kill processes and all their descendants, and wait until they are gone."""
    pids = list(pids)
    for pid in pids:  # stop them first: a stopped process starts nothing
        _signal(pid, signal.SIGSTOP)
    everyone = dict.fromkeys([*pids, *(kin for pid in pids for kin in family(pid))])
    for pid in everyone:
        _signal(pid, signal.SIGKILL)
    until(lambda: all(map(is_gone, everyone)), "killed processes are gone")


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


# The process tree


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (Linux; elsewhere do nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(pid: int) -> list[int]:
    """Return the processes that `pid` started or adopted and that are not yet reaped."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def family(pid: int) -> list[int]:
    """Return every living process below `pid`, parents first."""
    found: list[int] = []
    for child in children(pid):
        if not is_gone(child):
            found.append(child)
        found += family(child)
    return found


def command(pid: int) -> str:
    """Return the command line of a process, or "" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def is_gone(pid: int) -> bool:
    """Return whether a process ended, reaped or not."""
    return _stat(pid)[0] in "ZX"


def born(pid: int) -> str:
    """Return a process's start time in kernel ticks; it and the pid identify one process."""
    return _stat(pid)[19]


def _stat(pid: int) -> list[str]:
    """Return the fields of proc(5)'s stat from the state on; a missing process is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X"] + [""] * 50
