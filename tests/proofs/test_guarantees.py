"""The tests named in docs/guarantees.md exist, and `make test` runs one for each promise."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from tests.conftest import CASES_MOST, not_short

ROOT = Path(__file__).parents[2]
LONG = "pytest.mark.long"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


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
        short = [test for file, test in named if test not in long_tests(file)]
        assert short or not named or "the machine" in row or "the histories" in row, row


@cache
def long_tests(file: str) -> set[str]:
    """Return the tests of a file that are marked long."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    tests = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    if any(ast.unparse(node) == f"pytestmark = {LONG}" for node in tree.body):
        return {test.name for test in tests}
    return {test.name for test in tests if LONG in map(ast.unparse, test.decorator_list)}


def test_of_many_cases_the_short_run_keeps_the_same_few_of_each_kind() -> None:
    class Item:
        def __init__(self, nodeid: str) -> None:
            self.nodeid = nodeid

        def get_closest_marker(self, _name: str) -> None:
            return None

    kinds = ("fake", "valkey", "cluster")
    items: Any = [Item(f"test_x[{kind}-{n}]") for n in range(40) for kind in kinds]
    items += [Item(f"test_y[{n}]") for n in range(CASES_MOST)]
    left_out = not_short(items)
    kept = [item.nodeid for item in items if item not in left_out]
    assert len(kept) == 2 * CASES_MOST
    assert kept == [item.nodeid for item in items if item not in not_short(items)]
    assert all(any(f"[{kind}-" in each for each in kept) for kind in kinds)
