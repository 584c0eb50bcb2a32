"""A test run ends, reports what went wrong, and leaves no process: shown by running pytest."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.harness.processes import command, end, family, is_gone, run, start, until

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
CONFTEST = """
from tests.harness import oversight
oversight.TEARDOWN_S, oversight.LAST_S, oversight.LINGER_S = 0.5, 2.0, 0.3

def pytest_addoption(parser):
    oversight.options(parser)

def pytest_configure(config):
    oversight.begin(config)
"""
START = """
import subprocess, time
from pathlib import Path
import pytest
from tests.harness.oversight import keep

def daemon(*more):
    process = subprocess.Popen(["sleep", "77"], start_new_session=True, **dict(more))
    with open("pids", "a") as pids:
        pids.write(f"{process.pid}\\n")
    return process
"""


class Suite:
    """A small test suite in its own directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pytest.ini").write_text("[pytest]\ntimeout = 1\n")
        (folder / "conftest.py").write_text(CONFTEST)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        self.env |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        plugins = ["-p", "pytest_timeout", "-p", "xdist", "-p", "no:cacheprovider"]
        self.command = [sys.executable, "-m", "pytest", "-q", *plugins]

    def run(self, tests: str, *flags: str) -> "subprocess.CompletedProcess[str]":
        """Run tests that must not pass; assert that every process that they started is gone."""
        self.write(tests)
        done = run([*self.command, *flags], cwd=self.folder, env=self.env, timeout=40)
        assert done.returncode not in (0, None), done.stdout
        assert self.pids()
        assert all(map(is_gone, self.pids()))
        return done

    def write(self, tests: str) -> None:
        (self.folder / "test_sample.py").write_text(START + tests)

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.folder / "pids").read_text().split()]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def test_a_test_that_leaves_a_process_fails_by_name_and_the_process_is_ended(suite: Suite) -> None:
    done = suite.run("def test_leaves():\n    daemon()\n\ndef test_is_clean():\n    pass\n")
    assert "2 passed, 1 error" in done.stdout
    assert f"this test left processes behind: {suite.pids()[0]} 'sleep 77'" in done.stdout
    assert "ERROR test_sample.py::test_leaves" in done.stdout


def test_a_grandchild_that_lost_its_parent_is_found(suite: Suite) -> None:
    done = suite.run(
        "def test_leaves():\n"
        "    subprocess.run(['sh', '-c', 'setsid sleep 77 & echo $! >>pids'], check=True)\n"
    )
    assert f"{suite.pids()[0]} 'sleep 77'" in done.stdout


def test_a_wider_fixture_keeps_its_process_until_it_ends_itself(suite: Suite) -> None:
    tests = """
@pytest.fixture(scope="module")
def one():
    process = daemon()
    yield process
    {ending}

def test_first(one): assert one.poll() is None
def test_second(one): assert one.poll() is None
def test_again(one):
    again = daemon()
    keep(again.pid)
    one.kill(); one.wait(9)
    one.again = again
def test_last(one): assert one.again.poll() is None
"""
    done = suite.run(tests.format(ending="pass"))
    assert "4 passed, 1 error" in done.stdout
    assert "ERROR test_sample.py::test_last" in done.stdout
    suite.write(tests.format(ending="process.again.kill(); process.again.wait(9)"))
    clean = run([*suite.command], cwd=suite.folder, env=suite.env)
    assert clean.returncode == 0, clean.stdout


HANGS = """
@pytest.fixture
def opened():
    process = daemon(("stdout", subprocess.PIPE))
    yield process
    process.communicate()  # for as long as it sleeps

def test_hangs(opened):
    {body}

def test_after(): pass
"""


@pytest.mark.parametrize("body", ["time.sleep(60)", "raise ValueError", "pass"])
def test_a_teardown_that_waits_for_ever_is_ended_and_the_run_goes_on(
    suite: Suite, body: str
) -> None:
    began = time.monotonic()
    done = suite.run(HANGS.format(body=body))
    assert time.monotonic() - began < 20
    assert "test_sample.py::test_hangs" in done.stdout
    assert re.search(r"\b[12] passed", done.stdout), "the test after it ran"


def test_a_teardown_that_no_killed_process_frees_ends_the_run_with_its_stack(suite: Suite) -> None:
    tests = HANGS.format(body="raise ValueError").replace("process.communicate()", "stuck()")
    stuck = "def stuck():\n    while True:\n        time.sleep(0.1)\n"
    done = suite.run(stuck + tests)
    assert "test_hangs does not end even so" in done.stderr
    assert "in stuck" in done.stderr


@pytest.mark.parametrize(("run_s", "flags"), [(4, ()), (10, ("-n", "2"))])
def test_a_run_that_takes_too_long_names_its_tests_and_ends(
    suite: Suite, run_s: int, flags: tuple[str, ...]
) -> None:
    began = time.monotonic()
    tests = "def test_is_slow():\n    daemon()\n    time.sleep(60)\n"
    done = suite.run(tests, "-o", f"run_timeout={run_s}", "-o", "timeout=0", *flags)
    assert f"The run takes longer than {run_s} s" in done.stderr
    assert "test_sample.py::test_is_slow has been running for" in done.stderr
    assert time.monotonic() - began < 35


@pytest.mark.parametrize("flags", [(), ("-n", "2")])
def test_a_run_that_is_asked_to_end_names_its_tests_and_ends(
    suite: Suite, flags: tuple[str, ...]
) -> None:
    suite.write("def test_is_slow():\n    daemon()\n    time.sleep(60)\n")
    process = start(
        [*suite.command, "-o", "timeout=0", *flags],
        cwd=suite.folder,
        env=suite.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        until((suite.folder / "pids").exists, "the test runs")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=25)
    finally:
        end(process)
    assert process.returncode != 0
    assert "test_sample.py::test_is_slow has been running for" in err
    assert all(map(is_gone, suite.pids()))


def test_the_tests_pass_in_the_background_of_a_script_where_ctrl_c_is_ignored() -> None:
    """Two tests once failed there, and a teardown never ended."""
    tests = [
        "tests/client/test_commands.py::test_watch_shows_the_table_until_it_is_stopped",
        "tests/client/test_run.py::test_run_passes_signals_on",
    ]
    shell = "trap '' INT HUP; exec \"$@\""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    pytest_ = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests]
    done = run(["bash", "-c", shell, "bash", *pytest_], cwd=ROOT, env=env, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [pid for pid in family(os.getpid()) if "trap 'exit 42'" in command(pid)]
