"""Bugs on purpose: each is put into a copy of the service or the client, and a test must notice.

`make mutants` prints which test noticed which; one that nobody notices fails it. A mutant whose
text is no longer in the code fails it too: it has to be written anew. ARGS="--file client/" takes
those of one folder.
"""

import argparse
import compileall
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.harness import processes
from tests.proofs.mutations import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "service" / "dibs"
CLIENT, SKILL, ACTION = ROOT / "client", ROOT / "skill", ROOT / "action"
MOST_S = 240


@dataclass(frozen=True)
class Verdict:
    """What came of one mutant."""

    mutant: Mutant
    caught_by: str
    seconds: float


def copied(folder: str) -> Path:
    """The service, the client and the skill, as the package has them: what is served is there. And
    the action. What of the service is compiled stays so, but for the file that gets the bug."""
    copy = Path(folder) / "dibs"
    shutil.copytree(SERVICE, copy)
    for part in (CLIENT, SKILL, ACTION):
        shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def try_out(mutant: Mutant) -> Verdict:
    """Run the mutant's tests against a copy of the service that has the bug."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dibs-mutant-") as folder:
        copy = copied(folder)
        file = copy / mutant.file
        text = file.read_text()
        if text.count(mutant.old) != 1:
            return Verdict(mutant, f"STALE: its text is there {text.count(mutant.old)} times", 0)
        file.write_text(text.replace(mutant.old, mutant.new))
        caught_by = first_failure(mutant, folder)
    return Verdict(mutant, caught_by, time.monotonic() - started)


def first_failure(mutant: Mutant, folder: str) -> str:
    """The first test that fails with the copy in `folder`, or ''."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    env = os.environ | {"PYTHONPATH": folder, "DIBS_PROOF_SHRINK": "0"}
    if mutant.file.startswith("client/"):
        env |= {"DIBS_TEST_CLIENT": str(Path(folder) / "dibs/client/dibs.py")}
    if mutant.file.startswith("action/"):
        env |= {"DIBS_TEST_ACTION": str(Path(folder) / "dibs" / mutant.file)}
    try:
        ran = processes.run(
            [*command, *mutant.tests],
            cwd=ROOT,
            env=env,
            timeout=MOST_S,
        )
    except subprocess.TimeoutExpired:
        return f"TIMEOUT: no answer in {MOST_S} s"
    said = ran.stdout + ran.stderr
    assert ran.returncode in (0, 1), f"{mutant.name}: the tests did not run:\n{said[-3000:]}"
    found = re.search(r"^(?:FAILED|ERROR) \S*?(test_\w+\.py::[^\s\[]+)", said, re.MULTILINE)
    return found[1] if found else ""


def tests_that_fail_anyway(mutants: list[Mutant]) -> str:
    """What fails without any bug: it would catch every mutant."""
    every = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
    sound = Mutant("none", "", "", "", "", tuple(every))
    with tempfile.TemporaryDirectory() as folder:
        copied(folder)
        return first_failure(sound, folder)


def the_copy_is_what_runs() -> bool:
    """A run against the wrong code would catch nothing."""
    with tempfile.TemporaryDirectory() as folder:
        copied(folder)
        ran = processes.run(
            [sys.executable, "-c", "import dibs; print(dibs.__file__)"],
            env=os.environ | {"PYTHONPATH": folder},
            check=True,
        )
        return ran.stdout.startswith(str(Path(folder).resolve()))


def main() -> int:
    """Return 0 when every mutant was caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (2)")
    parser.add_argument("--only", default="", help="those with this in their name")
    parser.add_argument("--file", default="", help="those in this file or folder, as client/")
    wanted = parser.parse_args()
    processes.clean_signals()
    processes.adopt_orphans()
    assert the_copy_is_what_runs(), "PYTHONPATH does not come before the installed dibs"
    compileall.compile_dir(SERVICE, quiet=2)
    named = [mutant for mutant in MUTANTS if wanted.only in mutant.name]
    mutants = [mutant for mutant in named if mutant.file.startswith(wanted.file)]
    if failing := tests_that_fail_anyway(mutants):
        print(f"{failing} fails without a bug, so nothing can be said")
        return 1
    verdicts, started = [], time.monotonic()
    width = max(len(mutant.name) for mutant in mutants)
    with ThreadPoolExecutor(wanted.jobs) as runners:
        for verdict in runners.map(try_out, mutants):
            verdicts.append(verdict)
            mutant, caught_by = verdict.mutant, verdict.caught_by or "NOBODY"
            line = (
                f"{mutant.name:{width}}  {mutant.breaks:44}  {verdict.seconds:4.0f} s  {caught_by}"
            )
            print(line, flush=True)
    survivors = [v for v in verdicts if not v.caught_by.startswith("test_")]
    took = time.monotonic() - started
    print(f"{len(mutants)} mutants, {len(mutants) - len(survivors)} caught, in {took:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
