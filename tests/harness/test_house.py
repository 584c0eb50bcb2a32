"""What the house keeps to: no process past the harness, no wait without a bound, no long file."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
HARNESS = ROOT / "tests/harness"
FILES = [
    file
    for folder in ("tests", "bench")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if HARNESS not in file.parents
]
STARTS = {"Popen", "run", "call", "check_call", "check_output", "create_subprocess_exec"}


def faults(file: Path) -> Iterator[str]:
    """What a file starts past the harness, and what it waits for without a bound."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, ast.unparse(node.func.value)
        where = f"{file.relative_to(ROOT)}:{node.lineno}"
        if owner in ("subprocess", "asyncio") and name in STARTS - {"run" * (owner == "asyncio")}:
            yield f"{where}: {owner}.{name}; use start or run of tests/harness/processes.py"
        bounded = node.args or any(word.arg == "timeout" for word in node.keywords)
        if name == "communicate" and not bounded:
            yield f"{where}: communicate() without a timeout may wait for ever"
        if name == "wait" and not bounded and "process" in owner:
            yield f"{where}: wait() without a timeout may wait for ever"


def test_processes_are_started_by_the_harness_and_waits_are_bounded() -> None:
    assert [fault for file in FILES for fault in faults(file)] == []


def test_no_file_of_the_service_is_longer_than_can_be_read_in_one_sitting() -> None:
    sources = [*(ROOT / "service").rglob("*.py"), *(ROOT / "service").rglob("*.lua")]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in sources}
    assert {file: length for file, length in lengths.items() if length > 350} == {}
