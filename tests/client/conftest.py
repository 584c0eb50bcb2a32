"""A sandbox: a repository, a home, and the client in a separate process, as agents run it."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.harness.processes import command, end, family, run, start, until
from tests.harness.services import ServiceProcess, running

# DIBS_TEST_CLIENT names a copy with a bug, when the mutants run.
CLIENT = Path(
    os.environ.get("DIBS_TEST_CLIENT") or Path(__file__).parents[2] / "client" / "dibs.py"
)
KEY = "team-key-of-these-tests"
# Every variable that tells the client who it is or which service to call; a sandbox starts without
# them.
NAMED = re.compile(r"(DIBS|CLAUDE|CODEX|CURSOR|COPILOT|XDG)_|(https?|all|no)_proxy$|.*_CA_", re.I)


class CommandAnswer(subprocess.CompletedProcess[str]):
    """The result of one command."""

    @property
    def json(self) -> Any:
        """Parse stdout as one JSON document."""
        return json.loads(self.stdout)

    def said(self, code: int) -> "CommandAnswer":
        """Assert the exit code and that no traceback was printed; return the answer."""
        assert self.returncode == code, f"exit {self.returncode}\n{self.stdout}\n{self.stderr}"
        assert "Traceback" not in self.stdout + self.stderr
        return self


class Sandbox:
    """One machine: a checkout of a repository, a home, an environment.

    Its folder is below the test's own folder, which also names the repository: no other test has a
    project of that name, whether the name comes from a setting or from the remote.
    """

    def __init__(self, folder: Path, url: str, **env: str) -> None:
        self.folder, self.repo, self.home = folder, folder / "repo", folder / "home"
        self.repo.mkdir(parents=True)
        self.home.mkdir()
        self.git("init", "-q", "-b", "main")
        self.project = f"acme.{folder.parent.name}"
        origin = f"https://github.com/Acme/{folder.parent.name.title()}.git"
        self.git("remote", "add", "origin", origin)
        inherited = {k: v for k, v in os.environ.items() if not NAMED.match(k)}
        self.env = inherited | {"HOME": str(self.home), "DIBS_URL": url} | env
        self.script = CLIENT
        self.started: list[subprocess.Popen[str]] = []

    def git(self, *args: str) -> None:
        """Run git in the repository."""
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *args]
        run(command, cwd=self.repo, check=True)

    def command(self, *args: str) -> list[str]:
        """Return the command line of a dibs command."""
        runner = sys.executable if self.script.suffix == ".py" else "sh"
        return [runner, str(self.script), *args]

    def dibs(self, *args: str, stdin: str = "", **env: str | None) -> CommandAnswer:
        """Run a dibs command and wait for it."""
        done = run(self.command(*args), cwd=self.repo, env=self.environ(env), input=stdin)
        return CommandAnswer(done.args, done.returncode, done.stdout, done.stderr)

    def start(self, *args: str, **env: str | None) -> subprocess.Popen[str]:
        """Start a dibs command in its own process group and return without waiting."""
        return self.start_as(self.command(*args), **env)

    def start_as(self, command: list[str], **env: str | None) -> subprocess.Popen[str]:
        """Start any command in the way a dibs command is started."""
        process = start(
            command,
            cwd=self.repo,
            env=self.environ(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def stop(self) -> None:
        """End the processes that a test left running, their commands, and the keepers of claims."""
        for process in self.started:
            end(process)
        # A process that was started a moment ago may not show its command line yet.
        until(lambda: all(map(command, family(os.getpid()))), "every started process has begun")
        for number in self.keepers():
            os.kill(number, signal.SIGKILL)
        until(lambda: not self.keepers(), "the keepers have ended")

    def keepers(self) -> list[int]:
        """Return the pids of the keepers that renew this machine's claims."""
        found, home = [], f"HOME={self.home}\0".encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # the process has just ended
                is_one = b"\0hook\0keep\0" in path.read_bytes()
                if is_one and home in path.with_name("environ").read_bytes():
                    found.append(int(path.parent.name))
        return found

    def is_kept(self) -> bool:
        """Return whether a keeper is at work, which its lock shows, as the client checks it."""
        locks = Path("/proc/locks").read_text("ascii").splitlines()
        locked = {line.split()[5].rpartition(":")[2] for line in locks if "->" not in line}
        return any(str(path.stat().st_ino) in locked for path in self.home.rglob("*.keeper"))

    def hook(
        self, event: str, env: Mapping[str, str | None] | None = None, **fields: Any
    ) -> CommandAnswer:
        """Run the hook as Claude Code does; assert exit code 0 and an empty stderr."""
        payload = {"session_id": "c0ffee", "hook_event_name": event, "cwd": str(self.repo)}
        where = {"CLAUDE_PROJECT_DIR": str(self.repo), **(env or {})}
        answer = self.dibs("hook", stdin=json.dumps(payload | fields), **where).said(0)
        assert answer.stderr == ""
        return answer

    def environ(self, more: Mapping[str, str | None]) -> dict[str, str]:
        """Return the environment updated with `more`; a value of None removes the variable."""
        return {k: v for k, v in (self.env | dict(more)).items() if v is not None}

    def state_files(self) -> list[Path]:
        """Return the state files on this machine."""
        return sorted((self.home / ".local/state/dibs").rglob("*.json"))

    def forget(self) -> None:
        """Delete everything outside the repository, as on a replaced VM."""
        shutil.rmtree(self.home / ".local", ignore_errors=True)

    def stamp_is_old(self) -> None:
        """Age the stamp so that the next hook sends a heartbeat."""
        for path in (self.home / ".local/state/dibs").rglob("*.stamp"):
            _, *until = path.read_text().split()
            path.write_text(" ".join(["0", *until]))


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Start the real service on its own store, with settings short enough for tests to wait."""
    spans = {"DIBS_MIN_TTL": "1s", "DIBS_GRACE": "1s", "DIBS_HANDOVER": "2s"}
    rates = {"DIBS_RATE_PER_SESSION": "0", "DIBS_RATE_PER_PROJECT": "0"}
    with running(tmp_path_factory.mktemp("service"), env=spans | rates) as running_service:
        yield running_service


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Start a service that requires a team key."""
    env = {"DIBS_TEAM_KEY": KEY, "DIBS_MIN_TTL": "1s"}
    with running(tmp_path_factory.mktemp("keyed"), "--memory", env=env) as running_service:
        yield running_service


Make = Callable[..., Sandbox]


@pytest.fixture
def sandbox(service: ServiceProcess, tmp_path: Path) -> Iterator[Make]:
    """Yield a maker of sandboxes that share one project, which no other test uses."""
    made: list[Sandbox] = []

    def make(url: str = service.url, **env: str) -> Sandbox:
        folder = tmp_path / f"{tmp_path.name}-vm{len(made)}"
        made.append(Sandbox(folder, url, **({"DIBS_PROJECT": f"acme.{tmp_path.name}"} | env)))
        return made[-1]

    yield make
    for box in made:
        box.stop()
