"""A real `dibs serve` in a process of its own, for tests that call it as a user would."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

START_S = 20.0


class Service:
    """One `dibs serve`: started, killed, started again on the same data."""

    PROGRAM: Sequence[str] = ("-m", "dibs")
    """What the interpreter runs."""

    def __init__(
        self, folder: Path, *flags: str, env: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        self.folder, self.flags, self.port = folder, flags, port
        folder.mkdir(parents=True, exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DIBS_")}
        self.env = clean | {"DIBS_DATA_DIR": str(folder / "data")} | dict(env or {})
        self.log = folder / "service.log"
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> "Service":
        """Start it and wait until it says where it is; afterwards it keeps that port."""
        serve = ("serve", "--port", str(self.port), *self.flags)
        command = [sys.executable, *self.PROGRAM, *serve]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command,
                env=self.env,
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if not found:
            self.kill()
            raise AssertionError(f"dibs serve did not start: {line}{self.log.read_text()}")
        self.url = found.group()
        self.port = int(self.url.rsplit(":", 1)[1])
        return self

    @property
    def pid(self) -> int:
        """The process id of the running service."""
        assert self.process
        return self.process.pid

    def kill(self) -> None:
        """End it as a crash would: no handler runs."""
        if self.process and self.process.poll() is None:
            self.process.kill()
        self._reap()

    def stop(self, timeout_s: float = 10.0) -> float:
        """Ask it to stop; return how many seconds it took."""
        started = time.monotonic()
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        taken = time.monotonic() - started
        self.kill()
        return taken

    def _reap(self) -> None:
        if self.process:
            self.process.wait(START_S)
            if self.process.stdout:
                self.process.stdout.close()


@contextlib.contextmanager
def running(folder: Path, *flags: str, env: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Run a service for the length of a block."""
    service = Service(folder, *flags, env=env)
    try:
        yield service.start()
    finally:
        service.stop()
