"""Generates text from the registry: the tables of docs/protocol.md, and the rules for agents.

`python -m dibs.acts.tables`, in a checkout, rewrites both (docs/protocol.md between its marks,
skill/settings.json).
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dibs import problems
from dibs.acts import ACTS
from dibs.acts.act import Act
from dibs.acts.tasks import Entry
from dibs.model import MAX_FENCE
from dibs.requests import TASK_SCHEMA, Request

PROTOCOL, RULES = "docs/protocol.md", "skill/settings.json"
COMMAND = "sh .claude/skills/dibs/dibs"
"""The shell words with which an agent runs the client in a repository that uses dibs."""
OF_NO_ACT = ("doctor",)
"""Further commands of the client that an agent may run without asking; they call no act."""
_MARKS = re.compile(r"(<!-- table: ([\w-]+)[^>]* -->\n).*?(<!-- /table -->)", re.DOTALL)
_WHO = {"session": "a session", "admin": "a person", "ci": "CI, a person", "reader": "anybody"}


def commands() -> tuple[str, ...]:
    """Return the commands of the client that an agent may run without asking a person."""
    spoken = [command for act in ACTS for command in act.commands]
    return (*dict.fromkeys(spoken), *OF_NO_ACT)


def rules(settings: str) -> str:
    """Return skill/settings.json with the rules that follow from the registry."""
    found = json.loads(settings)
    found["permissions"]["allow"] = [f"Bash({COMMAND} {command} *)" for command in commands()]
    return json.dumps(found, indent=2) + "\n"


def written(page: str) -> str:
    """Return docs/protocol.md with its tables generated from the registry."""
    tables = dict(_tables())
    return _MARKS.sub(lambda found: f"{found[1]}{tables[found[2]]}{found[3]}", page)


def _tables() -> Iterator[tuple[str, str]]:
    yield "acts", _table(("act", "call", "who", "its own refusals"), map(_act, ACTS))
    yield "entry", _fields(Entry)
    yield "problems", _table(("code", "status", "when", "next"), map(_problem, problems.TABLE))
    for act in ACTS:
        if act.method == "POST":
            yield act.name, _fields(act.request)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return (
        "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        .replace("| --- ", "|---")
        .replace("|--- |", "|---|")
    )


def _act(act: Act) -> tuple[str, ...]:
    refusals = ", ".join(f"`{code}`" for code in act.problems)
    return act.name, f"`{act.method} …/{act.path}`", _WHO[act.caller], refusals


def _problem(problem: problems.Problem) -> tuple[str, ...]:
    return f"`{problem.code}`", str(problem.status), problem.when, problem.next


def _fields(request: type[Request]) -> str:
    schema = request.model_json_schema()
    needed = schema.get("required", ())
    rows = (
        (f"`{name}`", kind(field) + ", required" * (name in needed), _said(field["description"]))
        for name, field in schema["properties"].items()
    )
    return _table(("field", "type", "meaning"), rows)


def _said(description: str) -> str:
    return " ".join(description.split()).removesuffix(".")


def kind(schema: dict[str, Any]) -> str:
    """Return the type of a field in a word or two, from its JSON Schema."""
    several = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    if len(several) > 1:  # a number of seconds, or text
        return "duration" if several[0]["minimum"] == 0 else "duration or instant"
    [one] = several
    default = schema.get("default")
    if "enum" in one:
        return ", ".join(f"`{value}`" + " (default)" * (value == default) for value in one["enum"])
    match one["type"]:
        case "array":
            return _array(one)
        case "integer":
            whole = (one["minimum"], one["maximum"])
            return "number" if whole[1] == MAX_FENCE else f"{whole[0]}–{whole[1]}"
        case "string":
            return _text(one)
        case other:
            return {"boolean": "bool"}[other]


def _array(schema: dict[str, Any]) -> str:
    least, most, items = schema.get("minItems", 0), schema["maxItems"], schema["items"]
    of = "entries" if "$ref" in items else "tasks"
    if "$ref" not in items and not _is_task(items):
        of = f"texts ≤ {items['maxLength']} each"
    return f"{least}–{most} {of}" if least else f"≤ {most} {of}"


def _text(schema: dict[str, Any]) -> str:
    if _is_task(schema):
        return "task"
    of = "URL" if "https?:" in schema.get("pattern", "") else "text"
    return f"{of} ≤ {schema['maxLength']}"


def _is_task(schema: dict[str, Any]) -> bool:
    return bool(schema.get("pattern") == TASK_SCHEMA["pattern"])


def main() -> int:
    """Rewrite the generated parts of this checkout."""
    for name, anew in ((PROTOCOL, written), (RULES, rules)):
        file = Path(name)
        file.write_text(anew(file.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
