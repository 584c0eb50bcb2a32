"""The Dockerfile, run without a container engine: each step as the plain command that it is.

The build stage's steps run in an empty directory, whose paths replace /src, /opt and /data. The
resulting service starts, and its health check passes.
"""

import fnmatch
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.harness import processes
from tests.harness.needs import lacking
from tests.harness.processes import clean_environ, until
from tests.harness.services import new_session

ROOT = Path(__file__).parents[2]


@dataclass
class ImageStep:
    word: str
    rest: str
    stage: int


def steps() -> list[ImageStep]:
    """Return the Dockerfile's instructions, with continued lines joined."""
    found, stage = [], -1
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            stage += word == "FROM"
            found.append(ImageStep(word, rest.strip(), stage))
    return found


def only(word: str) -> str:
    return [step.rest for step in steps() if step.word == word and step.stage == 1][-1]


def context(into: Path) -> Path:
    """Copy the build context: the repository without the files that .dockerignore excludes."""
    kept = [line[1:] for line in ignored() if line.startswith("!")]
    for name in kept:
        source, target = ROOT / name, into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy(source, target)
    return into


def ignored() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def copy(sources: list[Path], target: Path) -> None:
    """Do what COPY does."""
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the build stage in an empty directory; return it, the image's /."""
    root = tmp_path_factory.mktemp("image")
    sent = context(root / "context")
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ |= {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "PYENV_", "SSL_"))}
    folder = root
    for step in steps():
        if step.stage != 0:
            continue
        rest = re.sub(r"(^|[ =])/(opt|src)\b", rf"\1{root}/\2", step.rest)
        if step.word == "WORKDIR":
            folder = Path(rest)
            folder.mkdir(parents=True)
        elif step.word == "ENV":
            environ |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif step.word == "COPY":
            *sources, target = rest.split()
            copy([sent / source for source in sources], folder / target)
        elif step.word == "RUN":
            command = re.sub(r"^python ", f"{sys.executable} ", rest)
            done = processes.run(command, shell=True, cwd=folder, env=environ, timeout=300)
            if "pip" in rest and re.search("NewConnectionError|No matching dist", done.stderr):
                lacking(f"no package registry can be reached: {rest}: {done.stderr[-500:]}")
            assert done.returncode == 0, f"{rest}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        else:
            assert step.word in ("FROM", "ARG"), step
    return root


@pytest.fixture
def container(
    built: Path, tmp_path: Path
) -> Iterator[tuple["subprocess.Popen[str]", dict[str, str]]]:
    """Start the image's command in its environment, with the volume in another place."""
    pairs = shlex.split(only("ENV").replace("$PATH", os.environ["PATH"]))
    environ = dict(pair.split("=", 1) for pair in pairs)
    environ["PATH"] = environ["PATH"].replace("/opt/", f"{built}/opt/")
    environ |= {"DIBS_HOST": "127.0.0.1", "DIBS_DATA_DIR": str(tmp_path / "data/dibs")}
    environ |= {"DIBS_PORT": str(_free_port()), "HOME": "/nonexistent"}
    entry = json.loads(only("ENTRYPOINT")) + json.loads(only("CMD"))
    assert entry == ["python", "/opt/dibs/enter.py", "serve"]
    # Only root needs enter.py; the command runs here as the image's user.
    process = processes.start(
        [f"{built}/opt/dibs/bin/dibs", *entry[2:]],
        env=environ,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process, environ
    finally:
        print(processes.end(process)[1])  # pytest shows it if a test fails


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.long
def test_the_steps_of_the_image_make_a_service_that_is_well(
    built: Path, container: tuple["subprocess.Popen[str]", dict[str, str]]
) -> None:
    process, environ = container
    check = json.loads(only("HEALTHCHECK").split(" CMD ")[1])
    check[0] = f"{built}/opt/dibs/bin/{check[0]}"

    def well() -> bool:
        assert process.poll() is None, "the service ended"
        run = processes.run(check, env=environ, timeout=10)
        return run.returncode == 0

    until(well, "the health check passes")
    connection = http.client.HTTPConnection("127.0.0.1", int(environ["DIBS_PORT"]), timeout=5)
    body = json.dumps({"task": "T-1"})
    headers = {"Content-Type": "application/json", "Dibs-Session": new_session()}
    connection.request("POST", "/v1/p/claim", body, headers)
    granted = connection.getresponse()
    assert (granted.status, json.loads(granted.read())["fence"] > 0) == (201, True)
    connection.request("GET", "/client/dibs.py")
    assert b"dibs" in connection.getresponse().read(), "the client is in the image"
    connection.close()
    began = time.monotonic()
    process.terminate()
    assert process.wait(10) == 0
    assert time.monotonic() - began < 2
    assert processes.run(check, env=environ, timeout=10).returncode != 0


@pytest.mark.long
def test_nothing_is_written_outside_the_volume(
    built: Path, container: tuple["subprocess.Popen[str]", dict[str, str]]
) -> None:
    """Thus the root file system may be read-only."""
    process, environ = container
    before = {path: path.stat().st_mtime_ns for path in (built / "opt/dibs").rglob("*")}
    assert process.stdout
    assert " is at " in process.stdout.readline()
    written = set()
    for pid in [process.pid, *_children(process.pid)]:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(link)
                facts = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split("\n")
            except FileNotFoundError:  # closed since the listing
                continue
            flags = int(facts[1][6:], 8)
            if target.startswith("/") and flags & os.O_ACCMODE != os.O_RDONLY:
                written.add(target)
    volume = environ["DIBS_DATA_DIR"]
    outside = {f for f in written if not f.startswith((volume, "/dev/", "/memfd:"))}
    assert outside == set()
    assert before == {path: path.stat().st_mtime_ns for path in (built / "opt/dibs").rglob("*")}


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.mark.long
def test_the_image_has_no_tool_to_install_more(built: Path) -> None:
    assert not list((built / "opt/dibs/bin").glob("pip*"))
    packages = {path.name.split("-")[0] for path in built.glob("opt/dibs/lib/*/*/*.dist-info")}
    assert "dibs" in packages
    assert not packages & {"pip", "hatchling", "pytest", "mypy", "ruff", "hypothesis", "playwright"}
    assert not packages & {"faker", "polyfactory", "rich", "rich_click", "httpx", "certifi"}


@pytest.mark.long
def test_the_same_sources_make_the_same_wheel(built: Path) -> None:
    first = next((built / "src/dist").glob("*.whl"))
    step = next(step.rest for step in steps() if "pip wheel" in step.rest)
    # The image has no build backend any more; the tests' environment has the same version.
    step = step.replace("/opt/dibs/bin/python", sys.executable).replace("-w dist", "-w again")
    processes.run(step, shell=True, cwd=built / "src", check=True)
    assert first.read_bytes() == (built / "src/again" / first.name).read_bytes()


def test_every_package_of_the_image_is_pinned_by_hash() -> None:
    pinned = {}
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text()
        blocks = re.findall(
            r"^([A-Za-z0-9_.-]+)==(\S+)[^\n]*((?:\n    --hash=sha256:[0-9a-f]{64}[^\n]*)*)",
            text,
            re.M,
        )
        assert len(blocks) == len(re.findall(r"^[A-Za-z0-9]", text, re.M)), name
        assert all(hashes for _, _, hashes in blocks), name
        pinned[name] = {package: (version, hashes) for package, version, hashes in blocks}
    development = pinned["requirements-dev.txt"]
    for package, (version, _) in pinned["requirements.txt"].items():
        assert development[package][0] == version, package
    for step in steps():
        if "pip install" in step.rest:
            assert "--require-hashes" in step.rest or "--no-index" in step.rest, step


@pytest.mark.long
def test_the_bill_of_materials_names_every_package_of_the_image_with_its_hashes(
    built: Path,
) -> None:
    made = processes.run(
        [sys.executable, str(ROOT / "docs/ops/sbom.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    bill = json.loads(made.stdout)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    named = {part["name"].lower().replace("-", "_"): part for part in bill["components"]}
    there = {path.name.split("-")[0] for path in built.glob("opt/dibs/lib/*/*/*.dist-info")}
    assert {name.lower() for name in there} - {"dibs"} <= set(named)
    assert all(part["hashes"] and part["purl"] for part in named.values())


def test_the_image_runs_as_nobody_and_copies_only_what_it_needs() -> None:
    assert only("USER") == "${RUN_AS}"
    assert "ARG RUN_AS=10001:10001" in (ROOT / "Dockerfile").read_text()
    assert json.loads(only("VOLUME")) == ["/data"]
    lines = ignored()
    assert lines[0] == "*", ".dockerignore excludes everything it does not name"
    named = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source.rstrip("/").removeprefix("./")
        for step in steps()
        if step.word == "COPY" and "--from" not in step.rest
        for source in step.rest.split()[:-1]
    }
    assert copied == named
    for secret in (".git", ".env", ".venv", "tests", ".dibs", "docs/deploy.md"):
        assert not any(fnmatch.fnmatch(secret, pattern) for pattern in named)


def test_the_linter_of_dockerfiles_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint") or shutil.which(
        "hadolint", path=str(Path(sys.executable).parent)
    )
    if not hadolint:
        lacking("hadolint is not installed (it is in requirements-dev.txt)")
    run = processes.run([hadolint, str(ROOT / "Dockerfile")])
    assert (run.returncode, run.stdout) == (0, "")


def test_fly_has_one_machine_that_never_sleeps() -> None:
    fly = tomllib.loads((ROOT / "fly.toml").read_text())
    service = fly["http_service"]
    assert service["auto_stop_machines"] == "off"
    assert service["min_machines_running"] == 1
    assert service["force_https"] is True
    assert [check["path"] for check in service["checks"]] == ["/readyz"]
    assert fly["metrics"] == {"port": service["internal_port"], "path": "/metrics"}
    pairs = dict(pair.split("=", 1) for pair in shlex.split(only("ENV")))
    assert int(pairs["DIBS_PORT"]) == service["internal_port"]
    mount = fly["mounts"][0]["destination"]
    assert json.loads(only("VOLUME")) == [mount]
    assert Path(pairs["DIBS_DATA_DIR"]).is_relative_to(mount)
    assert not any("KEY" in name for name in fly["env"]), "keys belong in secrets, not in a file"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Yield a folder that other users can reach."""
    folder = Path(tempfile.mkdtemp(prefix="dibs-enter-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_the_entry_gives_the_volume_away_and_then_drops_root(open_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can chown")
    tmp_path = open_folder
    (tmp_path / "bin").mkdir()
    told = tmp_path / "bin/dibs"
    told.write_text('#!/bin/sh\nid -u; id -g; id -G; echo "$@"; ls -ldn "$DIBS_DATA_DIR"\n')
    told.chmod(0o755)
    data = tmp_path / "volume/dibs"
    run = processes.run(
        [sys.executable, str(ROOT / "docs/ops/enter.py"), "serve", "--port", "1"],
        env=clean_environ({"PATH": f"{told.parent}:/bin:/usr/bin", "DIBS_DATA_DIR": str(data)}),
    )
    assert run.returncode == 0, run.stderr
    uid, gid, groups, arguments, listed = run.stdout.splitlines()
    assert (uid, gid, groups) == ("10001", "10001", "10001")
    assert arguments == "serve --port 1"
    assert listed.split()[0].startswith("drwx------")
    assert listed.split()[2:4] == ["10001", "10001"]
