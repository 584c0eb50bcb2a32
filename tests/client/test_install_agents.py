"""`init` for agents other than Claude Code: entries in their files, and removal."""

import json
import shutil

import pytest
from tests.client.conftest import Sandbox
from tests.client.test_agents import CELLS
from tests.client.test_install import contents, fresh, init, installed
from tests.harness import processes

__all__ = ["fresh"]
FILES = {
    "claude": ".claude/settings.json",
    "codex": ".codex/hooks.json",
    "cursor": ".cursor/hooks.json",
    "gemini": ".gemini/settings.json",
    "copilot": ".github/hooks/dibs.json",
}
OTHERS = list(FILES)[1:]
ALL = ",".join(FILES)
BEFORE = {
    "codex": '{"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "x"}]}]}}\n',
    "cursor": '{\n  "version": 1,\n  "hooks": {\n    "stop": [{"command": "./x"}]\n  }\n}\n',
    "gemini": '{"theme": "dark", "hooks": {"BeforeTool": [ ]}} // mine\n',
    "copilot": '{"version": 1, "disableAllHooks": false, "hooks": {}}',
}


def commands(ann: Sandbox, name: str) -> dict[str, str]:
    """Return the command of each event in an agent's file; dibs owns one command per event."""
    events = json.loads((ann.repo / FILES[name]).read_text())["hooks"]
    flat = {event: [h for e in entries for h in e.get("hooks", [e])] for event, entries in
            events.items()}  # fmt: skip
    return {event: hooks[0].get("command") or hooks[0]["bash"] for event, hooks in flat.items()}


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_put_beside_what_is_there_once_and_comes_out_byte_for_byte(
    fresh: Sandbox, name: str
) -> None:
    path = fresh.repo / FILES[name]
    path.parent.mkdir(parents=True)
    path.write_text(BEFORE[name])
    (fresh.repo / "AGENTS.md").write_text("# Mine")
    before = contents(fresh)
    init(fresh, "--agent", name)
    if name != "gemini":  # Gemini's file has a comment
        merged = json.loads(path.read_text())
        old = json.loads(BEFORE[name])
        assert {key: merged[key] for key in old if key != "hooks"} | {"hooks": 0} == old | {
            "hooks": 0
        }
        for event, entries in old["hooks"].items():
            assert merged["hooks"][event][1:] == entries
        assert path.read_text().count('"version"') == BEFORE[name].count('"version"')
    assert "dibs" in (fresh.repo / "AGENTS.md").read_text()
    assert "CLAUDE.md" not in contents(fresh)
    assert "nothing to change" in init(fresh).stdout
    assert "nothing to change" in init(fresh, "--agent", name).stdout
    init(fresh, "--remove")
    assert contents(fresh) == before


def test_all_of_them_together_leave_no_trace(fresh: Sandbox) -> None:
    init(fresh, "--agent", ALL)
    for path in (*FILES.values(), "AGENTS.md", "CLAUDE.md", ".agents/skills/dibs/SKILL.md"):
        assert (fresh.repo / path).is_file(), path
    installed(fresh)
    init(fresh, "--remove")
    assert contents(fresh) == {}


@pytest.mark.long
@pytest.mark.parametrize("name", OTHERS)
def test_the_file_has_the_events_of_the_table_and_never_fails(fresh: Sandbox, name: str) -> None:
    """A failing or missing hook would stop every tool of some agents."""
    init(fresh, "--agent", name)
    found = commands(fresh, name)
    offered = [cell for cell in CELLS[name].values() if not isinstance(cell, str)]
    assert {event for cell in offered for event, _ in cell} <= found.keys()
    (fresh.repo / "deep").mkdir()
    variables = {"GEMINI_PROJECT_DIR": str(fresh.repo), "CURSOR_PROJECT_DIR": str(fresh.repo)}
    for cell in offered:
        for event, payload in cell:
            where = fresh.repo / ("deep" if name in ("codex", "copilot") else ".")
            env = fresh.env | variables
            done = processes.run(
                ["sh", "-c", found[event]], cwd=where, env=env, input=json.dumps(payload)
            )
            assert (done.returncode, done.stderr) == (0, "")
            if "start" in event.lower() and "sub" not in event.lower():
                assert "holds no task" in done.stdout
    shutil.rmtree(fresh.repo / ".claude/skills")
    for event, command in found.items():
        done = processes.run(["/bin/sh", "-c", command], cwd=fresh.repo, env=fresh.env, input="{}")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), event


@pytest.mark.parametrize(
    ("signs", "found"),
    [
        ([], ["claude"]),
        ([".codex/x", "CLAUDE.md"], ["claude", "codex"]),
        ([".cursorrules"], ["cursor"]),
        (["GEMINI.md", ".github/copilot-instructions.md"], ["gemini", "copilot"]),
    ],
)
def test_auto_goes_by_what_the_repository_shows(
    fresh: Sandbox, signs: list[str], found: list[str]
) -> None:
    for sign in signs:
        (fresh.repo / sign).parent.mkdir(exist_ok=True)
        (fresh.repo / sign).write_text("x")
    init(fresh, "--agent", "auto")
    assert [name for name, path in FILES.items() if (fresh.repo / path).exists()] == found


def test_another_agent_comes_beside_those_that_are_there(fresh: Sandbox) -> None:
    init(fresh)
    assert not (fresh.repo / "AGENTS.md").exists()
    init(fresh, "--agent", "codex")
    assert (fresh.repo / FILES["claude"]).is_file()
    assert "nothing to change" in init(fresh, "--agent", "claude").stdout
    installed(fresh)
    init(fresh, "--remove")
    assert contents(fresh) == {}


def test_the_last_line_says_what_a_person_has_to_do_once(fresh: Sandbox) -> None:
    said = init(fresh, "--agent", "codex,copilot").stdout
    assert "each person trusts the hooks once in Codex (/hooks)" in said
    assert "its firewall has to let the service's host through" in said
    assert "trust" not in init(fresh, "--remove").stdout


def test_without_hooks_one_line_says_to_beat(fresh: Sandbox) -> None:
    init(fresh, "--agent", "cursor")
    text = (fresh.repo / "AGENTS.md").read_text()
    assert "If no hooks run, beat every ten minutes" in text
    assert len(text.splitlines()) <= 9


def test_an_agent_that_nobody_knows_is_a_usage_error(fresh: Sandbox) -> None:
    said = fresh.dibs("init", "--agent", "codex,emacs").said(2).stderr
    assert "no agent is called emacs" in said
    assert said.count("\n") == 1
    assert contents(fresh) == {}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_cannot_be_merged_stops_init_before_it_writes(
    fresh: Sandbox, name: str
) -> None:
    path = fresh.repo / FILES[name]
    path.parent.mkdir(parents=True)
    for text in ("{", '{"hooks": []}', '{"version": 2, "hooks": {}}'):
        if "version" in text and name not in ("cursor", "copilot"):
            continue
        path.write_text(text)
        before = contents(fresh)
        assert FILES[name] in fresh.dibs("init", "--agent", name).said(2).stderr
        assert contents(fresh) == before


def test_doctor_knows_hooks_of_any_agent(fresh: Sandbox) -> None:
    init(fresh, "--agent", "gemini")
    installed(fresh)
    assert "no hook has run yet" in fresh.dibs("doctor").said(1).stdout
