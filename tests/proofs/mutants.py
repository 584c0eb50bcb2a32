"""Mutation test: each mutant is put into a copy of the service or the client, and a test must fail.

`make mutants` prints which test caught which mutant, and fails if one survives. It also fails at
a mutant whose text is no longer in the code: rewrite that mutant. ARGS="--file client/" selects
the mutants of one folder.
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
    """The result of one mutant."""

    mutant: Mutant
    caught_by: str
    seconds: float


def copied(folder: str) -> Path:
    """Copy the service, the client, the skill and the action in the layout of the package. Compiled
    files are copied too; the file with the bug is compiled again.
    """
    copy = Path(folder) / "dibs"
    shutil.copytree(SERVICE, copy)
    for part in (CLIENT, SKILL, ACTION):
        shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def try_out(mutant: Mutant) -> Verdict:
    """Run the mutant's tests against a copy of the service with the bug."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dibs-mutant-") as folder:
        copy = copied(folder)
        file = copy / mutant.file
        text = file.read_text()
        if text.count(mutant.old) != 1:
            return Verdict(mutant, f"STALE: its text occurs {text.count(mutant.old)} times", 0)
        file.write_text(text.replace(mutant.old, mutant.new))
        caught_by = first_failure(mutant, folder)
    return Verdict(mutant, caught_by, time.monotonic() - started)


def first_failure(mutant: Mutant, folder: str) -> str:
    """Return the first test that fails with the copy in `folder`, or ''."""
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
    """Return the first test that fails without any bug: it would seem to catch every mutant."""
    every = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
    sound = Mutant("none", "", "", "", "", tuple(every))
    with tempfile.TemporaryDirectory() as folder:
        copied(folder)
        return first_failure(sound, folder)


def the_copy_is_what_runs() -> bool:
    """Return whether tests import the copy; otherwise no mutant could be caught."""
    with tempfile.TemporaryDirectory() as folder:
        copied(folder)
        ran = processes.run(
            [sys.executable, "-c", "import dibs; print(dibs.__file__)"],
            env=os.environ | {"PYTHONPATH": folder},
            check=True,
        )
        return ran.stdout.startswith(str(Path(folder).resolve()))


def main() -> int:
    """Return 0 if every mutant was caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="mutants to run at once (2)")
    parser.add_argument("--only", default="", help="only mutants with this in their name")
    parser.add_argument(
        "--file", default="", help="only mutants of this file or folder, such as client/"
    )
    wanted = parser.parse_args()
    processes.clean_signals()
    processes.adopt_orphans()
    assert the_copy_is_what_runs(), "the tests import the installed dibs, not the copy"
    compileall.compile_dir(SERVICE, quiet=2)
    named = [mutant for mutant in MUTANTS if wanted.only in mutant.name]
    mutants = [mutant for mutant in named if mutant.file.startswith(wanted.file)]
    if failing := tests_that_fail_anyway(mutants):
        print(f"{failing} fails without a bug: the run would prove nothing")
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
