"""The shape of the files that go into a sandbox: few, short, typed, and valid in its old Python."""

import ast
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.conftest import CLIENT, Make
from tests.harness import processes

SKILL = CLIENT.parents[1] / "skill"
SCRIPTS = sorted(CLIENT.parent.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_is_made_to_be_read_no_function_is_tangled_and_no_line_is_dense(script: Path) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--select", "C901,E501", str(script)]
    done = processes.run(command)
    assert done.returncode == 0, done.stdout
    lines = script.read_text().splitlines()
    assert not [line for line in lines if line.count(";") and not line.lstrip().startswith("#")
                and re.search(r"\w; \w+\(", line)]  # fmt: skip


class AtRunTime(ast.NodeTransformer):
    """Removes the code that only a type checker reads."""

    def visit_If(self, node: ast.If) -> list[ast.stmt] | ast.AST:
        """Replace `if TYPE_CHECKING` by its other branch."""
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) == "TYPE_CHECKING" else node


def tree_of(script: Path) -> ast.Module:
    """Return a file's syntax tree as Python 3.8 runs it."""
    tree = ast.parse(script.read_text(), feature_version=(3, 8))
    return ast.fix_missing_locations(AtRunTime().visit(tree))


def evaluated(body: list[ast.stmt]) -> Iterator[ast.expr | None]:
    """Yield the annotations that Python evaluates without `from __future__ import annotations`."""
    for node in body:
        if isinstance(node, ast.AnnAssign):
            yield node.annotation
        elif isinstance(node, ast.ClassDef):
            yield from evaluated(node.body)
        elif isinstance(node, ast.FunctionDef):
            given = [*node.args.args, *filter(None, [node.args.vararg])]
            yield from (*(each.annotation for each in given), node.returns)
            inner = [each for each in ast.walk(node) if isinstance(each, ast.FunctionDef)]
            yield from evaluated([each for each in inner if each is not node])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_types_cost_nothing_and_are_no_news_to_python_3_8(script: Path) -> None:
    tree = tree_of(script)
    names = {name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
             for name in [str(node.module).split(".")[0]]}  # fmt: skip
    assert not names & {"typing", "_typeshed", "client"}
    found = [each for each in evaluated(tree.body) if each]
    odd = [ast.unparse(each) for each in found if not isinstance(each, ast.Constant | ast.Name)]
    assert found
    assert odd == [] or "__future__" in names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_is_python_3_8_and_the_standard_library(script: Path) -> None:
    tree = tree_of(script)
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
        if name
    }
    assert imported - {"dibs_client"} <= sys.stdlib_module_names


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12", "3.13", "3.14"])
def test_it_runs_on_the_pythons_of_this_machine(sandbox: Make, version: str) -> None:
    python = shutil.which(f"python{version}")
    works = python and not processes.run([python, "-c", ""]).returncode
    if not works:
        if os.environ.get("DIBS_TEST_PYTHONS"):
            pytest.fail(f"Python {version} is required and not installed")
        pytest.skip(f"Python {version} is not installed")
    ann = sandbox()
    for words in ("claim T-1", "beat", "list", "doctor", "run T-2 -- true", "done T-1"):
        command = [str(python), "-W", "error", str(CLIENT), *words.split()]
        done = processes.run(command, cwd=ann.repo, env=ann.env, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), words


def test_the_command_beside_dibs_serve_loads_no_framework_for_a_claim() -> None:
    code = "import dibs.cli, sys; dibs.cli.client(); print('litestar' in sys.modules)"
    assert processes.run([sys.executable, "-c", code], check=True).stdout == "False\n"


def test_the_block_for_claude_md_is_8_lines_and_150_tokens() -> None:
    text = (SKILL / "CLAUDE.md").read_text()
    lines = text.splitlines()
    assert len(lines) <= 8
    assert (lines[0], lines[-1]) == ("<!-- dibs:begin -->", "<!-- dibs:end -->")
    # Words and punctuation marks, each about one token at most: a bound without a tokenizer.
    assert len(re.findall(r"\w+|[^\w\s]", re.sub(r"<!--.*?-->", "", text))) <= 150


def frontmatter() -> dict[str, str]:
    """Return the fields of SKILL.md's front matter, as text."""
    head = (SKILL / "SKILL.md").read_text().split("---\n")[1]
    return dict(line.split(": ", 1) for line in re.sub(r":\n +", ": ", head).splitlines())


def test_the_skill_stays_inside_what_every_reader_of_skills_takes() -> None:
    # No allowed-tools: with it, Claude Code asks a person before it loads the skill.
    assert set(frontmatter()) <= {"name", "description", "license", "compatibility", "metadata"}
    assert frontmatter()["name"] == "dibs"
    assert len(frontmatter()["description"].split()) <= 40
    body = (SKILL / "SKILL.md").read_text().split("---\n", 2)[2]
    assert len(body.strip().splitlines()) <= 60


def test_nothing_teaches_to_steal_a_claim() -> None:
    for path in (SKILL / "SKILL.md", SKILL / "CLAUDE.md"):
        assert not re.search(r"\b(break|steal|force|take over|takeover)\b", path.read_text(), re.I)
