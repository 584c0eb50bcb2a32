"""A pytest plugin: no test leaves a process behind, and no run stands still.

It is registered by tests/conftest.py. What it adds to pytest:

- Children get default signals, whatever state the run itself was started in.
- After each test and its fixtures' teardown, every process that is still there and that belongs to
  no fixture of a wider scope fails the test with its command line, and is killed. A test that
  starts again what a wider fixture owns says so with `keep`.
- A teardown is bounded too. pytest-timeout stops a test once; where that did not help within
  `TEARDOWN_S`, the processes that the test started are killed (most waits wait for one of them),
  and `LAST_S` later the run ends, with the stack of every thread.
- The whole run is bounded (`run_timeout` in pyproject.toml), and at that time, or when it is asked
  to end by SIGTERM, it names the tests that were running and ends every process below it.
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
"""What a test's fixtures have, after its own timeout, to take down what they made."""
LAST_S = 20.0
"""What a run has to end by itself, once it was told to."""
LINGER_S = 5.0
"""A process that was told to end may take this long to be gone."""

_kept: set[tuple[int, str]] = set()


def keep(pid: int) -> None:
    """Say that a process which a test started belongs to a fixture that outlives the test."""
    _kept.add((pid, born(pid)))


class Oversight:
    """The plugin, in a process that runs tests or in the one that hands them out."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.own: dict[Any, set[tuple[int, str]]] = {}
        """fixture of a wider scope: the processes that its setup started"""
        self.running: dict[str, float] = {}
        self.bound: threading.Timer | None = None
        self.stage: threading.Timer | None = None
        self.ending = False
        self.pid = os.getpid()
        # Nothing captures the streams while plugins are configured: this is the terminal.
        self.terminal = os.fdopen(os.dup(2), "w", buffering=1)
        adopt_orphans()
        signal.signal(signal.SIGTERM, self.asked_to_end)

    # A process belongs to a test, or to a fixture of a wider scope

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Note what the setup of a wider fixture starts."""
        if fixturedef.scope == "function":
            return (yield)
        before = set(self.alive())
        try:
            return (yield)
        finally:
            self.own[fixturedef] = set(self.alive()) - before

    @pytest.hookimpl
    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        """What a fixture started has ended with it, or is left behind."""
        self.own.pop(fixturedef, None)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: Any) -> Iterator[None]:
        """Fail the test that left a process behind."""
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
        """Every process below this one."""
        return [(pid, born(pid)) for pid in family(self.pid)]

    def strays(self, at_the_end: bool = False) -> list[int]:
        """The processes below this one that no wider fixture answers for."""
        if at_the_end:
            _kept.clear()
        kept = _kept.union(*self.own.values())
        answered: set[int] = set()
        for pid, started in kept:
            if born(pid) == started:
                answered |= {pid, *family(pid)}
        return [pid for pid, _ in self.alive() if pid not in answered]

    def left_behind(self, at_the_end: bool) -> list[str]:
        """Kill what is left, once it had the time to end; return what it was."""
        deadline = time.monotonic() + LINGER_S
        while (strays := self.strays(at_the_end)) and time.monotonic() < deadline:
            time.sleep(0.02)
        told = [f"{pid} {command(pid)!r}" for pid in strays]
        if strays:
            kill(strays)
        self.collect()
        return told

    def collect(self) -> None:
        """Collect orphans that ended: init would, were we not their parent now."""
        kept = {pid for pid, _ in _kept.union(*self.own.values())}
        for pid in children(self.pid):
            if is_gone(pid) and pid not in kept:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    # A test and its teardown are bounded

    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> None:
        """pytest-timeout stops a test once; this is what comes after it."""
        self.arm(settings.timeout + TEARDOWN_S, self.unblock, item.nodeid)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Iterator[Any]:
        """The bound ends with the test's teardown."""
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
        """Kill what the test started; where that ends no wait, end the run."""
        strays = self.strays()
        told = "; ".join(f"{pid} {command(pid)!r}" for pid in strays) or "nothing"
        self.tell(f"{nodeid} does not end. Its processes, which are killed: {told}.")
        self.arm(LAST_S, self.give_up, nodeid)
        kill(strays)

    def give_up(self, nodeid: str) -> None:
        """Show where every thread stands, and end this process and those below it."""
        self.tell(f"{nodeid} does not end even so: this process of the run ends here.")
        faulthandler.dump_traceback(self.terminal, all_threads=True)
        self.end()

    # The run is bounded, and says what it was at

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running[nodeid] = time.monotonic()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.running.pop(nodeid, None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Bound the run, where it is steered."""
        run_s = float(self.config.getini("run_timeout"))
        if run_s and not _is_worker(self.config):
            self.bound = threading.Timer(run_s, self.out_of_time, (run_s,))
            self.bound.daemon = True
            self.bound.start()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Whatever is below the run now was left behind."""
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
        self.end()  # the main thread never got to the signal

    def asked_to_end(self, number: int, frame: Any) -> None:
        """On SIGTERM: name the tests that are running, and end with all that was started."""
        if os.getpid() != self.pid:  # a fork of this process
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self.ending:  # `timeout` and make both pass the signal on
            return
        self.ending = True
        if _is_worker(self.config):  # the one that hands out the tests names them
            traceback.print_stack(frame, limit=12, file=self.terminal)
            self.end()
        now = time.monotonic()
        for nodeid, since in self.running.items():
            self.tell(f"{nodeid} has been running for {now - since:.0f} s")
        last = threading.Timer(LAST_S, self.end)
        last.daemon = True
        last.start()
        raise KeyboardInterrupt  # pytest tells what failed so far

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
    """Add what pyproject.toml says to it."""
    parser.addini("run_timeout", "seconds that a whole run may take; 0 is no bound", default="0")


def begin(config: pytest.Config) -> None:
    """Oversee this run."""
    clean_signals()
    config.pluginmanager.register(Oversight(config), "oversight")
