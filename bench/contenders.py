"""Starts and stops the contenders of the comparison, each with its own directory and port."""

import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.processes import clean_environ, end, family, run, start, until
from tests.harness.services import DIBS, ServiceProcess

from dibs.store.local.process import MALLOC
from dibs.store.local.programs import find_server

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PLAIN_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
START_S = 60.0
LANES = 32
"""The default number of connections."""
Result = dict[str, Any]
MANY = "1000000"
UNLIMITED = {
    "DIBS_RATE_PER_SESSION": MANY,  # the limits are checked, and never reached
    "DIBS_RATE_PER_PROJECT": MANY,
    "DIBS_READS_PER_PROJECT": MANY,
    "DIBS_MAX_CLAIMS_PER_SESSION": "10000000",
    "DIBS_MAX_CLAIMS_PER_PROJECT": "10000000",
    "DIBS_RECORD_BYTES": "100g",
}


class Missing(Exception):
    """A program that the comparison needs is missing; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A running service: its name in the tables, its wire format, its port and process."""

    name: str
    wire: str
    port: int
    pid: int

    def cpu_s(self) -> float:
        """Return the processor time that it has used so far, its store included."""
        return sum(map(cpu_s, [self.pid, *family(self.pid)]))


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def server() -> str:
    """Return the path of the server that `dibs serve` would start."""
    return find_server()[0]


@contextlib.contextmanager
def process(command: list[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run `command` for the length of a block."""
    with open(log, "ab") as said:
        started = start(command, stdout=said, stderr=said, cwd=ROOT, env=clean_environ(env))
    try:
        yield started.pid
    finally:
        started.terminate()
        try:
            started.wait(10)
        finally:
            end(started)


def wait_for(port: int, log: Path) -> None:
    """Wait until a server listens on the port."""
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > deadline:
            raise Missing(f"did not start within {START_S:.0f} s:\n{log.read_text()[-1500:]}")
        time.sleep(0.02)


@contextlib.contextmanager
def redis(folder: Path, fsync: str) -> Iterator[str]:
    """Run a store with an append-only log; yield its URL."""
    path = folder / "store.sock"
    config = {
        "port": "0",
        "unixsocket": str(path),
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": fsync,
        "save": "",
        "aof-use-rdb-preamble": "no",
    }
    command = [server(), *(word for k, v in config.items() for word in (f"--{k}", v))]
    with process(command, folder / "store.log", MALLOC):
        deadline = time.monotonic() + START_S
        while not path.exists():
            if time.monotonic() > deadline:
                raise Missing(f"the store did not start:\n{(folder / 'store.log').read_text()}")
            time.sleep(0.02)
        yield f"unix://{path}"


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Yield a temporary directory."""
    path = Path(tempfile.mkdtemp(prefix="dibs-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def dibs(
    name: str,
    *,
    fsync: str = "always",
    data: Path | None = None,
    python: str = sys.executable,
    env: Mapping[str, str] | None = None,
) -> Iterator[Contender]:
    """Run dibs: with its private store as shipped, or on a store that syncs every second.

    `data`: a directory to keep; `python`: another checkout's Python; `env`: settings.
    """
    with contextlib.ExitStack() as held:
        where = data or held.enter_context(folder())
        settings = UNLIMITED | dict(env or {})
        if fsync != "always" and "DIBS_REDIS_URL" not in settings:
            settings["DIBS_REDIS_URL"] = held.enter_context(redis(where, fsync))
        service = ServiceProcess(where, env=settings, command=[python, *DIBS[1:]])
        with service:
            until(service.is_ready, "the service is ready", START_S)
            yield Contender(name, "dibs", service.port, service.pid)
            service.stop()


@contextlib.contextmanager
def plain(name: str, fsync: str = "everysec") -> Iterator[Contender]:
    """Run the plain FastAPI service, on the same kind of store."""
    if not PLAIN_PYTHON.exists():
        raise Missing("the plain service needs FastAPI in a separate environment: make bench-plain")
    with folder() as where, redis(where, fsync) as url:
        port, log = free_port(), where / "plain.log"
        command = [str(PLAIN_PYTHON), *_uvicorn("bench.plain:app", port)]
        with process(command, log, {"PLAIN_REDIS_URL": url}) as pid:
            wait_for(port, log)
            yield Contender(name, "plain", port, pid)


@contextlib.contextmanager
def echo(name: str) -> Iterator[Contender]:
    """Run the framework's echo."""
    with folder() as where:
        port, log = free_port(), where / "echo.log"
        with process([sys.executable, *_uvicorn("bench.echo:app", port)], log) as pid:
            wait_for(port, log)
            yield Contender(name, "echo", port, pid)


def _uvicorn(app: str, port: int) -> list[str]:
    flags = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-access-log",
        "--log-level",
        "warning",
    ]
    return ["-m", "uvicorn", app, *flags, "--no-server-header"]


@contextlib.contextmanager
def etcd(name: str) -> Iterator[Contender]:
    """Run one etcd node with its defaults: every write is synced."""
    program = shutil.which("etcd")
    if program is None:
        raise Missing("etcd is not installed: apt-get install etcd-server")
    with folder() as where:
        port, peer, log = free_port(), free_port(), where / "etcd.log"
        client, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
        command = [program, "--data-dir", str(where / "data"), "--logger", "zap"]
        command += ["--log-level", "error", "--listen-client-urls", client]
        command += ["--advertise-client-urls", client, "--listen-peer-urls", peers]
        command += ["--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"]
        with process(command, log) as pid:
            wait_for(port, log)
            yield Contender(name, "etcd", port, pid)


def load(contender: Contender, act: str, lanes: int, seconds: float, project: str = "") -> Result:
    """Load a contender from a separate process; raise RuntimeError on a wrong answer."""
    plan = {
        "wire": contender.wire,
        "act": act,
        "port": contender.port,
        "connections": lanes,
        "seconds": seconds,
        "project": project,
    }
    before = contender.cpu_s()
    done = run([sys.executable, "-m", "bench.load", json.dumps(plan)], cwd=ROOT, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{contender.name}, {act}: {done.stderr[-800:]}")
    result: Result = json.loads(done.stdout)
    if result["bad"]:
        raise RuntimeError(f"{contender.name}, {act}: answered {result['statuses']}")
    result["cpu_us"] = (contender.cpu_s() - before) / result["count"] * 1e6
    return result
