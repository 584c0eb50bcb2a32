"""Five agents, each through its own hooks: input, output, and that all calls are one session.

agents.json has a payload for each cell, in the documented shapes; docs/agents.md has the table.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.client.conftest import CLIENT, Make, Sandbox
from tests.client.test_hooks import state_of
from tests.client.test_install import fresh, init, installed
from tests.harness import processes

__all__ = ["fresh"]
CELLS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("agents.json").read_text())
AGENTS = list(CELLS)
COLUMNS = list(CELLS["claude"])
D = "sh .claude/skills/dibs/dibs"


class AgentAtWork:
    """One agent in a repository that has dibs; its shells get no id of its session."""

    def __init__(self, ann: Sandbox, name: str) -> None:
        self.ann, self.name = ann, name
        if name == "claude":  # its hooks and its shells get the same variable
            ann.env["CLAUDE_CODE_SESSION_ID"] = "6448962a"

    def hears(self, event: str, payload: dict[str, Any], *more: str) -> Any:
        """Run a hook and return its output, parsed where it is JSON; None if it is empty."""
        text = json.dumps(payload).replace("/home/user/shop", str(self.ann.repo))
        named = [] if self.name == "claude" else [self.name]
        named += [event] if self.name == "copilot" else []
        answer = self.ann.dibs("hook", *(more or named), stdin=text).said(0)
        assert answer.stderr == ""
        if answer.stdout.startswith("{"):
            return answer.json
        return answer.stdout or None

    def at(self, column: str) -> list[Any]:
        """Return the outputs for each event of a cell; skip if the platform has no such event."""
        cell = CELLS[self.name][column]
        if isinstance(cell, str):
            pytest.skip(f"the platform does not offer it: {cell}")
        return [self.hears(event, payload) for event, payload in cell]

    def runs(self, command: str) -> str:
        """Run a shell command as the agent's hook rewrites it; return its output."""
        event, payload = CELLS[self.name]["tool"][1]
        text = json.loads(json.dumps(payload).replace("COMMAND", command))
        said = json.dumps(self.hears(event, text))
        found = re.search(r'"command": ("(?:[^"\\]|\\.)*")', said)
        line = json.loads(found[1]) if found else command
        done = processes.run(["sh", "-c", line], cwd=self.ann.repo, env=self.ann.env)
        return done.stdout + done.stderr


@pytest.fixture(params=AGENTS)
def agent(fresh: Sandbox, request: pytest.FixtureRequest) -> AgentAtWork:
    """Return an agent in a repository where edits need a claim."""
    init(fresh, "--agent", request.param)
    installed(fresh)
    del fresh.env["DIBS_LABEL"]
    fresh.env["DIBS_GATE"] = "block"
    return AgentAtWork(fresh, request.param)


def beaten(agent: AgentAtWork, column: str) -> None:
    """Assert that a cell's events resume a parked claim."""
    assert "held by you" in agent.runs(f"{D} claim T-1")
    assert "parked by you" in agent.runs(f"{D} park T-1")
    agent.ann.stamp_is_old()
    agent.at(column)
    assert state_of(agent.ann) == "held"


def test_the_start_tells_what_is_held_in_the_agents_own_form(agent: AgentAtWork) -> None:
    (said,) = agent.at("start")
    text = json.dumps(said)
    assert "this session holds no task" in text
    place = {
        "claude": lambda: said,
        "codex": lambda: said["hookSpecificOutput"]["additionalContext"],
        "cursor": lambda: said["additional_context"],
        "gemini": lambda: said["hookSpecificOutput"]["additionalContext"],
        "copilot": lambda: said["additionalContext"],
    }[agent.name]()
    assert place.startswith("dibs: this session holds no task")
    assert len(place) / 4 <= 100


@pytest.mark.long
def test_a_prompt_beats(agent: AgentAtWork) -> None:
    beaten(agent, "prompt")


@pytest.mark.long
def test_an_edit_without_a_claim_is_denied_in_the_agents_own_form(agent: AgentAtWork) -> None:
    event, payload = CELLS[agent.name]["tool"][0]
    said = agent.hears(event, payload)
    word = {
        "claude": lambda: said["hookSpecificOutput"]["permissionDecision"],
        "codex": lambda: said["hookSpecificOutput"]["permissionDecision"],
        "cursor": lambda: said["permission"],
        "gemini": lambda: said["decision"],
        "copilot": lambda: said["permissionDecision"],
    }[agent.name]()
    assert word == "deny"
    assert "This session holds no task" in json.dumps(said)
    assert "held by you" in agent.runs(f"{D} claim T-1")
    assert agent.hears(event, payload) is None
    assert "T-1: done" in agent.runs("dibs done T-1")


@pytest.mark.long
def test_a_tool_beats(agent: AgentAtWork) -> None:
    event, payload = CELLS[agent.name]["tool"][2]
    assert "held by you" in agent.runs(f"{D} claim T-1")
    assert "parked by you" in agent.runs(f"{D} park T-1")
    agent.ann.stamp_is_old()
    agent.hears(event, payload)
    assert state_of(agent.ann) == "held"


def test_the_end_of_a_turn_parks(agent: AgentAtWork) -> None:
    agent.runs(f"{D} claim T-1")
    agent.at("stop")
    assert state_of(agent.ann) == "parked"


def test_the_end_of_a_local_session_releases(agent: AgentAtWork) -> None:
    agent.runs(f"{D} claim T-1")
    agent.at("end")
    assert state_of(agent.ann) == "free"


def test_the_events_of_a_sub_agent_end_nothing_of_its_parents(agent: AgentAtWork) -> None:
    agent.runs(f"{D} claim T-1")
    agent.ann.stamp_is_old()
    agent.at("sub-agent")
    assert state_of(agent.ann) == "held"


@pytest.mark.parametrize("name", AGENTS[1:])
def test_the_hook_gives_a_command_the_id_that_its_shell_may_not_know(
    fresh: Sandbox, name: str
) -> None:
    init(fresh, "--agent", name)
    installed(fresh)
    del fresh.env["DIBS_LABEL"]
    event, payload = CELLS[name]["tool"][1]
    said = AgentAtWork(fresh, name).hears(
        event, json.loads(json.dumps(payload).replace("COMMAND", D))
    )
    own = payload.get("conversation_id") or payload.get("sessionId") or payload["session_id"]
    variable = {"codex": "CODEX_THREAD_ID", "cursor": "CURSOR_CONVERSATION_ID"}.get(name, "")
    variable = (
        variable or f"{name.upper()}_" + ("AGENT_" if name == "copilot" else "") + "SESSION_ID"
    )
    assert f"{variable}={own} sh {fresh.script}" in json.dumps(said)


def test_a_resumed_session_knows_what_it_holds(agent: AgentAtWork) -> None:
    agent.runs(f"{D} claim T-1")
    (said,) = agent.at("resume")
    assert "this session holds T-1 until" in json.dumps(said)


def test_what_asks_a_person_is_denied_where_nobody_can_be_asked(agent: AgentAtWork) -> None:
    event, payload = CELLS[agent.name]["tool"][1]
    telling = json.dumps(payload).replace("COMMAND", f"{D} claim T-1 --note AKIAABCDEFGHIJKLMNOP")
    said = json.dumps(agent.hears(event, json.loads(telling)))
    assert "may write a secret" in said
    assert ('"ask"' in said) == (agent.name in ("claude", "copilot"))
    assert ('"deny"' in said) == (agent.name in ("codex", "cursor", "gemini"))


@pytest.mark.parametrize("name", ["cursor", "copilot"])
def test_hooks_of_claudes_settings_are_the_same_session_and_cost_nothing(
    fresh: Sandbox, name: str
) -> None:
    """Cursor and Copilot also read Claude's settings, and call the hooks of both."""
    init(fresh, "--agent", f"claude,{name}")
    installed(fresh)
    del fresh.env["DIBS_LABEL"]
    agent = AgentAtWork(fresh, name)
    event, payload = CELLS[name]["start"][0]
    assert agent.hears(event, payload)
    assert agent.hears(event, payload, "no such agent", event) is None
    assert "held by you" in agent.runs(f"{D} claim T-1")
    assert len(fresh.state_files()) == 1
    for event, payload in CELLS[name]["tool"][2:]:
        agent.hears(event, payload, "", event)
    assert len(fresh.state_files()) == 1


ODD = [
    "", "{", "[]", "null", "5", '"x"', '{"hook_event_name": 5}', '{"sessionId": {}}', "\x00" * 9,
    '{"sessionId": "a/../b", "toolName": ["x"], "toolArgs": "{"}', '{"conversation_id": null}',
    '{"sessionId": "1", "sessionId": "2", "toolName": "bash", "toolArgs": "[1]"}',
    '{"hook_event_name": "BeforeTool", "tool_name": {}, "tool_input": 7}',
    '{"hook_event_name": "preToolUse", "conversation_id": "' + "x" * 10240 + '", "tool_name": 1}',
    '{"hook_event_name": "SomethingNew", "session_id": "1", "timestamp": "x"}',
    '{"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": {}}}',
    '{"hook_event_name": "PreToolUse", "cwd": 5, "tool_name": "Edit", "tool_input": [1]}',
    '{"sessionId": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"hook_event_name": "PreToolUse", "tool_name": "Bash", "session_id": "é\\ud800"}',
]  # fmt: skip


@pytest.mark.parametrize("stdin", ODD, ids=lambda text: repr(text[:30]))
@pytest.mark.parametrize(
    "words", ["", "codex", "cursor", "gemini", "copilot preToolUse", "a b c d e"]
)
def test_a_payload_of_any_kind_ends_in_silence(sandbox: Make, words: str, stdin: str) -> None:
    answer = sandbox(DIBS_GATE="block").dibs("hook", *words.split(), stdin=stdin).said(0)
    assert answer.stdout + answer.stderr == ""


@pytest.mark.parametrize("id", ["x" * 10240, "a/../../b", "é 'x' $(id)", "-", "."])
def test_an_id_of_any_kind_names_one_session(fresh: Sandbox, id: str) -> None:
    init(fresh, "--agent", "gemini")
    installed(fresh)
    del fresh.env["DIBS_LABEL"]
    agent = AgentAtWork(fresh, "gemini")
    for cell in (cell for cell in CELLS["gemini"].values() if not isinstance(cell, str)):
        for _, payload in cell:
            payload["session_id"] = id
    assert "held by you" in agent.runs(f"{D} claim T-1")
    assert "holds T-1" in json.dumps(agent.at("resume"))
    assert len(fresh.state_files()) == 1


@pytest.mark.parametrize("name", AGENTS[1:])
def test_a_throttled_hook_of_another_agent_loads_nothing_of_its_own(
    sandbox: Make, name: str
) -> None:
    variables = ["CODEX_THREAD_ID", "CURSOR_CONVERSATION_ID", "GEMINI_SESSION_ID"]
    variables += ["COPILOT_AGENT_SESSION_ID"]
    ann = sandbox(**{variables[AGENTS[1:].index(name)]: "1"})
    event, payload = CELLS[name]["tool"][2]
    ann.dibs("claim", "T-1").said(0)
    words = [name, event] if name == "copilot" else [name]
    command = [*ann.command("hook", *words)[:1], "-IS", "-X", "importtime"]
    done = processes.run(
        [*command, str(ann.script), "hook", *words],
        cwd=ann.repo, env=ann.env, input=json.dumps(payload), check=True,
    )  # fmt: skip
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "time" in imported
    assert not imported & {"json", "hook", "agents", "gate", "re", "hashlib"}


def test_the_page_about_agents_has_the_table_of_what_is_tested() -> None:
    page = (CLIENT.parents[1] / "docs/agents.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| ") and line.count("|") == len(COLUMNS) + 2
    ]
    header, *cells = rows
    assert header[1:] == COLUMNS
    table = {row[0]: dict(zip(COLUMNS, row[1:], strict=True)) for row in cells}
    assert list(table) == AGENTS
    for name, columns in CELLS.items():
        for column, cell in columns.items():
            offered = "not offered" if isinstance(cell, str) else "yes"
            assert table[name][column].startswith(offered), (name, column)
            assert not isinstance(cell, str) or cell in page, "the page gives the reason"
