"""Figures with targets: one row each, printed as a section of docs/performance.md."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.harness.processes import clean_signals

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure and its target."""

    what: str
    goal: str
    found: str
    is_met: bool


def section(title: str, said: str, rows: Sequence[Figure]) -> str:
    """Return the section of docs/performance.md with these rows."""
    lines = [f"## {title}", "", said, "", "| figure | target | measured |", "|---|--:|--:|"]
    lines += [f"| {row.what} | {row.goal} | {row.found} |" for row in rows]
    return "\n".join(lines) + "\n"


def say() -> Say:
    """Return a function that prints progress with the seconds since this call."""
    began = time.monotonic()

    def said(what: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {what}", file=sys.stderr, flush=True)

    return said


def main(
    module: str, doc: str | None, title: str, said: str, measure: Callable[..., list[Figure]]
) -> int:
    """Measure and print the figures; report missed targets; return the exit code."""
    clean_signals()
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc)
    parser.add_argument("--quick", action="store_true")
    rows = measure(say(), quick=parser.parse_args().quick)
    print(section(title, f"`python -m {module}`; {said}", rows))
    missed = [row.what for row in rows if not row.is_met]
    for what in missed:
        print(f"missed: {what}", file=sys.stderr)
    return 1 if missed else 0
