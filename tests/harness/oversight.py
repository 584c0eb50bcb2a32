"""A pytest plugin: no test leaves a process behind, and every run is bounded.

tests/conftest.py registers it. It adds to pytest:

- Children start with default signals, however the run itself was started.
- After each test and the teardown of its fixtures, every process that still runs and that belongs
  to no fixture of a wider scope fails the test with its command line, and is killed. A test that
  restarts a process of a wider fixture declares that with `keep`.
- Teardowns are bounded too. pytest-timeout interrupts a test once; if the test has not ended
  `TEARDOWN_S` later, the processes that it started are killed (most waits wait for one of them),
  and if that does not help, the run ends `LAST_S` later with the stack of every thread.
- The whole run is bounded (`run_timeout` in pyproject.toml). At that time, or on SIGTERM, the run
  names the tests that are running and ends every process below it.
"""

import contextlib
import faulthandler
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from tests.harness.processes import (
    adopt_orphans,
    born,
    children,
    clean_signals,
    command,
    family,
    is_gone,
    kill,
)

TEARDOWN_S = 60.0
"""Seconds that the teardown of a test's fixtures may take after the test's own timeout."""
LAST_S = 20.0
"""Seconds that a run may take to end normally after it was stopped."""
LINGER_S = 5.0
"""Seconds that a process may take to exit after it was stopped."""

_kept: set[tuple[int, str]] = set()


def keep(pid: int) -> None:
    """Mark a process that a test started as belonging to a fixture that outlives the test."""
    _kept.add((pid, born(pid)))


class Oversight:
    """The plugin, in a worker or in the controller of a run."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.own: dict[Any, set[tuple[int, str]]] = {}
        """The processes that the setup of each wider fixture started."""
        self.running: dict[str, float] = {}
        self.bound: threading.Timer | None = None
        self.stage: threading.Timer | None = None
        self.ending = False
        self.pid = os.getpid()
        # Output is not captured while plugins are configured: file descriptor 2 is the terminal.
        self.terminal = os.fdopen(os.dup(2), "w", buffering=1)
        adopt_orphans()
        signal.signal(signal.SIGTERM, self.asked_to_end)

    # A process belongs to a test, or to a fixture of a wider scope

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Record the processes that the setup of a wider fixture starts."""
        if fixturedef.scope == "function":
            return (yield)
        before = set(self.alive())
        try:
            return (yield)
        finally:
            self.own[fixturedef] = set(self.alive()) - before

    @pytest.hookimpl
    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        """Forget the processes of a fixture: any that outlives its teardown is left behind."""
        self.own.pop(fixturedef, None)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: Any) -> Iterator[None]:
        """Fail a test that left a process behind."""
        failed: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failed = error
            raise
        finally:
            left = "; ".join(self.left_behind(at_the_end=nextitem is None))
            if left and failed:
                failed.add_note(f"and it left processes behind: {left}")
        if left:
            pytest.fail(f"this test left processes behind: {left}", pytrace=False)

    def alive(self) -> list[tuple[int, str]]:
        """Return every process below this one, as (pid, start time)."""
        return [(pid, born(pid)) for pid in family(self.pid)]

    def strays(self, at_the_end: bool = False) -> list[int]:
        """Return the processes below this one that belong to no wider fixture."""
        if at_the_end:
            _kept.clear()
        kept = _kept.union(*self.own.values())
        answered: set[int] = set()
        for pid, started in kept:
            if born(pid) == started:
                answered |= {pid, *family(pid)}
        return [pid for pid, _ in self.alive() if pid not in answered]

    def left_behind(self, at_the_end: bool) -> list[str]:
        """Wait up to `LINGER_S` for strays to end, then kill them; return a description of each."""
        deadline = time.monotonic() + LINGER_S
        while (strays := self.strays(at_the_end)) and time.monotonic() < deadline:
            time.sleep(0.02)
        told = [f"{pid} {command(pid)!r}" for pid in strays]
        if strays:
            kill(strays)
        self.collect()
        return told

    def collect(self) -> None:
        """Reap orphans that ended: this process is their parent now, in place of init."""
        kept = {pid for pid, _ in _kept.union(*self.own.values())}
        for pid in children(self.pid):
            if is_gone(pid) and pid not in kept:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    # A test and its teardown are bounded

    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> None:
        """Arm the second bound: pytest-timeout interrupts a test only once."""
        self.arm(settings.timeout + TEARDOWN_S, self.unblock, item.nodeid)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Iterator[Any]:
        """Disarm the bound when the test's teardown is over."""
        try:
            return (yield)
        finally:
            self.disarm()

    def arm(self, after_s: float, act: Any, nodeid: str) -> None:
        self.disarm()
        if self.config.getoption("usepdb", False):
            return
        self.stage = threading.Timer(after_s, act, (nodeid,))
        self.stage.daemon = True
        self.stage.start()

    def disarm(self) -> None:
        if self.stage:
            self.stage.cancel()
            self.stage = None

    def unblock(self, nodeid: str) -> None:
        """Kill the processes that the test started; if the test still does not end, end the run."""
        strays = self.strays()
        told = "; ".join(f"{pid} {command(pid)!r}" for pid in strays) or "nothing"
        self.tell(f"{nodeid} does not end. Its processes, which are killed: {told}.")
        self.arm(LAST_S, self.give_up, nodeid)
        kill(strays)

    def give_up(self, nodeid: str) -> None:
        """Print the stack of every thread, and end this process and those below it."""
        self.tell(f"{nodeid} does not end even so: this process of the run ends here.")
        faulthandler.dump_traceback(self.terminal, all_threads=True)
        self.end()

    # The run is bounded, and names the tests that it was running

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running[nodeid] = time.monotonic()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.running.pop(nodeid, None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Bound the run, in its controller."""
        run_s = float(self.config.getini("run_timeout"))
        if run_s and not _is_worker(self.config):
            self.bound = threading.Timer(run_s, self.out_of_time, (run_s,))
            self.bound.daemon = True
            self.bound.start()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Fail the run if a process below it is left."""
        yield
        if left := self.left_behind(at_the_end=True):
            self.tell(f"The run left processes behind: {'; '.join(left)}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_unconfigure(self) -> None:
        if self.bound:
            self.bound.cancel()

    def out_of_time(self, run_s: float) -> None:
        self.tell(f"The run takes longer than {run_s:.0f} s (run_timeout): it is ended.")
        os.kill(self.pid, signal.SIGTERM)
        time.sleep(LAST_S + 10)
        self.end()  # the main thread never handled the signal

    def asked_to_end(self, number: int, frame: Any) -> None:
        """On SIGTERM: name the tests that are running, and end with every descendant."""
        if os.getpid() != self.pid:  # in a fork of this process
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self.ending:  # `timeout` and make both pass the signal on
            return
        self.ending = True
        if _is_worker(self.config):  # the controller names the tests
            traceback.print_stack(frame, limit=12, file=self.terminal)
            self.end()
        now = time.monotonic()
        for nodeid, since in self.running.items():
            self.tell(f"{nodeid} has been running for {now - since:.0f} s")
        last = threading.Timer(LAST_S, self.end)
        last.daemon = True
        last.start()
        raise KeyboardInterrupt  # pytest reports the failures so far

    def end(self) -> NoReturn:
        with contextlib.suppress(Exception):
            kill(family(self.pid))
        self.terminal.flush()
        os._exit(1)

    def tell(self, line: str) -> None:
        self.terminal.write(f"\n{line}\n")


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def options(parser: pytest.Parser) -> None:
    """Add the ini option `run_timeout`."""
    parser.addini("run_timeout", "seconds that a whole run may take; 0 is no bound", default="0")


def begin(config: pytest.Config) -> None:
    """Oversee this run."""
    clean_signals()
    config.pluginmanager.register(Oversight(config), "oversight")
