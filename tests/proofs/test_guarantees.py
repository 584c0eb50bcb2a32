"""docs/guarantees.md names tests; they exist, and `make test` runs one for each promise."""

import re
from pathlib import Path

from tests.conftest import LONG

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_guarantees_name_exists() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    named = re.findall(r"\[(\w+/test_\w+\.py)\]\s+`(test_\w+)`", text)
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file} has no {test}"
    assert not set(re.findall(r"`(test_\w+)`", text)) - {test for _, test in named}


def test_make_test_runs_a_test_of_each_promise() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    rows = [line for line in text.split("## Not promised")[0].splitlines() if "| " in line]
    for row in rows:
        named = re.findall(r"\[(\w+/test_\w+\.py)\]\s+`(test_\w+)`", row)
        short = [each for each in named if not "::".join(each).startswith(LONG)]
        assert short or not named or "the machine" in row or "the histories" in row, row


def test_what_is_left_to_make_check_exists() -> None:
    for each in LONG:
        file, _, test = each.partition("::")
        assert (ROOT / "tests" / file).exists(), each
        assert not test or f"def {test}" in (ROOT / "tests" / file).read_text(), each
