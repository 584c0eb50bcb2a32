"""A real `dibs serve` in a separate process, for tests and benchmarks that call it as users do.

    with running(tmp_path / "service", "--data-dir", "d", env={"DIBS_GRACE": "1s"}) as service:
        status, claim, headers = service.ask("POST", "/v1/p/claim", {"task": "T"}, new_session())

`ServiceProcess` is started, killed and started again on the same data; the end of its `with`
block kills it. The end of the `with` block of `running` stops it with SIGTERM. `Running` has no
data directory: it starts when it is made, and its flags or settings name its store.
"""

import contextlib
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.harness.processes import children, clean_environ, command, end, start, until

from dibs.model import Session

DIBS = [sys.executable, "-P", "-m", "dibs"]
START_S = 30.0
"""Seconds within which a service has to print its address, also on a busy machine."""
STOP_S = 20.0


def new_session() -> Session:
    """Return a new session's secret."""
    return Session(str(uuid.uuid4()))


class ServiceProcess:
    """One `dibs serve`: started, stopped, killed, started again on the same data and port.

    `command` is the command line before `serve`.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        env: Mapping[str, str] | None = None,
        port: int = 0,
        command: Sequence[str] = DIBS,
    ) -> None:
        self.folder, self.flags, self.port, self.command = folder, flags, port, command
        folder.mkdir(parents=True, exist_ok=True)
        self.env = clean_environ({"DIBS_DATA_DIR": str(folder / "data")} | dict(env or {}))
        self.out, self.log = folder / "service.out", folder / "service.log"
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Self:
        """Start it and wait until it prints its address; later starts use the same port."""
        command = [*self.command, "serve", "--port", str(self.port), *self.flags]
        # Files, not pipes: a full pipe that nobody reads would block the service.
        with open(self.out, "w") as out, open(self.log, "a") as log:
            self.process = process = start(
                command, env=self.env, cwd=self.folder, stdout=out, stderr=log
            )
        try:
            until(lambda: self.said or process.poll() is not None, "dibs serve is there", START_S)
            found = re.search(r" is at (http://\S+)", "".join(self.said))
            assert found, f"dibs serve did not start: {self.said}{self.log.read_text()}"
        except BaseException:
            self.kill()
            raise
        self.url = found[1]
        self.port = int(self.url.rsplit(":", 1)[1])
        return self

    def __enter__(self) -> Self:
        return self if self.process else self.start()

    def __exit__(self, *_exception: object) -> None:
        self.kill()

    @property
    def said(self) -> list[str]:
        """The whole lines on its stdout since the last start."""
        return _lines(self.out)

    @property
    def logged(self) -> list[str]:
        """The whole lines on its stderr, since the first start."""
        return _lines(self.log)

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        assert self.process
        return self.process.pid

    def kill(self) -> None:
        """Kill it with SIGKILL, as a crash would: no handler runs."""
        if self.process:
            self.process.kill()
            end(self.process)

    def stop(self, sig: int = signal.SIGTERM, timeout_s: float = STOP_S) -> float:
        """Stop it with `sig`; return the seconds that it took. Fails if it has to be killed."""
        began = time.monotonic()
        if self.process and self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
                told = self.log.read_text(errors="replace")[-2000:]
                late = f"dibs serve did not end in {timeout_s:.0f} s; the end of its log:\n{told}"
                raise AssertionError(late) from None
        return time.monotonic() - began

    def store(self) -> int:
        """Return the pid of its private store."""
        return next(
            pid for pid in children(self.pid) if any(s in command(pid) for s in ("valkey", "redis"))
        )

    # Calls to it

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        session: str | None = None,
        timeout_s: float = 10,
        /,
        **headers: str,
    ) -> tuple[int, Any, dict[str, str]]:
        """Send one request on its own connection; return status, body (JSON parsed) and headers."""
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
        """Claim a task; return the status and the body."""
        status, body, _ = self.ask(
            "POST", f"/v1/{project}/claim", {"task": task, **wish}, session or new_session()
        )
        return status, body

    def metrics(self) -> dict[str, float]:
        """Return every series of /metrics."""
        _, text, _ = self.ask("GET", "/metrics")
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def is_ready(self) -> bool:
        """Return whether /readyz answers 200."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("GET", "/readyz", None, None, 5)[0] == 200
        return False


def _lines(file: Path) -> list[str]:
    text = file.read_text("utf-8", "replace") if file.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines(keepends=True)


@contextlib.contextmanager
def running(
    folder: Path, *flags: str, env: Mapping[str, str] | None = None
) -> Iterator[ServiceProcess]:
    """Run a service for the length of a block."""
    service = ServiceProcess(folder, *flags, env=env)
    try:
        yield service.start()
    finally:
        service.stop()


class Running(ServiceProcess):
    """A service that is started when it is made, and killed at the end of its block."""

    def __init__(self, *flags: str, env: Mapping[str, str] | None = None, port: int = 0) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="dibs-test-")), *flags, env=env, port=port)
        self.env = clean_environ(env)  # no data directory, unlike its base
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    def __exit__(self, *_exception: object) -> None:
        self.kill()
        shutil.rmtree(self.folder)
