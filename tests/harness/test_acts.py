"""An act is declared once: every list of acts has each act of the registry, and a script that does
not fit its declaration keeps the service from starting.
"""

import importlib.resources
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.client.parts import client, passing
from tests.proofs import reference_model

from dibs.acts import ACTS, POSTS, SCRIPTS, tables
from dibs.acts.act import Act
from dibs.acts.tasks import Entry
from dibs.api.openapi import document
from dibs.api.telemetry import FAMILIES, ROUTES
from dibs.problems import BY_CODE
from dibs.store.scripts import Common, Declaration, Script, ScriptMismatch

ROOT = Path(__file__).parent.parent.parent
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")

every_act = pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)


@every_act
def test_an_act_is_in_whatever_lists_acts(act: Act) -> None:
    path = f"/v1/{{project}}/{act.path}"
    assert document()["paths"][path][act.method.lower()]["operationId"] == act.name
    assert act.name in ROUTES
    assert act.name in next(f for f in FAMILIES if f.name == "dibs_acts_total").labels["act"]
    assert f"`{act.method} /v1/{{project}}/{act.path}" in PROTOCOL
    assert set(act.problems) <= set(BY_CODE)
    assert act.name in SCRIPTS
    assert (POSTS.get(act.path) is act) is (act.method == "POST")


@every_act
def test_the_protocols_section_of_an_act_has_its_fields_and_refusals(act: Act) -> None:
    heading = f"`{act.method} /v1/{{project}}/{act.path}`\n"
    section = PROTOCOL.split(heading)[1].split("\n## ")[0]
    fields = set(act.request.model_fields)
    named = {name for name in fields if re.search(rf"`\??{name}[`:=]", section)}
    assert named == fields
    of_entries = set(Entry.model_fields) if "tasks" in fields else set[str]()
    rows = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert of_entries <= listed <= fields | of_entries
    if act.method == "POST":
        assert {code for code in act.problems if f"`{code}`" not in section} <= {"bad-session"}


def test_the_protocols_tables_and_the_rules_for_agents_are_those_of_the_registry() -> None:
    how = "regenerate it with: python -m dibs.acts.tables"
    assert tables.written(PROTOCOL) == PROTOCOL, how
    rules = (ROOT / tables.RULES).read_text("utf-8")
    assert tables.rules(rules) == rules, how


def test_each_table_that_follows_from_the_registry_stands_in_the_protocol_once() -> None:
    marks = re.findall(r"^<!-- table: ([\w-]+) -->$", PROTOCOL, re.MULTILINE)
    posts = [act.name for act in ACTS if act.method == "POST"]
    assert sorted(marks) == sorted(["acts", "entry", "problems", *posts])


def test_an_agent_may_run_the_acts_of_sessions_unasked_and_no_other() -> None:
    of_sessions = {act.name for act in ACTS if act.caller in ("session", "reader")}
    assert {act.name for act in ACTS if act.commands} <= of_sessions
    assert set(tables.commands()) <= set(client.COMMANDS), "the client has each of them"
    assert tables.commands() == passing.VERBS, "the gate passes the commands that the rules allow"


def test_who_needs_no_session_is_said_with_its_header() -> None:
    row = next(line for line in PROTOCOL.splitlines() if line.startswith("| `Dibs-Session: "))
    others = [act.name for act in ACTS if act.caller in ("admin", "ci")]
    assert re.findall(r"`([a-z]+)`", row.split("(")[1].split(")")[0]) == others


@every_act
def test_what_an_act_may_answer_is_in_the_description(act: Act) -> None:
    described = document()["paths"][f"/v1/{{project}}/{act.path}"][act.method.lower()]["responses"]
    for code in act.problems:
        assert f"`{code}`" in described[str(BY_CODE[code].status)]["description"]


@pytest.mark.parametrize("act", [act for act in ACTS if act.method == "POST"], ids=lambda a: a.name)
def test_the_proofs_know_what_an_act_means(act: Act) -> None:
    name = {"break": "break_", "tasks": "tasks_"}.get(act.name, act.name)
    assert hasattr(reference_model.Model, name), (
        "tests/proofs/reference_model.py has a method for each act"
    )


@pytest.fixture
def lua(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder from which scripts are loaded."""
    (tmp_path / "lua").mkdir()
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    return tmp_path / "lua"


class _Two(NamedTuple):
    task: str
    note: str


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("return {ARG.task, ARG.note, ARG.fence}", "not declared: fence"),
        ("return {ARG.task}\n-- ARG.note: only in a comment", "declared arguments: note"),
        ("return {ARG.task, ARG.note, ARGV[6]}", "uses argument numbers"),
    ],
)
def test_a_script_that_does_not_fit_is_found_when_it_is_declared(
    lua: Path, text: str, says: str
) -> None:
    common = "".join(f"local _ = ARG.{name}\n" for name in Common._fields)
    (lua / "odd.lua").write_text(common + text)
    with pytest.raises(ScriptMismatch, match=says):
        Declaration("odd", _Two, rates="none")


def test_a_name_becomes_the_place_of_an_argument_and_an_include_its_text(lua: Path) -> None:
    (lua / "first.lua").write_text("local one = ARG.zeta\nlocal function f() return one end\n")
    (lua / "then.lua").write_text("--- @include first.lua\nreturn {f(), AT.alpha, ARG.alpha}\n")
    text = Script.load("then", arguments=("zeta", "alpha")).text
    assert "local one = ARGV[1]" in text
    assert "return {f(), 2, ARGV[2]}" in text
    assert "@include" not in text
