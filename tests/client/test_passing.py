"""Lines that pass without a question: dibs commands as agents write them, and nothing else."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.client.conftest import CLIENT, Make, Sandbox
from tests.client.parts import client, passing, shell
from tests.client.test_hooks import LOCAL, bash
from tests.client.test_install import fresh, init, installed
from tests.harness import processes

__all__ = ["fresh"]
D = "sh .claude/skills/dibs/dibs"
SKILL = CLIENT.parents[1] / "skill"


class Checkout:
    """A repository with the client as `init` installs it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / ".git").mkdir(parents=True)
        (root / "sub").mkdir()
        self.script = laid(root)

    def passes(self, line: str, cwd: str = ".", **more: Any) -> str | None:
        """Return the line that runs without a question, or None if a person is asked."""
        place = passing.Place(str(self.root), str(self.root / cwd), **more)
        place.ours = str(self.script)
        place.command = ["sh", place.ours]
        text = passing.rewritten(line, place, shell.read)
        return None if text is None else str(text)


def laid(root: Path) -> Path:
    """Put the client in its place in a checkout."""
    folder = root / ".claude/skills/dibs"
    folder.mkdir(parents=True)
    for path in (*CLIENT.parent.glob("*.py"), SKILL / "dibs"):
        shutil.copy(path, folder)
    return folder / "dibs"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Return one checkout, shared by all lines."""
    return Checkout(tmp_path_factory.mktemp("passing") / "repo")


# Lines that models wrote in the real CLI; D is the command as in SKILL.md.
PASS = [
    "D claim T-1",
    "D claim T-1 --note 'first pass'",
    'D claim T-1 --note "it\'s mine"',
    "D claim 'feature/login page'",
    "D claim T-1 --any T-2 T-3",
    "D list",
    "D show T-1 --json",
    "D beat",
    "D doctor",
    "D done T-1 --pr https://github.com/acme/shop/pull/12",
    "sh {root}/.claude/skills/dibs/dibs claim T-1",
    "sh ./.claude/skills/dibs/dibs claim T-1",
    ".claude/skills/dibs/dibs claim T-1",
    "cd {root} && D claim T-1",
    "D claim T-1 --note 'it (really) is'",
    "D claim T-1 --note 'a; b'",
    "D claim T-1 --note 'a && b'",
    "D claim T-1 --note 'a\nb'",
    "D claim T-1 --note 'what?! 50%'",
    "D claim T-1 --note 'Überarbeitung – 完了'",
    "D done T-1 --pr 'https://example.org/pull?x=1&y=2'",
    "D done T-1 --pr https://example.org/pull?x=1",
    "D claim T-1 2>&1",
    "D claim T-1 2>/dev/null",
    "D claim T-1 >/dev/null 2>&1",
    "D claim T-1 &>/dev/null",
    "D list 2>&1 | head",
    "D list | head -5",
    "D list | head -n 20 | tail -n +2",
    "D list | grep T-",
    "D list | grep -v -e 'T-1'",
    "D list | wc -l",
    "D list | cut -d' ' -f1",
    "D list --json | jq -r '.claims[].task'",
    "D list | cat",
    "D claim T-1 || echo taken",
    "D claim T-1 && D list",
    "D claim T-1; D list",
    "timeout 30 D claim T-1",
    "if D claim T-1; then echo mine; else echo taken; fi",
    "D claim T-1\nD list",
    "# first the claim\nD claim T-1  # now",
    "D claim T-1 \\\n  --note 'two lines'",
    "sleep 1; D list",
    "D claim T-1; echo $?",
    'D claim T-1; echo "exit: $?"',
    "D claim T-1; [ $? -eq 0 ] && echo mine",
    "D claim T-1 || exit 1",
    "! D verify T-1",
    "( D list )",
    "{ D list; D beat; }",
    "cd sub && sh ../.claude/skills/dibs/dibs claim T-1",
    "bash .claude/skills/dibs/dibs claim T-1",
    "bash -lc 'D claim T-1'",
    "bash -c 'cd sub && D claim T-1 2>&1 | head'",
    "python3 .claude/skills/dibs/dibs.py claim T-1",
    "dibs claim T-1",
    "D",
    "D --help",
    "D help",
    "D claim --help",
    'sh "$CLAUDE_PROJECT_DIR"/.claude/skills/dibs/dibs claim T-1',
    'sh "$CLAUDE_PROJECT_DIR/.claude/skills/dibs/dibs" claim T-1',
    "sh ${CLAUDE_PROJECT_DIR}/.claude/skills/dibs/dibs claim T-1",
]
ASK = [
    'D claim T-1 --note "costs $5"',
    "D claim T-1 --note `id`",
    "D claim $(id)",
    'D claim T-1 --note "$(cat /etc/passwd)"',
    "out=$(D claim T-1)",
    "for t in T-1 T-2; do D claim $t; done",
    "for t in T-1 T-2; do D claim T-1; done",
    "while D claim T-1; do sleep 1; done",
    "sh $(git rev-parse --show-toplevel)/.claude/skills/dibs/dibs claim T-1",
    "sh $HOME/.claude/skills/dibs/dibs claim T-1",
    "X=1 D claim T-1",
    "DIBS_URL=https://example.org D claim T-1",
    "env X=1 D claim T-1",
    "export X=1; D claim T-1",
    "D claim T-1 &",
    "D list > file",
    "D list >> file",
    "D list >| file",
    "D list 2> file",
    "D list < file",
    "D claim T-1 > /etc/passwd",
    "D run T-1 -- id",
    "D watch",
    "D init --url https://example.org",
    "D hook",
    "D list --json | python3 -c 'print(1)'",
    "D list | sh",
    "D list | bash -s",
    "D list | tee file",
    "D list | xargs rm",
    "D claim T-1; rm -rf /",
    "D claim T-1 && curl example.org",
    "D claim T-1 && git status",
    "D claim T-1\nid",
    "D claim T-1 <<EOF\nx\nEOF",
    "D claim T-1 <<< x",
    "D claim T-1 <(id)",
    "sh /tmp/dibs claim T-1",
    "sh -c id x .claude/skills/dibs/dibs claim T-1",
    "sh -x .claude/skills/dibs/dibs claim T-1",
    "bash -c 'D claim T-1; id'",
    "bash -c 'D claim T-1' x",
    "bash -c \"D claim $X\"",
    "eval 'D claim T-1'",
    ". .claude/skills/dibs/dibs claim T-1",
    "cd /tmp && D claim T-1",
    "cd .. && D claim T-1",
    "cd && D claim T-1",
    "cd - && D claim T-1",
    "cd nowhere && D claim T-1",
    "D list | grep -r T- .",
    "D list | grep T- /etc/passwd",
    "D list | grep -c 5 /etc/passwd",
    "D list | grep -f /etc/passwd",
    "D list | head /etc/passwd",
    "D list | head -n 5 /etc/passwd",
    "D list | tail -f x",
    "D list | wc -l file",
    "D list | cut -f1 file",
    "D list | cat file",
    "D list --json | jq '$ENV'",
    "D list --json | jq env",
    "D list --json | jq . file",
    "D list --json | jq -f file",
    "D list --json | jq 'include \"x\"; .'",
    "timeout 5 rm x; D list",
    "timeout 5 cd sub; D list",
    "timeout -k 1 5 D list",
    "sleep 1",
    "echo x",
    "ls | head",
    "echo $HOME; D list",
    "D claim *",
    "D claim {T-1,T-2}",
    "D claim ~/x",
    "D claim 'T-1",
    "D claim T-1 --note \x1b[31m",
    "[ -v 'x[$(id)]' ] && D list",
    "test -f x && D list",
    "echo () { D list; }; id",
    "D list; exit 7",
    "case x in x) D list;; esac",
    "dibs() { id; }; dibs claim T-1",
    "",
    "#",
]  # fmt: skip


def spelled(checkout: Checkout, line: str) -> str:
    """Return the line with D replaced by the command."""
    whole = line.replace("{root}", str(checkout.root))
    return whole.replace("D ", D + " ") if whole != "D" else D


@pytest.mark.parametrize("line", PASS)
def test_a_dibs_command_passes_in_the_forms_that_agents_write(
    checkout: Checkout, line: str
) -> None:
    text = checkout.passes(spelled(checkout, line))
    assert text is not None
    assert "CLAUDE_PROJECT_DIR" not in text
    if line not in ("D claim T-1", "D list", "D beat", "D doctor", "D"):
        assert str(checkout.script) in text or text == spelled(checkout, line)


@pytest.mark.parametrize("line", ASK)
def test_nothing_else_passes(checkout: Checkout, line: str) -> None:
    assert checkout.passes(spelled(checkout, line)) is None


@pytest.mark.parametrize("cwd", [".", "sub", ".claude/skills/dibs"])
@pytest.mark.parametrize("line", ["D claim T-1", "D list | head -5", "dibs beat", "D help"])
def test_it_passes_from_any_folder_and_runs_by_its_whole_path(
    checkout: Checkout, line: str, cwd: str
) -> None:
    text = checkout.passes(spelled(checkout, line), cwd)
    assert text is not None
    is_as_documented = cwd == "." and line in ("D claim T-1", "D help")
    assert text.startswith(D if is_as_documented else f"sh {checkout.script} ")


def test_what_is_written_as_the_skill_has_it_stays_as_it_is(checkout: Checkout) -> None:
    """A permission rule of the repository matches these exact words, also in plan mode."""
    line = f"{D} claim T-1 --note 'first pass'"
    assert checkout.passes(line) == line
    assert checkout.passes(line, "sub") == f"sh {checkout.script} claim T-1 --note 'first pass'"


def test_what_a_session_needs_to_be_itself_is_put_in(checkout: Checkout) -> None:
    before, after = ["GEMINI_SESSION_ID=1"], ["--as", "a b"]
    line = f"{D} claim T-1 && {D} list --json | jq ."
    text = checkout.passes(line, before=before, after=after)
    call = f"GEMINI_SESSION_ID=1 sh {checkout.script}"
    assert text == f"{call} claim --as 'a b' T-1 && {call} list --as 'a b' --json | jq ."


def test_a_copy_that_is_the_same_to_the_byte_passes_and_runs_as_ours(
    checkout: Checkout, tmp_path: Path
) -> None:
    """A worktree made in mid-session has such a copy, inside or outside the repository."""
    twin = laid(tmp_path / "worktree")
    line = f"sh {twin} claim T-1"
    assert checkout.passes(line) == f"sh {checkout.script} claim T-1"
    assert checkout.passes(f"python3 {twin}.py beat") == f"sh {checkout.script} beat"
    for name in ("dibs", "dibs.py", "hook.py", "shell.py"):
        path = twin.with_name(name)
        text = path.read_text()
        path.write_text(text + "# more\n")
        assert checkout.passes(line) is None, name
        path.unlink()
        assert checkout.passes(line) is None, name
        path.write_text(text)
    assert checkout.passes(line)


def test_in_a_worktree_a_command_is_the_worktrees(checkout: Checkout, tmp_path: Path) -> None:
    worktree = tmp_path / "worktree"
    laid(worktree)
    (worktree / "sub").mkdir()
    (worktree / ".git").write_text(f"gitdir: {checkout.root}/.git/worktrees/w\n")
    cwd = os.path.relpath(worktree, checkout.root)
    assert checkout.passes(f"{D} claim T-3", cwd) == f"{D} claim T-3"
    assert checkout.passes(f"cd sub && {D} claim T-3", cwd)
    assert checkout.passes(f"cd /tmp && {D} claim T-3", cwd) is None


def test_a_second_repository_of_the_session_is_gone_to(checkout: Checkout, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / ".git").mkdir(parents=True)
    line = f"cd {other} && {D} claim U-1"
    assert checkout.passes(line) is None
    laid(other)
    assert checkout.passes(line) == f"cd {other} && sh {checkout.script} claim U-1"


# The real shells, with stand-ins for every program: which programs does a passing line run?

PROGRAMS = ["git", "rm", "curl", "tee", "python3", "id", "touch", "env", "xargs", "bash", "node"]
PROGRAMS += ["dibs", "zsh", "dash", "evil", "find", "true", "test", "echo", "cd", "[", "pwd"]
HARMLESS = ["head", "tail", "grep", "wc", "cut", "cat", "jq", "sleep"]
PIECES = [
    *PASS, *ASK, "D claim T-1", "evil", "git push", "rm -rf x", "evil 'x'", "touch made", "'evil'",
    " ", "\n", ";", "&", "&&", "||", "|", "(", ")", "{", "}", "!", "<", ">", ">>", "2>&1", ">&",
    "'", '"', "\\", "`", "$", "$(", "${", "}", "$((", "))", "#", "if", "then", "else", "fi", "do",
    "done", "case x in", "esac", "x)", ";;", "function f", "f()", "[[", "]]", "~", "*", "=", "X=1",
    "<<EOF\n", "\nEOF\n", "<<'E'\n", "\nE\n", "\t", "\r", "\x0b", "\xa0", "\u2028", "é", "-", "--",
    "echo ", "cat ", "head ", "timeout 5 ", "sh -c ", "bash -lc ", "eval ", "exec ", "time ",
]  # fmt: skip
LINES = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=9).map(" ".join)
GLUED = st.lists(st.sampled_from(PIECES) | st.text(max_size=2), max_size=9).map("".join)


@pytest.fixture(scope="module")
def stands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of stand-in programs that record their arguments and run nothing."""
    folder = tmp_path_factory.mktemp("stands")
    log = f'printf "%s\\n" "${{0##*/}} $1" >> {folder}/log\n'
    for name in [*PROGRAMS, *HARMLESS, "sh"]:
        (folder / name).write_text("#!/bin/sh\n" + log)
    (folder / "timeout").write_text(f'#!/bin/sh\n{log}shift\nexec "$@"\n')
    for path in folder.iterdir():
        path.chmod(0o755)
    return folder


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(line=LINES | GLUED, cwd=st.sampled_from([".", "sub"]))
@example(line="D list | head -5 && timeout 5 D beat; bash -c 'D list'", cwd="sub")
@example(line='echo $? \'x\' "$?" ; D claim \'T-1 `evil` $(evil)\' "a\\"b"', cwd=".")
def test_whatever_passes_runs_nothing_but_dibs_and_filters(
    checkout: Checkout, stands: Path, line: str, cwd: str
) -> None:
    text = checkout.passes(spelled(checkout, line), cwd)
    if text is None:
        return
    before = sorted(path for path in checkout.root.rglob("*"))
    for program in filter(None, map(shutil.which, ("dash", "bash", "zsh"))):
        (stands / "log").write_text("")
        done = processes.run(
            [program, "-c", text], cwd=checkout.root / cwd, env={"PATH": str(stands)}, input=""
        )
        assert "not found" not in done.stderr
        for call in (stands / "log").read_text().splitlines():
            name, _, first = call.partition(" ")
            assert name in (*HARMLESS, "timeout") or (name == "sh" and first in ours(checkout, cwd))
    assert sorted(path for path in checkout.root.rglob("*")) == before


def ours(checkout: Checkout, cwd: str) -> tuple[str, ...]:
    """Return the names by which a line may call the client in that directory."""
    return (str(checkout.script), *([".claude/skills/dibs/dibs"] if cwd == "." else []))


@settings(max_examples=400, deadline=None)
@given(line=LINES | GLUED | st.text())
def test_any_text_is_read_or_given_up(line: str) -> None:
    with contextlib.suppress(shell.Unreadable):
        shell.read(line)


@pytest.mark.parametrize(
    "line",
    [
        "(" * 5000,
        "$(" * 5000,
        "${x:-" * 5000,
        '"$(' * 3000,
        "a " * 40000,
        "`" * 9999,
        "<<E\n" * 9999,
    ],
)
def test_a_line_of_any_depth_and_length_is_given_up_in_time(checkout: Checkout, line: str) -> None:
    assert checkout.passes(f"{D} claim T-1; {line}") is None


# Through the hook of an installed client.


@pytest.fixture
def ann(fresh: Sandbox) -> Sandbox:
    """Return a repository that `init` has set up, in which edits need a claim."""
    init(fresh)
    installed(fresh)
    fresh.env |= LOCAL | {"DIBS_GATE": "block"}
    (fresh.repo / "sub").mkdir()
    return fresh


def test_the_hook_says_what_runs_instead_and_that_claims_the_task(ann: Sandbox) -> None:
    given = {"command": f"{D} claim T-1 2>&1 | head -3", "description": "claim", "timeout": 9000}
    answer = ann.hook("PreToolUse", tool_name="Bash", tool_input=given, cwd=str(ann.repo / "sub"))
    said = answer.json["hookSpecificOutput"]
    assert said["permissionDecision"] == "allow"
    assert said["updatedInput"] | {"command": ""} == given | {"command": ""}
    line = said["updatedInput"]["command"]
    done = processes.run(["sh", "-c", line], cwd=ann.repo / "sub", env=ann.env)
    assert done.stdout.startswith("T-1: held by you")
    assert "T-1: held by you" in ann.dibs("verify", "T-1").said(0).stdout


def test_the_hook_of_a_holder_still_lets_commands_pass(ann: Sandbox) -> None:
    ann.dibs("claim", "T-1").said(0)
    assert bash(ann, f"{D} done T-1 2>&1")["permissionDecision"] == "allow"
    assert bash(ann, "dibs done T-1")["updatedInput"]["command"] == f"sh {ann.script} done T-1"


def test_where_the_gate_is_off_commands_pass_as_well(sandbox: Make) -> None:
    ann = sandbox(DIBS_GATE="off", **LOCAL)
    script = client.__file__
    assert bash(ann, f"python3 {script} list")["permissionDecision"] == "allow"
