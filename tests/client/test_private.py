"""State, stamp, lock and cache belong to this user, also in folders that others may write to."""

import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest
from tests.client.conftest import Make, Sandbox
from tests.client.test_family import beaten
from tests.client.test_hooks import edit
from tests.client.test_trust import PLANTED
from tests.harness import processes
from tests.harness.processes import until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX users")
as_root = pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can chown")
OTHER = 12345
LOCAL = {"CLAUDE_CODE_SESSION_ID": "5f0e"}


@pytest.fixture
def ann(sandbox: Make) -> Sandbox:
    """Return a machine whose state folder is world-writable, as /tmp is."""
    ann = sandbox(**LOCAL)
    shared = ann.folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    ann.env["XDG_STATE_HOME"] = str(shared)
    return ann


KEPT = [".json", ".stamp", ".lock", "family.list", "family.stamp"]


def files(ann: Sandbox) -> dict[str, Path]:
    """Make a claim; return the client's files by suffix."""
    ann.dibs("claim", "T-1").said(0)
    kept = [path for path in (ann.folder / "shared/dibs").rglob("*") if path.is_file()]
    of_all = {path: "family" if path.parent.name == "sessions" else "" for path in kept}
    return {of_all[path] + path.suffixes[-1]: path for path in kept}


def test_what_is_kept_is_for_its_owner_only(ann: Sandbox) -> None:
    umask = os.umask(0)
    try:
        kept = files(ann)
    finally:
        os.umask(umask)
    assert kept.keys() == {*KEPT}
    for path in kept.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folders = [path for path in (ann.folder / "shared").rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


@pytest.mark.parametrize("suffix", KEPT)
def test_a_link_that_was_planted_is_not_written_through(ann: Sandbox, suffix: str) -> None:
    path = files(ann)[suffix]
    target = ann.folder / "target"
    target.write_text("mine")
    path.unlink()
    path.symlink_to(target)
    for words in ("claim T-1", "beat", "park"):
        ann.dibs(*words.split())
    ann.hook("PostToolUse")
    assert target.read_text() == "mine"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_folder_that_is_a_link_is_not_written_to(ann: Sandbox, depth: int) -> None:
    folder = files(ann)[".json"].parents[2 - depth]
    away = ann.folder / "away"
    folder.rename(away)
    before = {path: path.stat().st_mtime_ns for path in away.rglob("*")}
    folder.symlink_to(away)
    answer = ann.dibs("claim", "T-2").said(0)
    assert f"could not be saved ({folder}: it is a link" in answer.stderr
    ann.hook("PostToolUse")
    assert {path: path.stat().st_mtime_ns for path in away.rglob("*")} == before


@as_root
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_folder_of_another_user_is_not_written_to(ann: Sandbox, depth: int) -> None:
    folder = files(ann)[".json"].parents[2 - depth]
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    os.chown(folder, OTHER, OTHER)
    answer = ann.dibs("claim", "T-2").said(2)
    assert str(folder) in answer.stderr
    assert "XDG_STATE_HOME" in answer.stderr
    assert list(folder.iterdir()) == []
    ann.hook("PostToolUse")


@as_root
def test_a_state_file_of_another_user_is_refused(ann: Sandbox) -> None:
    os.chown(files(ann)[".json"], OTHER, OTHER)
    assert "another user" in ann.dibs("claim", "T-1").said(2).stderr


@as_root
@pytest.mark.parametrize("suffix", KEPT[1:])
def test_another_users_file_beside_it_fails_no_claim(ann: Sandbox, suffix: str) -> None:
    os.chown(files(ann)[suffix], OTHER, OTHER)
    fence = ann.dibs("show", "T-1", "--json").said(0).json["fence"]
    assert ann.dibs("claim", "T-1", "--json").said(0).json["fence"] == fence


@as_root
def test_no_stamp_of_another_user_opens_the_gate(ann: Sandbox) -> None:
    stamp = files(ann)[".stamp"]
    ann.dibs("release", "T-1").said(0)
    ann.env["DIBS_GATE"] = "block"
    stamp.write_text("9e9 9e9 9e9")
    assert edit(ann) == {}, "a stamp of our own opens the gate"
    os.chown(stamp, OTHER, OTHER)
    assert edit(ann)["permissionDecision"] == "deny"


@as_root
def test_no_stamp_of_another_user_holds_a_beat_back(ann: Sandbox) -> None:
    stamp, made = files(ann)["family.stamp"], beaten(ann, "T-1")
    stamp.write_text(f"{time.time() + 60} 9e9 9e9")

    def is_later() -> bool:
        return bool(ann.dibs("list", "--json").said(0).json["server_time"] > made)

    until(is_later, "the claim is a second old")
    ann.hook("PostToolUse")
    assert beaten(ann, "T-1") == made, "a stamp of our own delays the heartbeat"
    os.chown(stamp, OTHER, OTHER)
    ann.hook("PostToolUse")
    assert beaten(ann, "T-1") > made


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_state_file_that_others_can_read_or_write_is_refused(ann: Sandbox, mode: int) -> None:
    path = files(ann)[".json"]
    path.chmod(mode)
    said = ann.dibs("claim", "T-1").said(2).stderr
    assert f"chmod 600 {path}" in said
    path.chmod(0o600)
    ann.dibs("claim", "T-1").said(0)


def test_a_folder_that_others_could_write_to_is_closed_to_them(ann: Sandbox) -> None:
    for folder in files(ann)[".json"].parents[:3]:
        folder.chmod(0o777)
    ann.dibs("claim", "T-1").said(0)
    for folder in files(ann)[".json"].parents[:3]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


# The compiled client


@pytest.fixture
def cached(ann: Sandbox) -> Sandbox:
    """Return a repository with the command and a world-writable cache folder."""
    ann.dibs("init").said(0)
    ann.script = ann.repo / ".claude/skills/dibs/dibs"
    shared = ann.folder / "cache"
    shared.mkdir()
    shared.chmod(0o1777)
    ann.env["XDG_CACHE_HOME"] = str(shared)
    return ann


def compiled(ann: Sandbox) -> Path:
    """Return the file that Python compiled the client to."""
    ann.dibs("list").said(0)
    [path] = (ann.folder / "cache").rglob("dibs.*.pyc")
    return path


def plant(path: Path, mark: Path, source: Path) -> None:
    """Put compiled code at `path` that Python accepts as the client's."""
    script = path.with_name("planted.py")
    script.write_text(PLANTED.format(mark=str(mark)))
    code = "import importlib.util, marshal, os, struct, sys; s, to, of = sys.argv[1:]; "
    code += "c = compile(open(s).read(), of, 'exec'); t = os.stat(of); "
    code += "h = struct.pack('<III', 0, int(t.st_mtime), t.st_size); "
    code += "open(to, 'wb').write(importlib.util.MAGIC_NUMBER + h + marshal.dumps(c))"
    processes.run([python(), "-c", code, str(script), str(path), str(source)], check=True)


def python() -> str:
    """Return the Python that the command finds."""
    found = processes.run(["sh", "-c", "command -v python3"], check=True).stdout.strip()
    return found or sys.executable


def test_the_compiled_client_is_kept_for_its_owner_only(cached: Sandbox) -> None:
    umask = os.umask(0)
    try:
        path = compiled(cached)
    finally:
        os.umask(umask)
    top = cached.folder / "cache" / path.relative_to(cached.folder / "cache").parts[0]
    assert stat.S_IMODE(top.stat().st_mode) == 0o700


def test_planted_code_would_run_if_it_were_ours(cached: Sandbox) -> None:
    path, mark = compiled(cached), cached.folder / "mark"
    plant(path, mark, cached.script.with_name("dibs.py"))
    assert cached.dibs("list").returncode == 99
    assert mark.exists()


@pytest.mark.parametrize("how", ["open to others", "a link"])
def test_compiled_code_in_a_folder_that_others_may_write_to_is_not_run(
    cached: Sandbox, how: str
) -> None:
    path, mark = compiled(cached), cached.folder / "mark"
    top = cached.folder / "cache" / path.relative_to(cached.folder / "cache").parts[0]
    plant(path, mark, cached.script.with_name("dibs.py"))
    if how == "a link":
        top.rename(cached.folder / "theirs")
        top.symlink_to(cached.folder / "theirs")
    else:
        top.chmod(0o777)
    cached.dibs("list").said(0)
    assert not mark.exists()


@as_root
def test_compiled_code_of_another_user_is_not_run(cached: Sandbox) -> None:
    path, mark = compiled(cached), cached.folder / "mark"
    top = cached.folder / "cache" / path.relative_to(cached.folder / "cache").parts[0]
    plant(path, mark, cached.script.with_name("dibs.py"))
    for part in (top, *top.rglob("*")):
        os.chown(part, OTHER, OTHER)
    cached.dibs("list").said(0)
    assert not mark.exists()


def test_compiled_code_that_a_checkout_brings_is_not_run(cached: Sandbox) -> None:
    path, mark = compiled(cached), cached.folder / "mark"
    brought = cached.script.parent / "__pycache__" / path.name
    brought.parent.mkdir()
    plant(brought, mark, cached.script.with_name("dibs.py"))
    cached.dibs("list").said(0)
    cached.dibs("list", XDG_CACHE_HOME="/proc/none").said(0)
    assert not mark.exists()


def test_the_state_file_is_whole_after_every_command(ann: Sandbox) -> None:
    path = files(ann)[".json"]
    ann.dibs("park").said(0)
    assert json.loads(path.read_text())["claims"]["T-1"]["parked"] is True
    assert not list(path.parent.glob("*.new"))
