"""A real service in a process of its own, and the few things that tests ask of it."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DIBS = [sys.executable, "-P", "-m", "dibs"]


def until(met: Callable[[], Any], what: str, within_s: float = 15.0) -> Any:
    """Wait until `met` gives something true, and return it."""
    deadline = time.monotonic() + within_s
    while not (found := met()):
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s in vain until {what}"
        time.sleep(0.02)
    return found


def clean_environ(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without settings of dibs, and `more`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIBS_")}
    return inherited | {"PYTHONUNBUFFERED": "1"} | dict(more or {})


class Running:
    """`dibs serve` with these flags on a free port."""

    def __init__(self, *flags: str, env: Mapping[str, str] | None = None, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [*DIBS, "serve", "--port", str(port), *flags],
            env=clean_environ(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self.logged: list[str] = []
        for stream, lines in (
            (self.process.stdout, self.said),
            (self.process.stderr, self.logged),
        ):
            threading.Thread(target=self._read, args=(stream, lines), daemon=True).start()
        until(lambda: self.said or self.process.poll() is not None, "it says where it is")
        assert self.said, "".join(self.logged)
        self.url = self.said[0].split(" is at ")[1].strip()
        self.port = int(self.url.rsplit(":", 1)[1])

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        with stream:
            lines.extend(stream)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self, sig: int = signal.SIGTERM) -> float:
        """Ask it to end; return how many seconds it took."""
        began = time.monotonic()
        self.process.send_signal(sig)
        self.process.wait(20)
        return time.monotonic() - began

    def workers(self) -> list[int]:
        """The pids of its workers."""
        return [pid for pid in children(self.pid) if "dibs.worker" in command(pid)]

    def store(self) -> int:
        """The pid of its private store."""
        return next(
            pid for pid in children(self.pid) if any(s in command(pid) for s in ("valkey", "redis"))
        )

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        session: str | None = None,
        timeout_s: float = 10,
        **headers: str,
    ) -> tuple[int, Any, dict[str, str]]:
        """One request on a connection of its own: status, body (JSON where it is), headers."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if session:
            sent["Dibs-Session"] = session
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
            body = json.dumps(body)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body, sent)
            reply = connection.getresponse()
            text = reply.read()
            told = {name.lower(): value for name, value in reply.getheaders()}
            kind = told.get("content-type", "")
            return reply.status, json.loads(text) if "json" in kind else text.decode(), told
        finally:
            connection.close()

    def claim(self, task: str, session: str | None = None, project: str = "p", **wish: Any) -> Any:
        """Claim a task; the status and the body."""
        status, body, _ = self.ask(
            "POST", f"/v1/{project}/claim", {"task": task, **wish}, session or new_session()
        )
        return status, body

    def metrics(self) -> dict[str, float]:
        """Every series of /metrics."""
        _, text, _ = self.ask("GET", "/metrics")
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def new_session() -> str:
    return str(uuid.uuid4())


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that are still there."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_gone(pid: int) -> bool:
    """Ended, whether or not anybody has collected it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
