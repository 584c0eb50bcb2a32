"""Rules of the code: the harness starts every process, every wait is bounded, no file is long, and
the types of every file are checked.
"""

import ast
import re
import tomllib
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
    """Yield each process that a file starts without the harness, and each wait without a bound."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, ast.unparse(node.func.value)
        where = f"{file.relative_to(ROOT)}:{node.lineno}"
        if owner in ("subprocess", "asyncio") and name in STARTS - {"run" * (owner == "asyncio")}:
            yield f"{where}: {owner}.{name}; use start or run of tests/harness/processes.py"
        bounded = node.args or any(word.arg == "timeout" for word in node.keywords)
        if name == "communicate" and not bounded:
            yield f"{where}: communicate() without a timeout may wait forever"
        if name == "wait" and not bounded and "process" in owner:
            yield f"{where}: wait() without a timeout may wait forever"


def test_processes_are_started_by_the_harness_and_waits_are_bounded() -> None:
    assert [fault for file in FILES for fault in faults(file)] == []


def test_no_file_of_the_service_is_longer_than_can_be_read_in_one_sitting() -> None:
    sources = [*(ROOT / "service").rglob("*.py"), *(ROOT / "service").rglob("*.lua")]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in sources}
    assert {file: length for file, length in lengths.items() if length > 350} == {}


SOURCES = [
    file.relative_to(ROOT)
    for folder in ROOT.iterdir()
    if folder.is_dir() and folder.name[0] != "." and folder.name not in ("build", "dist")
    for file in folder.rglob("*.py")
]
# mypy settings that would exempt a file from the type check, or from its strictness.
LOOSE = (
    "exclude",
    "ignore_errors",
    "follow_imports",
    "disallow_untyped_defs",
    "check_untyped_defs",
)


def test_the_types_of_every_file_are_checked_strictly() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] is True
    assert [
        name for one in (settings, *settings["overrides"]) for name in LOOSE if name in one
    ] == []
    folders = [Path(name) for name in settings["files"]]
    assert Path("client/dibs.py") in SOURCES
    unseen = [file for file in SOURCES if not any(file.is_relative_to(each) for each in folders)]
    assert unseen == []


def test_what_a_checker_shall_not_see_is_said_by_its_code() -> None:
    own = Path(__file__).relative_to(ROOT)
    texts = {str(file): (ROOT / file).read_text() for file in SOURCES if file != own}
    blanket = re.compile(r"#\s*type:\s*ignore(?!\[)|#\s*mypy:|@(typing\.)?no_type_check")
    assert [file for file, text in texts.items() if blanket.search(text)] == []
