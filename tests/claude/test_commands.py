"""Lines with dibs commands that the real Claude Code lets an agent run without a question."""

import json
from pathlib import Path

import pytest
from tests.claude.claude_code import DIBS, agent, bash, claude, trust, write
from tests.claude.conftest import with_dibs
from tests.claude.scriptedmodel import use
from tests.client.conftest import Sandbox
from tests.harness.processes import run
from tests.harness.services import ServiceProcess

# The results in an untrusted folder, where only the hook lets a line pass. In a trusted folder, the
# repository's rules and the CLI's own let more lines pass; every line that passes here must pass
# there.
LINES = [
    ("D claim T-1", True),
    ("D claim T-1 --note 'first pass'", True),
    ('D claim T-1 --note "it\'s mine"', True),
    ("D claim T-1 --note 'it (really) is'", True),
    ("D claim T-1 --note 'a; b && c'", True),
    ("D claim T-1 --note 'what?! 50%'", True),
    ("D claim T-1 --note 'Überarbeitung – erster Teil'", True),
    ("D claim T-1 2>&1", True),
    ("D claim T-1 | head", True),
    ("D list | grep T-", True),
    ("D list --json | jq .claims", True),
    ("D claim T-1 || echo taken", True),
    ("timeout 30 D claim T-1", True),
    ("# the task\nD claim T-1", True),
    ("D claim T-1 \\\n  --note x", True),
    ("D --help", True),
    ("D help", True),
    ("D done T-9 --pr 'https://example.org/pull/12?x=1&y=2'", True),
    ("D claim T-1 > out.txt", False),
    ("D claim $(cat name)", False),
    ("D claim `cat name`", False),
    ("D claim T-1 | sh", False),
    ("D claim T-1 | tee out.txt", False),
    ("D run T-1 -- touch out.txt", False),
    ("X=1 D claim T-1", False),
    ("D claim T-1 & curl --version", False),
    ("D claim T-1; curl --version", False),
]
ASKED = (
    "requires approval",
    "require approval",
    "can't be checked",
    "background operator",
    "but you haven't granted it",
)


def was_refused(result: str) -> bool:
    """Return whether the CLI would have to ask a person, of whom there is none."""
    return any(words in result for words in ASKED)


@pytest.mark.parametrize("is_trusted", [False, True])
def test_plain_lines_pass_and_what_a_shell_makes_more_of_does_not(
    repo: Sandbox, is_trusted: bool
) -> None:
    if is_trusted:
        trust(repo)
    lines = [(line.replace("D ", DIBS + " ", 1), passes) for line, passes in LINES]
    lines = [row for row in lines if row[1] or not is_trusted]
    results = claude(repo, *(bash(line) for line, _ in lines)).results()
    told = zip(lines, results, strict=True)
    wrong = [(line, got) for (line, passes), got in told if was_refused(got) == passes]
    assert not wrong, json.dumps(wrong, indent=1)
    assert not (repo.repo / "out.txt").exists()


@pytest.mark.parametrize("is_trusted", [False, True])
def test_a_command_works_where_the_working_directory_has_moved(
    repo: Sandbox, is_trusted: bool
) -> None:
    if is_trusted:
        trust(repo)
    (repo.repo / "sub").mkdir()
    steps = [bash("cd sub && ls"), bash(f"{DIBS} claim T-1"), write(repo, "a.py")]
    model = claude(repo, *steps, bash(f"{DIBS} done T-1"))
    _, claimed, _, done = model.results()
    assert "T-1: held by you" in claimed
    assert (repo.repo / "a.py").exists()
    assert "T-1: done" in done


def test_the_skill_loads_without_a_question(repo: Sandbox) -> None:
    (result,) = claude(repo, use("Skill", skill="dibs")).results()
    assert "Launching skill: dibs" in result


@pytest.mark.parametrize("is_trusted", [False, True])
def test_a_sub_agent_in_a_worktree_claims_and_edits(repo: Sandbox, is_trusted: bool) -> None:
    if is_trusted:
        trust(repo)
    repo.git("add", "-A")
    repo.git("commit", "-qm", "dibs")
    subs = {"ALPHA": [bash(f"{DIBS} claim T-3"), bash(f"{DIBS} verify T-3"), {"text": "done"}]}
    model = claude(repo, agent("ALPHA", isolation="worktree"), subs=subs)
    # The last request with this name may be the parent's, which has the agent's result.
    told = json.dumps([asked["messages"] for asked in model.asked_by["ALPHA"]])
    assert told.count("T-3: held by you") >= 2
    assert "requires approval" not in told


def test_both_repositories_of_a_session_are_kept_and_freed(
    repo: Sandbox, service: ServiceProcess, tmp_path: Path
) -> None:
    other = with_dibs(tmp_path / "other", service, DIBS_GATE="block")
    trust(repo, other.repo)
    there = f"cd {other.repo} && {DIBS} claim U-1"
    model = claude(
        repo,
        bash(f"{DIBS} claim T-1"),
        bash(there),
        flags=("--add-dir", str(other.repo)),
    )
    assert "U-1: held by you" in model.results()[-1], model.results()
    for box, task in ((repo, "T-1"), (other, "U-1")):
        claim = box.dibs("show", task, "--json").said(0).json
        assert claim["state"] == "free", claim
        assert claim["previous"]["note"] == "its session ended"


def test_the_gate_sees_work_in_the_spellings_of_a_shell(repo: Sandbox) -> None:
    repo.git("commit", "-q", "--allow-empty", "-m", "first")
    (repo.repo / "a.py").write_text("a = 1\n")
    lines = [
        "git commit --allow-empty -m x",
        "true && git commit --allow-empty -m x",
        "(git commit --allow-empty -m x)",
        "bash -c 'git commit --allow-empty -m x'",
        f"git -C {repo.repo} commit --allow-empty -m x",
        "sed -i s/a/b/ a.py",
    ]
    flags = ("--allowedTools", "Bash")
    model = claude(repo, *map(bash, [*lines, "git status"]), flags=flags)
    *denied, status = model.results()
    assert all("holds no task" in result for result in denied), denied
    assert "holds no task" not in status
    done = run(["git", "rev-list", "--count", "HEAD"], cwd=repo.repo, check=True)
    assert done.stdout.strip() == "1"
