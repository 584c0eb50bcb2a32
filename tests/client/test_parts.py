"""dibs.py and its parts, hook.py and install.py, in each way of installation."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.client.conftest import CLIENT, Make, Sandbox
from tests.client.test_install import contents, fresh, init, installed
from tests.harness import processes
from tests.harness.services import ServiceProcess

__all__ = ["fresh"]
PARTS = tuple(sorted((path.name for path in CLIENT.parent.glob("*.py")), key="dibs.py".__ne__))
START = json.dumps({"hook_event_name": "SessionStart", "source": "startup"})
OURS = ".claude/skills/dibs"
PACKAGE = "import sys; from dibs.cli import main; sys.exit(main(sys.argv[1:]))"
EXECUTED = """
import sys
path = sys.argv.pop(1)
exec(open(path).read(), {"__name__": "__main__", "__file__": path})
"""


class Way:
    """One way of installing the client on a machine, and the command that runs it there."""

    def __init__(self, ann: Sandbox, command: list[str], stdin: str = "") -> None:
        self.ann, self.command, self.stdin = ann, command, stdin

    def __call__(self, *words: str, stdin: str = "") -> str:
        """Run a command, assert success, and return its stdout."""
        done = processes.run(
            [*self.command, *words], cwd=self.ann.repo, env=self.ann.env, input=self.stdin or stdin
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        return done.stdout


def fetched(ann: Sandbox, service: ServiceProcess, *names: str) -> Path:
    """Download files from the service into a new folder; return the path of dibs.py."""
    folder = ann.folder / "fetched"
    folder.mkdir()
    url = f"{service.url}/client/{{{','.join(names)}}}"
    processes.run(["curl", "-fsSL", url, "-o", str(folder / "#1")], check=True)
    return folder / "dibs.py"


def lies(ann: Sandbox, service: ServiceProcess, how: str) -> Way:
    """Install the client in one of the ways."""
    ann.env["DIBS_PROJECT"] = ann.project
    if how.startswith("installed"):
        ann.script = fetched(ann, service, "dibs.py")
        init(ann)
        folder = ann.repo / OURS
        sh = ["sh", str(folder / "dibs")]
        return Way(ann, sh if how == "installed" else [sys.executable, str(folder / "dibs.py")])
    if how in ("package", "checkout"):
        ann.env["DIBS_URL"] = service.url
        return Way(
            ann, [sys.executable, *([str(CLIENT)] if how == "checkout" else ["-c", PACKAGE])]
        )
    path = str(fetched(ann, service, *(PARTS if "with" in how else PARTS[:1])))
    if how == "from a pipe":
        return Way(ann, [sys.executable, "-"], stdin=Path(path).read_text())
    return Way(ann, [sys.executable, *(["-c", EXECUTED] if how == "executed" else []), path])


ALONE = ("alone", "from a pipe", "executed")
WHOLE = ("with its parts", "installed", "installed, without sh", "package", "checkout")


@pytest.mark.parametrize("how", [*ALONE, *WHOLE])
def test_a_session_needs_dibs_py_alone(service: ServiceProcess, fresh: Sandbox, how: str) -> None:
    dibs = lies(fresh, service, how)
    assert dibs("claim", "T-1").startswith("T-1: held by you")
    assert dibs("beat", "T-1").startswith("T-1: held by you")
    assert dibs("verify", "T-1").startswith("T-1: held by you")
    assert dibs("run", "T-2", "--", "echo", "hello") == "hello\n"
    assert dibs("release", "T-1") == "T-1: free\n"
    assert not list(fresh.folder.rglob("__pycache__"))


@pytest.mark.parametrize("how", [*ALONE, *WHOLE])
def test_what_a_person_runs_works_in_each_way(
    service: ServiceProcess, fresh: Sandbox, how: str
) -> None:
    """install.py comes from the service that served dibs.py, or from the same folder."""
    dibs = lies(fresh, service, how)
    dibs("init", "--url", service.url)
    fresh.script = fresh.repo / OURS / "dibs"
    fresh.hook("SessionStart", source="startup")
    said = dibs("doctor")
    assert "hooks seen: SessionStart" in said
    assert "WRONG" not in said
    assert dibs("init", "--remove") == f"dibs is removed from {fresh.project}\n"
    assert not (fresh.repo / OURS).exists()


@pytest.mark.parametrize("how", WHOLE)
def test_a_hook_works_in_each_way_that_has_its_file(
    service: ServiceProcess, fresh: Sandbox, how: str
) -> None:
    dibs = lies(fresh, service, how)
    assert "this session holds no task" in dibs("hook", stdin=START)
    dibs("claim", "T-1")
    assert "this session holds T-1 until" in dibs("hook", stdin=START)
    dibs("hook", stdin='{"hook_event_name": "Stop"}')
    assert json.loads(dibs("show", "T-1", "--json"))["state"] == "parked"


def test_without_hook_py_one_line_says_what_to_fetch_and_that_helps(
    service: ServiceProcess, fresh: Sandbox
) -> None:
    dibs = lies(fresh, service, "alone")
    said = dibs("hook", stdin=START)
    assert said.startswith("dibs: hook.py of this dibs.py is missing from its folder: curl ")
    assert said.count("\n") == 1
    assert dibs("hook", stdin='{"hook_event_name": "Stop"}') == ""  # said once a session
    processes.run(["sh", "-euc", said.split("its folder: ")[1]], env=fresh.env, check=True)
    assert "this session holds no task" in dibs("hook", stdin=START)


def test_without_install_py_and_its_service_one_line_says_so(
    service: ServiceProcess, fresh: Sandbox
) -> None:
    fresh.script = fetched(fresh, service, "dibs.py")
    text = fresh.script.read_text().replace(service.url, "http://127.0.0.1:1")
    fresh.script.write_text(text)
    said = fresh.dibs("doctor", DIBS_URL=service.url).said(3).stderr
    assert said == "dibs: 127.0.0.1 was not reached: Connection refused\n"


@pytest.mark.parametrize("words", ["doctor", "init"])
def test_a_copy_without_its_parts_says_in_one_line_what_to_do(
    service: ServiceProcess, sandbox: Make, words: str
) -> None:
    ann = sandbox()
    ann.script = Path(shutil.copy(CLIENT, ann.folder / "dibs.py"))
    said = ann.dibs(words).said(2).stderr
    assert said.count("\n") == 1
    assert f"curl -fsSL {service.url}/client/dibs.py -o dibs.py" in said
    ann.dibs("claim", "T-1").said(0)


# The files that the previous version's init wrote: the same ones without hook.py, each older.
BEFORE = {
    f"{OURS}/SKILL.md": "---\nname: dibs\n---\nOLD-TEXT\n",
    f"{OURS}/dibs": "#!/bin/sh\n# OLD-TEXT\n",
    f"{OURS}/dibs.py": "raise SystemExit('OLD-TEXT')\n",
    f"{OURS}/install.py": 'client = globals()["client"]  # OLD-TEXT\n',
}
PIECES: dict[str, list[list[Any]]] = {
    ".claude/settings.json": [
        [[], '\n  "hooks": {\n    "Stop": [\n      "OLD-TEXT"\n    ]\n  },'],
        [["permissions", "allow"], '\n      "Bash(sh .claude/skills/dibs/dibs claim *)",'],
    ],
    "CLAUDE.md": [[None, "\n<!-- dibs:begin -->\nOLD-TEXT\n<!-- dibs:end -->\n"]],
}
OWN = {
    ".claude/settings.json": '{\n  "permissions": {\n    "allow": [\n      "x"\n    ]\n  }\n}\n',
    "CLAUDE.md": "# Mine\n",
}


def laid_before(ann: Sandbox, service: ServiceProcess, files: list[str]) -> None:
    """Return a repository initialized by the previous version; `files` existed before."""
    texts = dict(BEFORE)
    texts[f"{OURS}/dibs.conf"] = f"url = {service.url}\nproject = {ann.project}\ngate = block\n"
    undo = {}
    for path in PIECES:
        has = path in files
        pieces, text = PIECES[path], OWN[path] if has else ""
        if path == "CLAUDE.md":
            pieces = [[None, pieces[0][1] if has else pieces[0][1].lstrip()]]
            text += str(pieces[0][1])
        else:
            pieces = pieces if has else [[[], str(pieces[0][1]).rstrip(",") + "\n"]]
            text = text or "{}\n"
            for place, piece in pieces:
                mark = '"allow": [' if place else "{"
                start = text.index(mark) + len(mark)
                text = text[:start] + str(piece) + text[start:]
        undo[path] = {"is_new": not has, "pieces": pieces}
        texts[path] = text
    texts[f"{OURS}/undo.json"] = json.dumps(undo, indent=1) + "\n"
    for path, text in texts.items():
        (ann.repo / path).parent.mkdir(parents=True, exist_ok=True)
        (ann.repo / path).write_text(text)
    json.loads((ann.repo / ".claude/settings.json").read_text())


@pytest.mark.parametrize("own", [[], list(OWN)], ids=["nothing of its own", "files of its own"])
def test_a_repository_of_the_version_before_is_upgraded_and_cleaned(
    service: ServiceProcess, fresh: Sandbox, own: list[str]
) -> None:
    laid_before(fresh, service, own)
    init(fresh)
    assert {path.name for path in (fresh.repo / OURS).iterdir()} == {
        *("SKILL.md", "dibs", "dibs.conf", "undo.json"), *PARTS
    }  # fmt: skip
    assert b"OLD-TEXT" not in b"".join(contents(fresh).values())
    assert "gate = block" in (fresh.repo / OURS / "dibs.conf").read_text()
    installed(fresh)
    fresh.dibs("claim", "T-1").said(0)
    assert "holds T-1" in fresh.dibs("hook", stdin=START).stdout
    assert "nothing to change" in init(fresh).stdout
    init(fresh, "--remove")
    assert contents(fresh) == only(fresh, own)


@pytest.mark.parametrize("own", [[], list(OWN)], ids=["nothing of its own", "files of its own"])
def test_a_repository_of_the_version_before_is_cleaned_as_it_is(
    service: ServiceProcess, fresh: Sandbox, own: list[str]
) -> None:
    laid_before(fresh, service, own)
    init(fresh, "--remove")
    assert contents(fresh) == only(fresh, own)


def only(ann: Sandbox, own: list[str]) -> dict[str, bytes]:
    """Return the repository's contents without those of dibs."""
    left = {path: OWN[path].encode() for path in own}
    return left | ({".claude": b""} if left else {})


def test_an_init_of_the_version_before_says_that_it_has_to_run_again(
    service: ServiceProcess, fresh: Sandbox
) -> None:
    """It fetches the files it knows from the newer service, and hook.py is not among them."""
    init(fresh)
    installed(fresh)
    (fresh.script.parent / "hook.py").unlink()
    line = "dibs: .claude/skills/dibs lacks the hook.py of its dibs.py: run `sh .claude/skills/dibs"
    claim = fresh.dibs("claim", "T-1").said(0)
    assert (claim.stderr.count("\n"), claim.stderr.startswith(line)) == (1, True)
    assert fresh.dibs("hook", stdin=START).stdout.startswith(line)
    assert "WRONG  .claude/skills/dibs lacks the hook.py" in fresh.dibs("doctor").said(2).stdout
    init(fresh)
    assert fresh.dibs("claim", "T-1").said(0).stderr == ""
    assert "holds T-1" in fresh.dibs("hook", stdin=START).stdout


def test_a_client_of_before_that_runs_the_new_install_py_says_what_to_do(fresh: Sandbox) -> None:
    code = f"exec(open({str(CLIENT.with_name('install.py'))!r}).read(), {{'client': None}})"
    done = processes.run([sys.executable, "-c", code], env=fresh.env)
    assert done.returncode == 2
    assert done.stderr.startswith("dibs: this dibs.py is older than its service")
    assert done.stderr.count("\n") == 1
