"""The commands that the gate counts as work on the repository, in any spelling, and others."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.parts import work
from tests.client.test_passing import GLUED, LINES
from tests.harness import processes


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with some files, one of them ignored, and a folder next to it."""
    folder = tmp_path_factory.mktemp("work")
    root = folder / "repo"
    for path in ("repo/src", "repo/build", "other", "repo/nested"):
        (folder / path).mkdir(parents=True)
    for where in (root, folder / "other", root / "nested"):
        processes.run(["git", "init", "-q", str(where)], check=True)
    url = "https://github.com/Acme/Shop.git"
    processes.run(["git", "-C", str(root), "remote", "add", "origin", url], check=True)
    (root / ".gitignore").write_text("build/\n*.log\nnested/\n")
    (root / "a.py").write_text("a\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    processes.run(["git", "-C", str(root), "add", "."], check=True)
    processes.run(["git", "-C", str(root), *who, "commit", "-qm", "x"], check=True)
    tree = ["worktree", "add", "-q", str(folder / "tree")]
    processes.run(["git", "-C", str(root), *tree], check=True)
    return root


def is_work(repo: Path, command: str, cwd: str = ".", **payload: Any) -> bool:
    """Return whether the gate counts the command as work."""
    where = str(repo / cwd)
    return bool(work.is_work(str(repo), {"tool_name": "Bash"} | payload, command, where))


WORK = [
    "git commit -m x",
    "git push",
    "git push origin v1.0",
    "git merge topic",
    "git rebase main",
    "git cherry-pick abc",
    "git am < x",
    "git revert HEAD",
    "git apply x.patch",
    "git add -A && git commit -m x",
    "cd src&&git commit",
    "cd src;git push",
    "bash -c 'git commit'",
    "bash -lc 'cd src && git commit -m \"a b\"'",
    "sh -ec 'git push'",
    "(git push origin main)",
    "{ git push; }",
    "git -C src commit",
    "git -C . -c user.name=x commit",
    "git -c user.name=x -c user.email=y push",
    "git --no-pager commit",
    "/usr/bin/git push",
    "\\git push",
    "'git' \"push\"",
    "gi't' push",
    "command git push",
    "env GIT_AUTHOR_NAME=x git commit",
    "env -i PATH=/bin git push",
    "X=1 git commit",
    "timeout 30 git push",
    "timeout -k 5 30s git push",
    "sudo git push",
    "sudo -u ann git push",
    "nohup git push",
    "time git push",
    "nice -n 5 git push",
    "exec git push",
    "echo x | xargs git commit -m",
    "xargs -n 1 git push < x",
    "if true; then git push; fi",
    "for b in a b; do git push origin $b; done",
    "while true; do git push; done",
    "true && ! git push",
    "x=$(git push)",
    "echo `git push`",
    'echo "$(git commit -m x)"',
    "cat <(git push)",
    "eval 'git push'",
    "bash <<'EOF'\ngit push\nEOF",
    "cat <<EOF\n$(git push)\nEOF",
    "git \\\n  push",
    "# first\ngit push # now",
    "git push 2>&1 | tail -3",
    "find . -name x -exec git commit {} \\;",
    "gh pr create --fill",
    "gh pr merge 12",
    "gh pr edit 12 --title x",
    "gh pr create -R acme/shop",
    "gh api repos/acme/shop/pulls -f title=x",
    "gh api -X PUT repos/acme/shop/contents/a.py --input x",
    "glab mr create",
    "glab mr merge 3",
    "hub pull-request",
    "hub push",
    "sed -i s/a/b/ a.py",
    "sed -i.bak -e s/a/b/ a.py",
    "sed -Ei 's/a/b/' src/*.py",
    "sed --in-place s/a/b/ a.py",
    "sed -i '' s/a/b/ a.py",
    "perl -pi -e 's/a/b/' a.py",
    "perl -i.bak -pe 's/a/b/' a.py",
    "find . -name '*.py' -exec sed -i s/a/b/ {} +",
    "awk -i inplace '{print}' a.py",
    "echo x > a.py",
    "echo x >> src/new.py",
    "echo x>|a.py",
    "cat > src/new.py <<'EOF'\nx\nEOF",
    "cmd &> src/out.txt",
    "echo x | tee a.py",
    "echo x | tee -a a.py",
    "patch -p1 < x.patch",
    "cp /tmp/x src/",
    "mv a.py b.py",
    "rm a.py",
    "rm -rf src",
    "touch src/new.py",
    "ln -s /tmp/x src/x",
    "dd if=/dev/zero of=a.py",
    "truncate -s 0 a.py",
    "cp -t src /tmp/x",
    "cd /tmp && cd - ; git -C {root} push",
    "git -C {tree} push",
    "echo x > {tree}/a.py",
    "cd build && git commit",
]  # fmt: skip
OTHER = [
    "git status",
    "git log --oneline | head",
    "git diff > /tmp/x.patch",
    "git fetch && git pull",
    "git commit --dry-run",
    "git rebase --abort",
    "git apply --check x.patch",
    "git push --help",
    "git add -A",
    "git stash",
    "echo git commit",
    "echo 'git push'",
    "grep -r 'git push' .",
    "command -v git push",
    "cat <<'EOF'\n$(git push)\nEOF",
    "bash script.sh",
    "python3 -c 'open(\"a.py\", \"w\")'",
    "make release",
    "npm test 2>&1 | tee test.log",
    "pytest > out.log 2>&1",
    "rm -rf build",
    "echo x > build/x",
    "echo x > .git/MERGE_MSG",
    "ls > /dev/null 2>&1",
    "[[ a > b ]]",
    "(( a > b ))",
    "echo $(( 2 > 1 ))",
    "sed s/a/b/ a.py",
    "sed -n 1,5p a.py",
    "sed -i s/a/b/ /tmp/x",
    "perl -ne 'print' a.py",
    "cp a.py /tmp/",
    "cp a.py ../other/",
    "cat a.py > ../other/a.py",
    "cd ../other && git commit -m x",
    "git -C ../other push",
    "(cd ../other && git push)",
    "cd nested && git push",
    "echo x > nested/a.py",
    'cd "$DIR" && git push',
    'git -C "$DIR" push',
    'echo x > "$OUT"',
    "git $VERB",
    "$CMD push",
    "gh pr view 12",
    "gh pr list",
    "gh pr create -R other/repo",
    "gh api repos/acme/shop/pulls",
    "gh api -X GET repos/acme/shop/pulls -f state=open",
    "glab mr list",
    "patch --dry-run -p1 < x",
    "find . -name x -exec grep y {} +",
    "git commit 'x",
    "",
]  # fmt: skip


def spelled(repo: Path, line: str) -> str:
    """Return the line with its placeholders replaced by paths."""
    return line.replace("{root}", str(repo)).replace("{tree}", str(repo.parent / "tree"))


@pytest.mark.parametrize("line", WORK)
def test_work_is_seen_in_any_spelling_that_a_shell_allows(repo: Path, line: str) -> None:
    assert is_work(repo, spelled(repo, line))


@pytest.mark.parametrize("line", OTHER)
def test_what_is_no_work_or_cannot_be_known_is_none(repo: Path, line: str) -> None:
    assert not is_work(repo, spelled(repo, line))


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("a.py", True), ("new/deep/b.py", True), ("../tree/a.py", True), ("../other/a.py", False),
        ("x.log", False), ("build/x", False), (".git/config", False), ("/tmp/x", False),
        ("../repo/../repo/a.py", True),
    ],
)  # fmt: skip
def test_an_edit_is_work_where_git_would_see_it(repo: Path, path: str, is_one: bool) -> None:
    for tool, field in (("Edit", "file_path"), ("NotebookEdit", "notebook_path")):
        assert is_work(repo, "", tool_name=tool, tool_input={field: str(repo / path)}) == is_one
    patch = f"*** Begin Patch\n*** Update File: {path}\n@@\n-a\n+b\n*** End Patch\n"
    assert is_work(repo, "", tool_name="apply_patch", tool_input={"command": patch}) == is_one


@settings(max_examples=300, deadline=None)
@given(line=LINES | GLUED | st.text())
def test_any_text_is_judged_without_a_failure(line: str) -> None:
    assert work.is_work("/nowhere", {"tool_name": "Bash"}, line, "/nowhere") in (
        True,
        False,
    )
