"""Readability rules for the Lua scripts: one function changes the state of a task, and no named
function is defined inside another or in a branch.
"""

import re
from pathlib import Path

SCRIPTS = sorted((Path(__file__).parents[2] / "service/dibs/store/lua").glob("*.lua"))


def found(pattern: str) -> list[str]:
    """Return the matches of the pattern in the scripts, as "file: match"."""
    there = re.compile(pattern, re.MULTILINE)
    return [
        f"{file.name}: {hit[0]}" for file in SCRIPTS for hit in there.finditer(file.read_text())
    ]


def test_one_function_alone_writes_the_state_of_a_record() -> None:
    assert found(r"\b(rec|fresh|record)\.state =[^=].*") == ["tenure.lua: rec.state = to"]
    assert found(r"'[ZS]ADD', (LIVE|HELD|PREFIX \.\. ':(lapsed|done|parked)).*") == [
        "sweep.lua: 'ZADD', LIVE, text(rec.due_at), task)  -- a stall moved the deadline",
        "tenure.lua: 'SADD', HELD .. rec.owner, task)",
    ]


ADDED = {"due_at", "gone", "damaged", "now", "listing", "body", "queue", "waiting", "position"}
"""Fields that only a loaded record or its JSON view has; none is stored."""


def test_each_field_of_a_record_is_explained_above_what_reads_it() -> None:
    text = next(file for file in SCRIPTS if file.name == "record.lua").read_text()
    _, _, below = text.partition("-- A task's record is one JSON text")
    words = set(re.findall(r"\w+", below.partition("local function load(")[0]))
    used = {hit.rpartition(".")[2] for hit in found(r"\b(?:rec|fresh|anew)\.[a-z_]+\b")}
    claim = next(file for file in SCRIPTS if file.name == "claim.lua").read_text()
    used |= set(re.findall(r"(\w+) = ", claim.split("local fresh = {")[1].split("\n  }")[0]))
    assert len(used) > 40
    assert used - words - ADDED == {"kept_back"}


def test_no_named_function_is_made_inside_another_or_in_a_branch() -> None:
    assert found(r"^[ \t]+local function .*") == []
