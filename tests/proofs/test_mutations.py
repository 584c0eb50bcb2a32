"""The text of each mutant is in the code once, and each mutant is code that runs: any test would
catch one that cannot even start.
"""

import re
import sys
from pathlib import Path

import pytest
from lupa import lua51
from tests.harness import processes
from tests.proofs.mutants import ACTION, CLIENT, SERVICE, SKILL
from tests.proofs.mutations import MUTANTS, Mutant

SCRIPTS = SERVICE / "store/lua"


def text_of(mutant: Mutant) -> str:
    """Return the text of a mutant's file without the bug."""
    folder, _, rest = mutant.file.partition("/")
    parts = {"client": CLIENT, "skill": SKILL, "action": ACTION}
    file = parts[folder] / rest if folder in parts else SERVICE / mutant.file
    return file.read_text()


def mutated(ending: str) -> dict[str, str]:
    """Return the texts of the files with this ending, each with one bug, by the bug's name."""
    some = [mutant for mutant in MUTANTS if mutant.file.endswith(ending)]
    return {each.name: text_of(each).replace(each.old, each.new) for each in some}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_bug_takes_the_place_of_stands_in_the_code_once(mutant: Mutant) -> None:
    assert text_of(mutant).count(mutant.old) == 1
    assert mutant.new != mutant.old


def test_a_bug_of_python_can_be_read_and_names_what_there_is(tmp_path: Path) -> None:
    for number, (name, text) in enumerate(mutated(".py").items()):
        (tmp_path / f"{number} {re.sub('[^a-z]', ' ', name.lower())}.py").write_text(text)
    check = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F823"]
    done = processes.run([*check, "--output-format", "concise", str(tmp_path)])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_bug_of_a_script_can_be_read_and_names_what_there_is() -> None:
    read = lua51.LuaRuntime().eval("function(text) return select(2, loadstring(text)) end")
    known = words("\n".join(path.read_text() for path in SCRIPTS.glob("*.lua")))
    found = {name: read(text) or words(text) - known for name, text in mutated(".lua").items()}
    assert len(found) > 100
    assert {name: fault for name, fault in found.items() if fault} == {}


def words(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]\w*", text))
