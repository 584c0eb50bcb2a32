"""Real Redis servers on loopback: a cluster of three primaries, or a primary under Sentinels."""

import contextlib
import queue
import random
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import redis
from tests.harness import processes
from tests.harness.needs import lacking
from tests.harness.processes import until

PASSWORD = "a password of this test"


def server() -> str:
    """Return the path of redis-server, which can also be a Sentinel or a cluster node."""
    found = shutil.which("redis-server")
    if not found:
        lacking("no redis-server on the PATH (Debian's package redis-server)")
    return found


def free_ports(count: int) -> list[int]:
    """Return free ports below the system's range for clients, with room for bus ports."""
    found: list[int] = []
    candidate = random.randrange(12_000, 20_000)
    while len(found) < count:
        candidate += 1
        with contextlib.ExitStack() as held:
            try:
                for port in (candidate, candidate + 10_000):
                    probe = held.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(candidate)
    return found


class SlowConnection:
    """A relay to a server that delays bytes in both directions, as a long network path does."""

    def __init__(self, port: int, to_port: int, one_way_s: float) -> None:
        self.port, self._to_port, self._one_way_s = port, to_port, one_way_s
        self._open: list[socket.socket] = []
        self._cut = False
        self._listener = socket.create_server(("127.0.0.1", port))
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._open.append(near)
                with contextlib.suppress(OSError):
                    self._join(near)

    def _join(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._to_port))
        except OSError:
            near.shutdown(socket.SHUT_RDWR)
            raise
        self._open.append(far)
        for source, sink in ((near, far), (far, near)):
            on_the_way: queue.Queue[tuple[float, bytes]] = queue.Queue()
            self._start(self._take, source, on_the_way)
            self._start(self._bring, on_the_way, sink)

    @staticmethod
    def _start(run: Callable[..., None], *args: object) -> None:
        threading.Thread(target=run, args=args, daemon=True).start()

    def _take(self, source: socket.socket, on_the_way: "queue.Queue[tuple[float, bytes]]") -> None:
        data = b"-"
        while data:
            data = b""
            with contextlib.suppress(OSError):
                data = source.recv(65_536)
            on_the_way.put((time.monotonic() + self._one_way_s, data))

    def _bring(self, on_the_way: "queue.Queue[tuple[float, bytes]]", sink: socket.socket) -> None:
        data = b"-"
        while data and not self._cut:
            due, data = on_the_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):
                if data and not self._cut:
                    sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Drop all bytes in transit and refuse new connections."""
        self._cut = True
        self.close()

    def close(self) -> None:
        """Close every connection, including one that is being accepted."""
        # Closing the listener alone leaves the acceptor waiting; nobody would close its next
        # connection.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(5)
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Node:
    """One server process."""

    def __init__(
        self,
        folder: Path,
        port: int,
        *flags: str,
        sentinel: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.port, self.flags, self.sentinel = folder, port, flags, sentinel
        self.env = env
        self.wire: SlowConnection | None = None
        """The delayed path from its primary, if there is one."""
        folder.mkdir(parents=True)
        self.start()

    def start(self) -> None:
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *self.flags]
        if self.sentinel:
            config = self.folder / "sentinel.conf"
            if not config.exists():
                config.write_text(f"port {self.port}\nbind 127.0.0.1\n{self.sentinel}")
            arguments = [str(config), "--sentinel"]
        with open(self.folder / "log", "ab") as log:
            self.process = processes.start(
                [server(), *arguments], cwd=self.folder, stdout=log, stderr=log, env=self.env
            )
        until(lambda: self.answers(), f"the server on port {self.port} answers")

    def client(self) -> redis.Redis:
        return redis.Redis(
            port=self.port,
            password=None if self.sentinel else PASSWORD,
            decode_responses=True,
            socket_timeout=2,
        )

    def answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False

    def kill(self) -> None:
        if self.wire:
            self.wire.close()
        self.process.kill()
        self.process.wait(10)


COMMON = (
    *("--requirepass", PASSWORD, "--masterauth", PASSWORD),
    *("--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"),
)


@contextlib.contextmanager
def cluster(
    folder: Path,
    *,
    replicas: int = 0,
    primaries: int = 3,
    timeout_ms: int = 2000,
    env: Mapping[str, str] | None = None,
) -> Iterator[Sequence[Node]]:
    """Yield the nodes of a cluster, primaries first, with every slot served.

    `timeout_ms`: how long a node stays silent before the others count it as dead; `env` is the
    nodes' environment.
    """
    ports = free_ports(primaries * (1 + replicas))
    flags = [*COMMON, "--cluster-enabled", "yes"]
    flags += ["--cluster-node-timeout", str(timeout_ms)]
    flags += ["--cluster-replica-validity-factor", "0"]
    with stopping() as nodes:
        for port in ports:
            nodes.append(Node(folder / str(port), port, *flags, env=env))
        addresses = [f"127.0.0.1:{port}" for port in ports]
        made = processes.run(
            [
                *("redis-cli", "-a", PASSWORD, "--no-auth-warning", "--cluster", "create"),
                *addresses,
                *("--cluster-replicas", str(replicas), "--cluster-yes"),
            ],
            timeout=60,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        for node in nodes:
            until(partial(whole, node), f"port {node.port} sees the whole cluster")
        for node in nodes[primaries:]:
            until(partial(_linked, node), "the replicas have their primaries' data", 20)
        yield nodes


def whole(node: Node) -> bool:
    """Return whether a node sees every slot served."""
    with node.client() as client:
        info = client.execute_command("CLUSTER INFO")
    state = (
        info
        if isinstance(info, dict)
        else dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    )
    return bool(state["cluster_state"] == "ok" and state["cluster_slots_ok"] == "16384")


@contextlib.contextmanager
def sentinels(
    folder: Path, *, replica_behind_s: float = 0.0
) -> Iterator[tuple[list[Node], list[Node]]]:
    """Yield two servers, a primary and its replica, and three Sentinels that watch them.

    `replica_behind_s`: the delay of each byte between primary and replica.
    """
    ports = free_ports(6)
    with stopping() as nodes:
        primary = Node(folder / "primary", ports[0], *COMMON)
        nodes.append(primary)
        wire = SlowConnection(ports[5], ports[0], replica_behind_s) if replica_behind_s else None
        source = wire.port if wire else ports[0]
        replica = Node(folder / "replica", ports[1], *COMMON, "--replicaof", f"127.0.0.1 {source}")
        replica.wire = wire
        nodes.append(replica)
        config = (
            f"sentinel monitor claims 127.0.0.1 {ports[0]} 2\n"
            f'sentinel auth-pass claims "{PASSWORD}"\n'
            "sentinel down-after-milliseconds claims 1000\n"
            "sentinel failover-timeout claims 3000\n"
        )
        for port in ports[2:5]:
            nodes.append(Node(folder / str(port), port, sentinel=config))
        until(lambda: _linked(replica), "the replica has the primary's data", 20)
        for watcher in nodes[2:]:
            until(partial(_agreed, watcher), "the Sentinels know each other", 20)
        yield nodes[:2], nodes[2:]


def _linked(replica: Node) -> bool:
    with replica.client() as client:
        return bool(client.info("replication").get("master_link_status") == "up")


def _agreed(watcher: Node) -> bool:
    with watcher.client() as client:
        seen = client.sentinel_master("claims")
    return bool(seen["num-other-sentinels"] == 2 and seen["num-slaves"] == 1)


@contextlib.contextmanager
def stopping() -> Iterator[list[Node]]:
    """Yield a list for nodes; kill them at the end."""
    nodes: list[Node] = []
    try:
        yield nodes
    finally:
        for node in nodes:
            node.kill()
