"""The client runs, follows and writes to no file that it merely finds."""

import contextlib
import hashlib
import html
import http.server
import os
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.conftest import CLIENT, Make, Sandbox
from tests.client.test_install import contents, init, installed
from tests.harness import processes
from tests.harness.services import ServiceProcess

ROOT = CLIENT.parents[1]
PARTS = sorted(path.name for path in CLIENT.parent.glob("*.py"))
# Leaves a mark when it runs: as a module, by exec, or as a script.
START = '{"hook_event_name": "SessionStart", "source": "startup"}'
PLANTED = "import pathlib\npathlib.Path({mark!r}).touch()\nraise SystemExit(99)\n"


@pytest.fixture
def ann(service: ServiceProcess, sandbox: Make) -> Sandbox:
    """Return a repository, and the client as the service serves it."""
    ann = sandbox("", DIBS_PROJECT="", DIBS_LABEL="ann")
    ann.script = ann.folder / "dibs.py"
    urllib.request.urlretrieve(f"{service.url}/client/dibs.py", ann.script)
    return ann


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Return the path of the file that planted code creates when it runs."""
    return tmp_path / "it ran"


def planted(mark: Path, *paths: Path) -> None:
    """Write code to `paths` that leaves the mark when it runs."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PLANTED.format(mark=str(mark)))


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Run a stranger's host; yield its URL and the heads of the requests that it received."""
    heard: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(f"{self.requestline}\n{self.headers}")
            body = files.get(self.path, b'{"claims": [], "state": "free"}')
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", heard
        server.shutdown()
        thread.join(5)


def evil(mark: Path) -> dict[str, bytes]:
    """Return the files of a host that wants its code to run."""
    code = PLANTED.format(mark=str(mark)).encode()
    names = ("/skill/install.py", "/client/install.py", "/client/hook.py", "/client/dibs.py")
    return dict.fromkeys(names, code)


def conf(ann: Sandbox, url: str) -> Path:
    """Write a dibs.conf that names a service into the checkout."""
    path = ann.repo / ".claude/skills/dibs/dibs.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"url = {url}\nproject = acme.shop\n")
    return path


# What the client runs


@pytest.mark.parametrize("words", ["init", "doctor", "init --remove", "hook"])
@pytest.mark.parametrize("place", ["beside", "skill"])
def test_an_install_py_or_hook_py_that_lies_about_is_not_run(
    ann: Sandbox, mark: Path, words: str, place: str
) -> None:
    beside = {"beside": ann.script.parent, "skill": ann.script.parent.parent / "skill"}[place]
    planted(mark, beside / "install.py", beside / "hook.py")
    ann.dibs(*words.split(), stdin=START).said(0)
    assert not mark.exists()


@pytest.mark.parametrize(
    "module", ["json", "socket", "types", "getopt", "binascii", "difflib", "re"]
)
@pytest.mark.parametrize("words", ["list", "init"])
def test_a_module_that_lies_about_is_not_imported(
    ann: Sandbox, mark: Path, module: str, words: str
) -> None:
    planted(mark, ann.script.parent / f"{module}.py", ann.repo / f"{module}.py")
    ann.dibs(words).said(0)
    assert not mark.exists()


def test_a_host_that_only_the_checkout_names_runs_and_writes_nothing(
    ann: Sandbox, service: ServiceProcess, mark: Path
) -> None:
    with serving(evil(mark)) as (url, heard):
        conf(ann, url)
        ann.dibs("doctor")
        init(ann)
        assert not mark.exists()
        assert not [head for head in heard if ".py" in head]
    assert f"url = {service.url}" in (ann.repo / ".claude/skills/dibs/dibs.conf").read_text()


def test_a_client_that_no_service_served_asks_which_before_it_writes(
    ann: Sandbox, mark: Path
) -> None:
    ann.script = CLIENT
    with serving(evil(mark)) as (url, heard):
        conf(ann, url)
        before = contents(ann)
        assert "--url" in ann.dibs("init").said(2).stderr
        assert (contents(ann), heard, mark.exists()) == (before, [], False)


def test_an_install_py_of_another_making_is_not_run_from_the_named_host_either(
    ann: Sandbox, mark: Path
) -> None:
    with serving(evil(mark)) as (url, _):
        text = ann.script.read_text()
        ann.script.write_text(re.sub(r'SERVED_FROM = ".*"', f'SERVED_FROM = "{url}"', text))
        said = ann.dibs("doctor").said(2).stderr
    assert "install.py" in said
    assert f"{url}/client/dibs.py" in said
    assert not mark.exists()


def test_a_changed_install_py_in_the_installed_place_is_not_run(ann: Sandbox, mark: Path) -> None:
    init(ann)
    installed(ann)
    planted(mark, ann.script.parent / "install.py")
    ann.dibs("doctor").said(1)
    assert not mark.exists()


def test_a_changed_hook_py_in_the_installed_place_is_told_by_doctor(ann: Sandbox) -> None:
    init(ann)
    installed(ann)
    hook = ann.script.parent / "hook.py"
    hook.write_text(hook.read_text() + "\n")
    assert "WRONG  .claude/skills/dibs lacks the hook.py" in ann.dibs("doctor").said(2).stdout


def test_a_checkout_with_windows_line_ends_is_still_ours(ann: Sandbox) -> None:
    init(ann)
    installed(ann)
    beside = ann.script.parent / "install.py"
    beside.write_bytes(beside.read_bytes().replace(b"\n", b"\r\n"))
    ann.dibs("init", "--remove", DIBS_URL="http://127.0.0.1:1").said(0)


def served(service: ServiceProcess, name: str) -> bytes:
    """Return a file as the service serves it."""
    with urllib.request.urlopen(f"{service.url}/{name}") as reply:
        return bytes(reply.read())


@pytest.mark.parametrize("part", ["hook", "install"])
def test_the_served_client_knows_the_parts_that_are_served(
    service: ServiceProcess, part: str
) -> None:
    digest = hashlib.sha256(served(service, f"client/{part}.py")).hexdigest()
    assert f'"{part}": "{digest}"'.encode() in served(service, "client/dibs.py")


def test_clients_of_before_find_install_py_where_it_was(service: ServiceProcess) -> None:
    assert served(service, "skill/install.py") == served(service, "client/install.py")


def test_a_checkouts_client_runs_the_install_py_of_its_own_tree_only(
    ann: Sandbox, service: ServiceProcess, mark: Path
) -> None:
    copy = ann.folder / "tree"
    for part in ("client", "skill"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    ann.script = copy / "client/dibs.py"
    ann.dibs("init", "--url", service.url).said(0)
    lone = ann.folder / "elsewhere/dibs.py"
    ours = (lone.with_name("install.py"), lone.with_name("hook.py"))
    planted(mark, *ours, lone.parent.parent / "skill/install.py")
    shutil.copy(ann.script, lone)
    ann.script = lone
    assert "/client/dibs.py" in ann.dibs("doctor", DIBS_URL=service.url).said(2).stderr
    assert "/client/dibs.py" in ann.dibs("hook", stdin=START, DIBS_URL=service.url).said(0).stdout
    assert not mark.exists()


@pytest.mark.parametrize("part", ["install", "hook"])
def test_a_file_of_somebody_elses_client_folder_is_not_run(
    ann: Sandbox, service: ServiceProcess, mark: Path, part: str
) -> None:
    ann.script = ann.folder / "client/dibs.py"
    planted(mark, ann.script.with_name(f"{part}.py"))
    shutil.copy(CLIENT, ann.script)
    ann.dibs("doctor", DIBS_URL=service.url).said(2)
    ann.dibs("hook", stdin=START, DIBS_URL=service.url).said(0)
    assert not mark.exists()


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can chown")
def test_an_install_py_or_hook_py_of_another_user_is_not_run(
    ann: Sandbox, service: ServiceProcess, mark: Path
) -> None:
    ann.script = ann.folder / "client/dibs.py"
    for name in ("install.py", "hook.py"):
        path = ann.script.with_name(name)
        planted(mark, path)
        path.write_text('"""dibs, for nobody."""\n' + path.read_text())
        os.chown(path, 12345, 12345)
    shutil.copy(CLIENT, ann.script)
    ann.dibs("doctor", DIBS_URL=service.url).said(2)
    ann.dibs("hook", stdin=START, DIBS_URL=service.url).said(0)
    assert not mark.exists()


def steps(service: ServiceProcess, where: str) -> str:
    """Return the commands that the README or the board tells people to run in their repository."""
    if where == "README":
        text = (ROOT / "README.md").read_text().split("## In a repository")[1]
        block = re.search(r"```sh\n(.*?)```", text, re.S)
        return block[1].replace("http://127.0.0.1:8080", service.url) if block else ""
    with urllib.request.urlopen(f"{service.url}/p/acme.nobody") as page:
        blocks = re.findall(r"<pre.*?><code>(.*?)</code>", page.read().decode(), re.S)
    return "\n".join(html.unescape(block) for block in blocks)


@pytest.mark.parametrize("where", ["README", "board"])
def test_the_printed_steps_work_beside_code_of_the_same_name(
    ann: Sandbox, service: ServiceProcess, mark: Path, where: str
) -> None:
    names = ("install.py", "hook.py", "dibs.py", "json.py", "socket.py", "skill/install.py")
    planted(mark, *(ann.repo / name for name in names))
    ann.git("add", ".")
    script = steps(service, where).replace(
        "git commit", "git -c user.name=a -c user.email=a@b commit"
    )
    tmp = ann.folder / "tmp"
    tmp.mkdir()
    env = ann.env | {"TMPDIR": str(tmp)}
    done = processes.run(["sh", "-euc", script], cwd=ann.repo, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "T-1" in done.stdout
    assert not mark.exists()
    assert list(tmp.iterdir()) == []
    assert PLANTED[:14] in (ann.repo / "install.py").read_text()
    assert (ann.repo / "dibs.py").exists()


# What the client writes to

OUTSIDE = "# mine\n"
WRITTEN = [
    "CLAUDE.md", "AGENTS.md", ".claude/settings.json",
    *(f".claude/skills/dibs/{name}"
      for name in ("SKILL.md", "dibs", *PARTS, "dibs.conf", "undo.json")),
]  # fmt: skip
FOLDERS = [".claude", ".claude/skills", ".claude/skills/dibs"]


def linked(ann: Sandbox, path: str, target: Path) -> None:
    """Replace a path of the repository by a link."""
    (ann.repo / path).parent.mkdir(parents=True, exist_ok=True)
    (ann.repo / path).symlink_to(target)


def beyond(ann: Sandbox, where: str) -> Path:
    """Return a folder outside the tracked files, with files to overwrite in it."""
    folder = {"home": ann.home / "private", "git": ann.repo / ".git/hooks"}[where]
    for name in ("file", *(Path(path).name for path in WRITTEN)):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(OUTSIDE)
    return folder


@pytest.mark.parametrize("where", ["home", "git"])
@pytest.mark.parametrize("path", WRITTEN + FOLDERS)
def test_init_writes_through_no_link_out_of_the_repository(
    ann: Sandbox, service: ServiceProcess, path: str, where: str
) -> None:
    folder = beyond(ann, where)
    linked(ann, path, folder if path in FOLDERS else folder / "file")
    before = contents(ann)
    for words in (("init",), ("init", "--remove")):
        said = ann.dibs(*words).said(2).stderr
        assert said.count("\n") == 1
        assert str(folder.resolve()) in said, "the message has the real path"
        assert path in said
    assert {
        file.read_text() for file in folder.iterdir() if file.name in ("file", "undo.json")
    } == {OUTSIDE}
    assert contents(ann) == before


def test_a_dangling_link_out_of_the_repository_makes_no_file_there(ann: Sandbox) -> None:
    linked(ann, "CLAUDE.md", ann.home / "new")
    ann.dibs("init").said(2)
    assert not (ann.home / "new").exists()


def test_a_link_inside_the_repository_is_followed_and_the_real_path_said(ann: Sandbox) -> None:
    (ann.repo / "config/claude").mkdir(parents=True)
    linked(ann, ".claude", Path("config/claude"))
    said = init(ann).stderr
    assert ".claude/settings.json -> config/claude/settings.json" in said
    assert (ann.repo / "config/claude/skills/dibs/dibs.py").is_file()
    assert (ann.repo / ".claude").is_symlink()
    installed(ann)
    init(ann, "--remove")
    assert (ann.repo / ".claude").is_symlink()
    assert not [path for path in contents(ann) if "dibs" in path or "settings" in path]


# A link created after the client's check: realpath has not seen it.
BLIND = """
import os, runpy, sys
os.path.realpath = os.path.abspath
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("path", WRITTEN + FOLDERS)
def test_a_link_that_was_put_there_after_the_look_is_not_written_through(
    ann: Sandbox, path: str
) -> None:
    folder = beyond(ann, "home")
    linked(ann, path, folder if path in FOLDERS else folder / "file")
    before = contents(ann)
    runner, *rest = ann.command("init")
    done = processes.run([runner, "-c", BLIND, *rest], cwd=ann.repo, env=ann.env)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert (folder / "file").read_text() == OUTSIDE
    assert contents(ann) == before


def test_init_keeps_the_mode_of_a_file_and_cuts_a_hard_link(ann: Sandbox) -> None:
    outside = ann.home / "notes.md"
    outside.write_text(OUTSIDE)
    outside.chmod(0o640)
    os.link(outside, ann.repo / "CLAUDE.md")
    init(ann)
    assert outside.read_text() == OUTSIDE
    assert (ann.repo / "CLAUDE.md").stat().st_mode & 0o777 == 0o640
    assert (ann.repo / ".claude/skills/dibs/dibs").stat().st_mode & 0o111


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_what_is_no_file_stops_init_in_one_line(ann: Sandbox, kind: str) -> None:
    path = ann.repo / "CLAUDE.md"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    said = ann.dibs("init").said(2).stderr
    assert "CLAUDE.md" in said
    assert said.count("\n") == 1
    assert not (ann.repo / ".claude").exists()


def test_init_leaves_no_half_written_file_where_it_may_not_write(ann: Sandbox) -> None:
    (ann.repo / "AGENTS.md").write_text(OUTSIDE)
    (ann.repo / ".claude").write_text("in the way")
    said = ann.dibs("init").said(2).stderr
    assert ".claude" in said
    assert contents(ann) == {"AGENTS.md": OUTSIDE.encode(), ".claude": b"in the way"}
