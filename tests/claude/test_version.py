"""The parts of the Claude Code CLI that dibs relies on: its events, their fields, its tools.

`shape.json` records them for the version that it names. If a newer version behaves differently,
this test fails and names each difference. Check what the difference means for dibs, then write the
file again: DIBS_CLAUDE_SHAPE=write make test-claude ARGS="-k version"
"""

import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.claude.claude_code import CLAUDE, agent, bash, conversation, write
from tests.client.conftest import Sandbox
from tests.harness.processes import run

SHAPE = Path(__file__).with_name("shape.json")
EVENTS = (
    *("SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "PostToolUseFailure"),
    *("SubagentStart", "SubagentStop", "PreCompact", "Stop", "StopFailure", "SessionEnd"),
)

SOMETIMES = {"prompt_id"}  # missing if a sub-agent ends after the turn that started it


def observed(box: Sandbox) -> dict[str, Any]:
    """Return the shape of a session that uses tools and a sub-agent, fails, and is cleared."""
    log = box.folder / "events"
    entry = {"hooks": [{"type": "command", "command": f"cat >> {log}; echo >> {log}"}]}
    settings = box.folder / "settings.json"
    settings.write_text(json.dumps({"hooks": {event: [entry] for event in EVENTS}}))
    steps = [bash("ls"), bash("ls /nowhere"), write(box, "a.py"), agent("ALPHA"), {"text": "one"}]
    subs = {"ALPHA": [bash("ls"), {"text": "done"}]}
    flags = ("--settings", str(settings))
    with conversation(box, *steps, {"text": "two"}, flags=flags, subs=subs) as talk:
        talk.say("Work")
        talk.say("/clear")
        talk.say("Go on")
        talk.end()
        tools = sorted(tool["name"] for tool in talk.model.asked[0]["tools"])
    fields: defaultdict[str, set[str]] = defaultdict(set)
    sources: defaultdict[str, set[str]] = defaultdict(set)
    for line in filter(None, log.read_text().splitlines()):
        payload = json.loads(line)
        event = payload["hook_event_name"]
        name = event + (f"/{payload['tool_name']}" if "tool_name" in payload else "")
        fields[name] |= payload.keys() - SOMETIMES
        sources[event] |= {payload[key] for key in ("source", "reason") if key in payload}
    return {
        "version": version(),
        "fields": {name: sorted(keys) for name, keys in sorted(fields.items())},
        "sources": {event: sorted(told) for event, told in sorted(sources.items()) if told},
        "tools": tools,
    }


def version() -> str:
    """Return the version of the CLI under test."""
    return re.search(r"[\d.]+", run([CLAUDE, "--version"], check=True).stdout)[0]  # type: ignore[index]


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the differences between two shapes, one per line."""
    lines = []
    for part in ("fields", "sources"):
        for name in sorted(before[part].keys() | now[part].keys()):
            old, new = set(before[part].get(name, [])), set(now[part].get(name, []))
            lines += [f"{name} has no {part[:-1]} {gone} any more" for gone in sorted(old - new)]
            lines += [f"{name} has a new {part[:-1]}: {more}" for more in sorted(new - old)]
    gone, more = set(before["tools"]) - set(now["tools"]), set(now["tools"]) - set(before["tools"])
    lines += [f"there is no tool {name} any more" for name in sorted(gone)]
    return lines + [f"there is a new tool: {name}" for name in sorted(more)]


def test_the_cli_behaves_as_the_version_that_dibs_was_made_for(repo: Sandbox) -> None:
    now = observed(repo)
    if os.environ.get("DIBS_CLAUDE_SHAPE") == "write":
        SHAPE.write_text(json.dumps(now, indent=1) + "\n")
    before = json.loads(SHAPE.read_text())
    lines = differences(before, now)
    assert not lines, f"{now['version']} differs from {before['version']}:\n" + "\n".join(lines)


def test_a_difference_is_named() -> None:
    before = {
        "fields": {"Stop": ["a", "b"]},
        "sources": {"SessionStart": ["clear"]},
        "tools": ["X"],
    }
    now = {"fields": {"Stop": ["a", "c"]}, "sources": {}, "tools": ["X", "Y"]}
    assert differences(before, now) == [
        "Stop has no field b any more",
        "Stop has a new field: c",
        "SessionStart has no source clear any more",
        "there is a new tool: Y",
    ]
