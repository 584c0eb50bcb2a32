"""The structure of the code: no circle of imports, and no name for two things."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {"dibs": ROOT / "service", "bench": ROOT, "tests": ROOT}
MODULES = {
    ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
    for name, root in SOURCES.items()
    for file in sorted((root / name).rglob("*.py"))
}


def imports(file: Path) -> Iterator[str]:
    """The modules of ours that a file imports, also where it does so in a function."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter({name: set(imports(file)) for name, file in MODULES.items()}).prepare()
    except CycleError as found:
        pytest.fail(f"a circle of imports: {' → '.join(found.args[1])}")


def classes(file: Path) -> Iterator[str]:
    """The public classes of a module."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


PARTS = {"Arguments"}
"""What each script that is called has beside it, and is named by the module: `claim.Arguments`."""
OF_ONE_THING = {
    "acts": "dibs declares them, bench says how each is asked for",
    "board": "dibs has it, bench measures it",
    "clock": "dibs reads the lease clock, tests move it",
    "forge": "dibs listens to it, bench measures that",
    "people": "what they do: dibs does it, the reference model says what it means",
    "records": "of tasks: dibs decodes them, the reference model has its own",
    "routes": "the paths of a room: api, board",
    "store": "the package, and its class",
}
"""Modules of one name that are about one thing, and what each does with it."""
NAMED_BY_A_TOOL = ("__main__", "conftest")


def test_no_public_class_has_the_name_of_another() -> None:
    named = defaultdict(list)
    for module, file in MODULES.items():
        for name in classes(file):
            named[name].append(module)
    found = {name for name, modules in named.items() if len(modules) > 1}
    assert {name: named[name] for name in found - PARTS} == {}


def test_no_module_has_the_name_of_another_that_is_about_something_else() -> None:
    named = defaultdict(list)
    for module in MODULES:
        stem = module.rpartition(".")[2]
        # Tests of a thing through one door are called like those through another; bugs are kept
        # in files named after the rooms that they are in.
        if (
            not stem.startswith("test_")
            and stem not in NAMED_BY_A_TOOL
            and "mutations" not in module
        ):
            named[stem].append(module)
    found = {stem for stem, modules in named.items() if len(modules) > 1}
    assert {stem: named[stem] for stem in found - set(OF_ONE_THING)} == {}
    assert set(OF_ONE_THING) <= found, "one name is used once now: take it off the list"
