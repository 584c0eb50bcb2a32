"""The store that the proofs break: DIBS_PROOF_STORE is `embedded`, `redis` or `cluster`.

`redis` is the private server with Debian's program instead of the wheel's. A cluster has three
primaries; one has the project, and often another the clock.
"""

import contextlib
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import redis
from tests.harness.oversight import keep
from tests.harness.processes import until
from tests.ops.farm import PASSWORD, cluster, whole
from tests.tools.clock import SteppedClock
from tests.tools.servers import program

from dibs.model import Project
from dibs.store.keys import keys
from dibs.store.local import embedded, mark
from dibs.store.local.embedded import EmbeddedStore

KIND = os.environ.get("DIBS_PROOF_STORE", "embedded")
KINDS = ("embedded", "redis", "cluster")
LATE_S = 2.5
"""A restarted primary refuses writes for two seconds by its wall clock."""
NODE_TIMEOUT_MS = 10**9
"""So long that no node takes another for dead when the clock is stepped."""


class Private:
    """The private server, with the usual program or with Debian's."""

    def __init__(self, folder: Path, kind: str, clock: SteppedClock | None = None) -> None:
        self._folder, self._kind, self._clock = folder / "store", kind, clock
        self.start()

    def start(self) -> None:
        """Start it on its data."""
        with contextlib.ExitStack() as patched:
            if self._kind == "redis":
                debian = (program("redis"), "Redis 7", "Debian")
                patched.enter_context(
                    mock.patch.object(embedded, "find_server", return_value=debian)
                )
            env = self._clock.env if self._clock else {}
            self._store = EmbeddedStore.start(self._folder, env=env)
        keep(self._store.pid)  # a test may have restarted it

    @property
    def url(self) -> str:
        """The URL of the store."""
        return self._store.url

    def clients(self) -> list[Any]:
        """Return a client of each server, first of the one that has the project."""
        return [redis.Redis.from_url(self.url, decode_responses=True)]

    def empty(self) -> None:
        """Delete every claim, but keep the mark by which the directory recognizes its store."""
        with self.clients()[0] as client:
            name = client.get(mark.KEY)
            client.flushall()
            client.set(mark.KEY, name)

    def send(self, signal_number: int) -> None:
        """Send a signal to each server."""
        os.kill(self._store.pid, signal_number)

    def kill(self) -> None:
        """Kill the project's server as a crash would: at once, in the middle of any command."""
        self.send(signal.SIGKILL)
        self._store.stop()

    def stop(self) -> None:
        """Stop it."""
        self._store.stop()


class Cluster:
    """Three primaries of Debian's Redis."""

    def __init__(self, folder: Path, project: Project, clock: SteppedClock | None = None) -> None:
        self._held, self._clock = contextlib.ExitStack(), clock
        env, timeout_ms = (clock.env, NODE_TIMEOUT_MS) if clock else (None, 2000)
        made = cluster(folder / "cluster", timeout_ms=timeout_ms, env=env)
        self._nodes = self._held.enter_context(made)
        for node in self._nodes:
            keep(node.process.pid)
        with self._nodes[0].client() as client:
            slot = client.execute_command("CLUSTER", "KEYSLOT", keys(project))
            owner = next(
                int(port)
                for first, last, (_, port, *_rest), *_ in client.execute_command("CLUSTER SLOTS")
                if first <= slot <= last
            )
        self._mine = next(node for node in self._nodes if node.port == owner)
        seeds = ",".join(f"127.0.0.1:{node.port}" for node in self._nodes)
        self.url = f"redis+cluster://:{quote(PASSWORD)}@{seeds}"

    def clients(self) -> list[Any]:
        """See Private."""
        others = [node for node in self._nodes if node is not self._mine]
        return [node.client() for node in (self._mine, *others)]

    def empty(self) -> None:
        """See Private."""
        for client in self.clients():
            with client:
                client.flushall()

    def send(self, signal_number: int) -> None:
        """See Private."""
        for node in self._nodes:
            node.process.send_signal(signal_number)

    def kill(self) -> None:
        """See Private."""
        self._mine.kill()

    def start(self) -> None:
        """Start the killed primary; return when it takes writes."""
        clock = self._clock
        if not clock:
            self._mine.start()
            return
        # The primary waits by this frozen clock, and no other reader may see the clock change: let
        # the wait begin earlier.
        clock.step(-LATE_S)
        self._mine.start()
        keep(self._mine.process.pid)
        clock.step(LATE_S)
        until(partial(whole, self._mine), "it takes writes again")

    def stop(self) -> None:
        """See Private."""
        self._held.close()


Backing = Private | Cluster


def backing(folder: Path, project: Project, clock: SteppedClock | None = None) -> Backing:
    """Return a running store of the chosen kind; `clock`, if given, is the clock that it reads."""
    assert KIND in KINDS, f"DIBS_PROOF_STORE is one of {KINDS}"
    return Cluster(folder, project, clock) if KIND == "cluster" else Private(folder, KIND, clock)
