"""The formats that import reads: checklists and tracker exports. The samples are invented."""

import json
from typing import Any

import pytest
from tests.client.parts import checklists, client, formats, importing

Found = dict[str, tuple[str, list[str]]]


def read(text: str, path: str = "-", **flags: Any) -> "list[formats.Item]":
    """Return the items that import reads from a text at `path`, with their full names."""
    args, setup = client.parse(["import", path]), client.Setup()
    vars(args).update(flags)
    setup.root = "/repo"
    faults = formats.Faults()
    text = text.replace("\r\n", "\n")
    kind, given = importing.detected(args, setup, path, text)
    if kind in formats.READERS:
        items = list(formats.READERS[kind](given, faults))
    else:
        place = importing.place_of(args, setup, path)
        items = checklists.read(text, place, kind, args.order, faults)
    assert faults == []
    plan = importing.Plan(items, {}, args)
    assert plan.faults == []
    return list(plan.todo)


def found(text: str, path: str = "-", **flags: Any) -> Found:
    """Return {name: (title, needs)} of the open items."""
    return {i.name: (i.fields["title"], i.needs) for i in read(text, path, **flags)}


def one(text: str, path: str = "-", **flags: Any) -> "formats.Item":
    """Return the only open item."""
    [item] = read(text, path, **flags)
    return item


SPECKIT = """# Tasks: clock
## Phase 1: Setup
- [X] T001 Create the project
- [ ] T002 Configure lint
- [ ] T003 [P] Configure CI in .ci/run
- [ ] T004 [P] Add an editor config
- [ ] T005 Tag the release
## Phase 2: User Story 1
- [ ] T010 [P] [US1] Parse offsets in src/clock.py (depends on T003)
- [ ] **T011** [P] [US1] Document them
"""


def test_spec_kit_phases_are_barriers_and_p_runs_beside() -> None:
    path = "/repo/specs/001-clock/tasks.md"
    assert found(SPECKIT, path) == {
        "001-clock/T002": ("Configure lint", []),
        "001-clock/T003": ("Configure CI in .ci/run", ["001-clock/T002"]),
        "001-clock/T004": ("Add an editor config", ["001-clock/T002"]),
        "001-clock/T005": ("Tag the release", ["001-clock/T003", "001-clock/T004"]),
        "001-clock/T010": (
            "Parse offsets in src/clock.py (depends on T003)",
            ["001-clock/T003", "001-clock/T005"],
        ),
        "001-clock/T011": ("Document them", ["001-clock/T005"]),
    }
    items = {item.name: item for item in read(SPECKIT, path)}
    assert items["001-clock/T010"].fields["tags"] == ["US1"]
    assert items["001-clock/T010"].source == "speckit:001-clock"
    assert items["001-clock/T010"].fields["body"] == "Section: Phase 2: User Story 1"


def test_a_phase_of_many_holds_the_next_one_back_with_no_more_needs_than_a_task_has() -> None:
    many = "".join(f"- [ ] T{number:03} [P] Do it\n" for number in range(1, 101))
    items = read(f"## A\n{many}## B\n- [ ] T200 Then\n", "/repo/s/tasks.md")
    assert max(len(item.needs) for item in items) <= 32
    needs = {item.name: item.needs for item in items}
    waited, left = set[str](), [*needs["s/T200"]]
    while left:
        name = left.pop()
        if name not in waited:
            waited.add(name)
            left += needs[name]
    assert waited == {f"s/T{number:03}" for number in range(1, 101)}


OPENSPEC = """## 1. Database
- [x] 1.1 Create the table
- [ ] 1.2 Write the migration
## 2. Interface
- [ ] 2.1 Add the endpoint
- [ ] 2.2 Add the page
"""


@pytest.mark.parametrize(
    ("order", "needs"),
    [
        (None, [[], ["2fa/1.2"], ["2fa/2.1"]]),
        ("strict", [[], ["2fa/1.2"], ["2fa/2.1"]]),
        ("sections", [[], ["2fa/1.2"], ["2fa/1.2"]]),
        ("none", [[], [], []]),
    ],
)
def test_openspec_goes_in_order_unless_told_otherwise(
    order: str | None, needs: list[list[str]]
) -> None:
    items = read(OPENSPEC, "/repo/openspec/changes/2fa/tasks.md", order=order)
    assert [item.name for item in items] == ["2fa/1.2", "2fa/2.1", "2fa/2.2"]
    assert [item.needs for item in items] == needs
    assert {item.source for item in items} == {"openspec:2fa"}


KIRO = """# Implementation Plan
- [ ] 1. Set up the clock
  - [x] 1.1 Create the module
    - with a docstring
  - [ ] 1.2 Parse offsets
    - Accept `+02:00`
    - _Requirements: 1.1, 2.3_
- [x] 2. Already done
  - [ ] 2.1 In every part
- [-]* 3. Write tests (optional)
"""


def test_kiro_headings_are_no_tasks_and_details_belong_to_theirs() -> None:
    items = read(KIRO, "/repo/.kiro/specs/clock/tasks.md")
    assert [(i.name, i.fields["title"], i.needs) for i in items] == [
        ("clock/1.2", "Parse offsets", []),
        ("clock/3", "Write tests (optional)", ["clock/1.2"]),
    ]
    body = items[0].fields["body"]
    assert "- Accept `+02:00`\n- _Requirements: 1.1, 2.3_" in body
    assert "Part of: Set up the clock" in body


def test_a_plain_checklist_goes_by_its_ids_else_by_its_words() -> None:
    text = """# To do
- [ ] GW-41: Parse offsets
- [ ] T-12 Parse dates (after: GW-41)
* [ ] **#12** Fix the clock
+ [ ] Write `docs` \u200b for it
1. [ ] Numbered too
- [ ] 2024 was a year
- [not a box] no task
- [ ]
"""
    assert found(text, "/repo/docs/todo.md") == {
        "GW-41": ("Parse offsets", []),
        "T-12": ("Parse dates (after: GW-41)", ["GW-41"]),
        "#12": ("Fix the clock", []),
        "Write `docs` for it": ("Write `docs` for it", []),
        "Numbered too": ("Numbered too", []),
        "todo/2024": ("was a year", []),
    }
    assert {i.source for i in read(text, "/repo/docs/todo.md")} == {"markdown:docs/todo.md"}


def test_a_checklist_from_a_pipe_has_the_name_that_it_is_given() -> None:
    assert list(found("- [ ] 1.1 one\n", source="clock")) == ["clock/1.1"]
    with pytest.raises(client.Failure, match="--source NAME"):
        found("- [ ] 1.1 one\n")


def test_a_file_with_a_head_is_one_task() -> None:
    text = """---
# ours
id: clock-offsets
title: "Parse offsets"
status: todo
priority: high
depends_on: [clock-base, 'clock-lint']
tags:
  - ui
  - urgent
---
# Parse offsets

All of them.
"""
    item = one(text, "/repo/tasks/offsets.md")
    assert (item.name, item.needs) == ("clock-offsets", ["clock-base", "clock-lint"])
    assert item.fields == {
        "title": "Parse offsets", "body": "# Parse offsets\n\nAll of them.", "priority": 1,
        "tags": ["ui", "urgent"],
    }  # fmt: skip
    assert read(text.replace("todo", "done"), "/repo/tasks/offsets.md") == []


def test_issues_of_gh_have_number_text_labels_and_what_blocks_them() -> None:
    issue = {
        "number": 41, "title": "Parse  offsets \u2699\ufe0f", "state": "OPEN",
        "body": "Now.\r\n\r\nBlocked by: #12, acme/app#3 and https://github.com/acme/web/issues/13",
        "labels": [{"name": "agent"}, {"name": "priority: high"}], "surprise": {"a": [1]},
        "url": "https://github.com/acme/web/issues/41",
        "blockedBy": [{"number": 14, "state": "OPEN"}, {"number": 15, "state": "CLOSED"}],
    }  # fmt: skip
    item = one(json.dumps([issue]))
    assert (item.name, item.source) == ("#41", "github:acme/web")
    assert item.needs == ["#14", "#12", "acme/app#3", "#13"]
    assert item.fields["title"] == "Parse offsets \u2699"
    assert item.fields["body"].startswith("Now.\n\nBlocked by")
    assert (item.fields["priority"], item.fields["tags"]) == (1, ["agent", "priority: high"])


def test_issues_of_rest_are_no_pull_requests_and_what_is_closed_is_not_to_do() -> None:
    issues = [
        {"number": 1, "title": "A", "state": "open", "body": None, "labels": ["P0"],
         "url": "https://api.github.com/repos/acme/web/issues/1",
         "html_url": "https://github.com/acme/web/issues/1",
         "issue_dependencies_summary": {"blocked_by": 2}},
        {"number": 2, "title": "B", "state": "open", "pull_request": {"url": "x"}},
        {"number": 3, "title": "C", "state": "closed", "body": ""},
    ]  # fmt: skip
    item = one(json.dumps(issues))
    assert (item.name, item.source, item.fields["priority"]) == ("#1", "github:acme/web", 0)
    assert item.notes == ["blocked"]
    assert item.fields["url"] == "https://github.com/acme/web/issues/1"


def test_what_an_export_does_not_say_stays_as_it_is() -> None:
    item = one('{"number": 1, "title": "A"}')
    assert item.fields == {"title": "A"}
    assert item.source == "github"


BEADS = [
    {"_type": "memory", "id": "gw-0", "title": "no task"},
    {"id": "gw-e1", "title": "The clock", "issue_type": "epic", "status": "open"},
    {"id": "gw-7f", "title": "Parse offsets", "status": "in_progress", "priority": 0,
     "description": "In clock.py", "acceptance_criteria": "It parses +02:00", "labels": ["ui"],
     "external_ref": "https://example.org/7",
     "dependencies": [{"issue_id": "gw-7f", "depends_on_id": "gw-2c", "type": "blocks"},
                      {"issue_id": "gw-7f", "depends_on_id": "gw-e1", "type": "parent-child"},
                      {"issue_id": "gw-7f", "depends_on_id": "gw-9z", "type": "related"},
                      {"issue_id": "gw-7f", "depends_on_id": "gw-5d", "type": "waits-for"}]},
    {"id": "gw-2c", "title": "Base", "status": "open"},
    {"id": "gw-5d", "title": "Done", "status": "closed"},
    {"id": "gw-6e", "title": "Gone", "status": "tombstone"},
    {"id": "gw-8a", "title": "Not now", "status": "deferred"},
    {"id": "gw-9b", "title": "After the clock",
     "dependencies": [{"depends_on_id": "gw-e1", "type": "blocks"}]},
]  # fmt: skip


@pytest.mark.parametrize("form", ["lines", "export"])
def test_beads_are_read_with_their_hard_ties_alone(form: str) -> None:
    lines = "\n".join(map(json.dumps, BEADS)) + "\n"
    text = lines if form == "lines" else json.dumps({"schema_version": 1, "data": BEADS})
    items = {item.name: item for item in read(text)}
    assert {name: item.needs for name, item in items.items()} == {
        "gw-7f": ["gw-2c"], "gw-2c": [], "gw-9b": ["gw-7f"],
    }  # fmt: skip
    item = items["gw-7f"]
    assert item.source == "beads:gw"
    assert item.fields["priority"] == 0
    assert item.fields["url"] == "https://example.org/7"
    assert "In clock.py\n\nDone when:\nIt parses +02:00" in item.fields["body"]
    assert "Part of: The clock" in item.fields["body"]


def test_task_master_has_tags_subtasks_and_relative_dependencies() -> None:
    tasks = [
        {"id": 1, "title": "Base", "status": "done", "dependencies": [], "subtasks": []},
        {"id": 2, "title": "Clock", "status": "pending", "priority": "critical",
         "dependencies": [1], "subtasks": [
            {"id": 1, "title": "Lint", "status": "pending", "dependencies": []},
            {"id": 2, "title": "Parse", "status": "pending", "dependencies": [1, "4"]}]},
        {"id": 3, "title": "Docs", "status": "pending", "dependencies": [2, "4"],
         "details": "All.", "testStrategy": "Read it."},
        {"id": "4", "title": "Later", "status": "deferred"},
    ]  # fmt: skip
    text = json.dumps({"master": {"tasks": tasks, "metadata": {}}, "beta": {"tasks": tasks[:0]}})
    assert found(text) == {
        "master/2.1": ("Lint", []),
        "master/2.2": ("Parse", ["master/2.1", "master/2.4"]),
        "master/3": ("Docs", ["master/2.1", "master/2.2", "master/4"]),
    }
    docs = next(item for item in read(text) if item.name == "master/3")
    assert docs.fields["body"] == "All.\n\nTest strategy:\nRead it."
    assert list(found(json.dumps({"tasks": tasks[2:3]}))) == ["master/3"]


JIRA = (
    "\ufeffIssue key;Summary;Status;Priority;Issue Type;Parent key;Description;Labels;Labels;"
    "Inward issue link (Blocks);Inward issue link (Blocks);Outward issue link (Blocks);Custom\r\n"
    'GW-41;"Parse; ""all"" offsets";To Do;High;Task;GW-1;"line one\r\nline two";ui;core;GW-12;'
    "GW-19;;x\r\n"
    "GW-12;Base;Done;Low;Task;;;;;;;;\r\n"
    "GW-19;Lint;In Progress;;Task;;;;;;;GW-50;\r\n"
    "GW-1;The clock;To Do;;Epic;;;;;;;;\r\n"
    "\r\n"
    "GW-50;Docs;To Do;Lowest;Task;;;;;GW-99;;;\r\n"
)


@pytest.mark.parametrize("delimiter", [";", ",", "\t"])
def test_jira_csv_has_repeated_columns_and_links_in_both_ways(delimiter: str) -> None:
    text = JIRA.replace("Parse; ", "Parse# ").replace(";", delimiter).replace("#", delimiter)
    items = {item.name: item for item in read(text.lstrip("\ufeff"))}
    assert {name: item.needs for name, item in items.items()} == {
        "GW-41": ["GW-19"], "GW-19": [], "GW-50": ["GW-99", "GW-19"],
    }  # fmt: skip
    item = items["GW-41"]
    assert item.fields["title"] == f'Parse{delimiter} "all" offsets'.replace("\t", " ").replace(
        "  ", " "
    )
    assert item.fields["body"] == "line one\nline two\n\nPart of: The clock"
    assert (item.fields["priority"], item.fields["tags"]) == (1, ["ui", "core"])
    assert item.source == "jira:GW"


def test_linear_csv() -> None:
    text = (
        '"ID","Title","Description","Status","Priority","Labels","Completed","UUID","Blocked by"\n'
        '"GW-41","Parse offsets","","Todo","Urgent","ui, core","","0-1","GW-12, GW-13"\n'
        '"GW-12","Base","","Done","No priority","","2026-11-01","0-2",""\n'
        '"GW-13","Lint","","Canceled","","","","0-3",""\n'
        '"GW-14","Docs","","Backlog","No priority","","","0-4","GW-41"\n'
    )
    assert found(text) == {"GW-41": ("Parse offsets", []), "GW-14": ("Docs", ["GW-41"])}
    item = read(text)[0]
    assert (item.fields["priority"], item.fields["tags"]) == (0, ["ui", "core"])
    assert item.source == "linear:GW"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("Issue key,Summary\nGW-1,one\nGW-2,two,three\n", "line 3: it has 3 fields"),
        ('Issue key,Summary\nGW-1,"one\n\nGW-2,two\n', "line 2: this is not CSV"),
        ('Issue key,Summary\nGW-1,"o"ne"\n', "line 2: this is not CSV"),
    ],
)
def test_a_damaged_table_is_refused_by_its_line(text: str, where: str) -> None:
    with pytest.raises(formats.Damaged, match=where):
        read(text)


def test_a_row_without_its_name_is_named() -> None:
    faults = formats.Faults()
    kind, rows = formats.table("Issue key,Summary\nGW-1,one\n,two\nGW-3,\n")
    assert kind == "jira"
    assert len(list(formats.READERS[kind](rows, faults))) == 1
    assert faults == ["line 3, Issue key: it is missing", "line 4 (GW-3), Summary: it is missing"]


def test_what_is_too_long_is_cut_and_told() -> None:
    item = one(json.dumps({"number": 1, "title": "t" * 256, "body": "b" * 9_000}))
    assert (len(item.fields["title"]), len(item.fields["body"])) == (200, 8_192)
    assert item.fields["body"].endswith("(cut here: it was longer)")
    assert item.notes == ["cut"]


def test_a_format_that_is_named_has_to_be_the_one() -> None:
    with pytest.raises(formats.Damaged, match="not in the format of beads"):
        read('[{"number": 1, "title": "A"}]', format="beads")
    assert list(found("- [ ] 1.1 one\n", "/repo/plan/tasks.md", format="kiro")) == ["plan/1.1"]
