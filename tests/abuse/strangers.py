"""The tools of strangers: connections, floods, and requests that cost as much as possible.

    python -m tests.abuse.strangers filling.fat 8080 20 acme.web    # PORT SECONDS PROJECT

attacks in a separate process and prints the number of answers by status, as JSON; commas separate
several attacks. It runs at a lower priority, because strangers bring their own machines.
"""

import itertools
import json
import os
import resource
import selectors
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

STRANGER = "198.51.100.7"
"""The address of a stranger, in the header of the proxy in front."""
FILES = 4_000


@dataclass(frozen=True)
class Target:
    """The service, as strangers see it."""

    port: int
    team: str
    """The project of the team that works during the attack."""

    def connect(self, timeout_s: float = 5.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)


Attack = Callable[[Target, float], Counter[str]]
"""Attacks until a time of `time.monotonic`; returns the number of answers by status."""


def get(path: str, *more: str) -> bytes:
    """Return a GET request with extra header lines."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *more, "", ""]).encode()


def post(path: str, body: dict[str, Any], session: str, *more: str) -> bytes:
    """Return a POST request of a session."""
    sent = json.dumps(body, ensure_ascii=False).encode()
    lines = [
        *(f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json"),
        *(f"Content-Length: {len(sent)}", f"Dibs-Session: {session}", *more, "", ""),
    ]
    return "\r\n".join(lines).encode() + sent


def somebody() -> str:
    """Return a new session."""
    return str(uuid.uuid4())


def by_whom(address: str) -> str:
    """Return the header line in which the proxy in front gives the client's address."""
    return f"Fly-Client-IP: {address}"


def addresses() -> Iterator[str]:
    """Yield addresses, each in a different network, as a stranger with means can use."""
    for number in itertools.count():
        yield f"2001:db8:{number >> 16 & 0xFFFF:x}:{number & 0xFFFF:x}::1"


@dataclass
class _Line:
    """A connection that sends one request after another."""

    socket: socket.socket
    got: bytearray = field(default_factory=bytearray)

    def status(self) -> str:
        """Return the status of the answer, or '' while the answer is incomplete."""
        head, ended, body = bytes(self.got).partition(b"\r\n\r\n")
        if not ended:
            return ""
        lowered = head.lower()
        if b"content-length:" in lowered:
            length = int(lowered.split(b"content-length:")[1].split(b"\r\n")[0])
            whole = len(body) >= length
        else:
            whole = body.endswith(b"0\r\n\r\n")
        return head[9:12].decode() if whole else ""


class _Flood:
    """Requests on several connections at once; each answer triggers the next request."""

    def __init__(self, target: Target, requests: Iterable[bytes]) -> None:
        self.told: Counter[str] = Counter()
        self._target, self._requests, self._over = target, iter(requests), False
        self._selector = selectors.DefaultSelector()

    def go_on(self, until: float, connections: int) -> None:
        lines = self._selector.get_map()
        while (now := time.monotonic()) < until and not (self._over and not lines):
            while len(lines) < connections and not self._over and self._ask(None):
                pass
            for key, _ in self._selector.select(min(0.05, until - now)):
                self._hear(key.data)
        for key in list(lines.values()):
            self._let_go(key.data)
        self._selector.close()

    def _ask(self, line: _Line | None) -> bool:
        request = next(self._requests, None)
        self._over = request is None
        try:
            if request is not None:
                if line is None:
                    line = _Line(self._target.connect())
                    self._selector.register(line.socket, selectors.EVENT_READ, line)
                line.got.clear()
                line.socket.sendall(request)
                return True
        except OSError:
            self.told["cut"] += 1
        if line:
            self._let_go(line)
        return False

    def _hear(self, line: _Line) -> None:
        try:
            more = line.socket.recv(1 << 18)
        except OSError:
            more = b""
        if not more:
            self.told["cut"] += 1
            self._let_go(line)
            return
        line.got += more
        if status := line.status():
            self.told[status] += 1
            self._ask(line)

    def _let_go(self, line: _Line) -> None:
        self._selector.unregister(line.socket)
        line.socket.close()


def flood(
    target: Target, requests: Iterable[bytes], until: float, connections: int = 32
) -> Counter[str]:
    """Send requests on several connections, each as soon as the previous one is answered."""
    crowd = _Flood(target, requests)
    crowd.go_on(until, connections)
    return crowd.told


def once(target: Target, requests: Iterable[bytes], until: float) -> Counter[str]:
    """Prepare an attack: send each request once, in at most half of the time."""
    now = time.monotonic()
    return flood(target, list(requests), now + (until - now) / 2)


@dataclass
class Crowd:
    """Many open connections."""

    target: Target
    told: Counter[str] = field(default_factory=Counter)
    held: list[socket.socket] = field(default_factory=list)

    def add(self, first: bytes, *, small: bool = False) -> None:
        """Open a connection and send something on it; `small`: with the smallest receive buffer."""
        try:
            one = socket.socket()
            if small:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
            one.settimeout(2)
            one.connect(("127.0.0.1", self.target.port))
            one.sendall(first)
            one.setblocking(False)
        except OSError:
            self.told["kept out"] += 1
            return
        self.held.append(one)
        self.told["opened"] += 1

    def each(self, sends: bytes) -> None:
        """Send something on each connection, and drop the closed ones."""
        alive = []
        for one in self.held:
            try:
                one.send(sends)
                alive.append(one)
            except BlockingIOError:
                alive.append(one)
            except OSError:
                self.told["cut"] += 1
                one.close()
        self.held = alive

    def keep(self, many: int, first: bytes, then: bytes, until: float, every_s: float) -> None:
        """Keep `many` connections open until the end; reopen the closed ones."""
        while time.monotonic() < until:
            began = time.monotonic()
            for _ in range(many - len(self.held)):
                self.add(first)
                if time.monotonic() > until:
                    return
            self.each(then)
            self.told["most"] = max(self.told["most"], len(self.held))
            time.sleep(max(0.0, min(every_s, until - time.monotonic(), every_s + began)))


def find(name: str) -> Attack:
    """Return an attack by family and name."""
    family, _, act = name.partition(".")
    attack: Attack = getattr(import_module(f"tests.abuse.{family}"), act)
    return attack


def main(names: str, port: str, seconds: str, team: str) -> None:
    """Run several attacks, one after another, and print the number of answers by status."""
    os.nice(10)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    told: Counter[str] = Counter()
    attacks = [find(name) for name in names.split(",")]
    for attack in attacks:
        told += attack(Target(int(port), team), time.monotonic() + float(seconds) / len(attacks))
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
