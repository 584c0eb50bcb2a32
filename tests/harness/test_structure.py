"""The structure of the code: no circular imports, and no name for two things."""

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
    """Yield the modules of this repository that a file imports, also inside functions."""
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
    """Yield the names of the public classes of a module."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


PARTS = {"Arguments"}
"""Names that each act's module defines and that the module qualifies: `claim.Arguments`."""
OF_ONE_THING = {
    "acts": "dibs declares them, bench has a call of each",
    "board": "dibs serves it, bench measures it",
    "clock": "dibs reads the lease clock, tests step it",
    "forge": "dibs takes its deliveries, bench measures that",
    "people": "the acts of people: in the client, and in the reference model",
    "records": "records of tasks: dibs decodes them, the reference model has its own",
    "routes": "the paths of a room: api, board",
    "store": "the package, and its class",
}
"""Names that several modules share because they are about one thing, and the part of each."""
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
        # Tests of one subject through different doors share a name; the files of mutants are named
        # after the rooms of the code.
        if (
            not stem.startswith("test_")
            and stem not in NAMED_BY_A_TOOL
            and "mutations" not in module
        ):
            named[stem].append(module)
    found = {stem for stem, modules in named.items() if len(modules) > 1}
    assert {stem: named[stem] for stem in found - set(OF_ONE_THING)} == {}
    assert set(OF_ONE_THING) <= found, "a name is used only once now: remove it from the list"
