"""The load generator: keep-alive connections in one process, on epoll, without a framework.

    python -m bench.load '{"wire": "dibs", "act": "claim", "port": 8080, "connections": 32,
                           "seconds": 2}'

Each connection has one request in progress and sends the next one when the answer has arrived.
`busy` is the share of a core that the generator itself used: near 1.0, the run would measure the
generator, not the service.
"""

import gc
import json
import select
import socket
import sys
from time import perf_counter, process_time
from typing import Any

from bench.acts import Before, Script, good, script


class LoadConnection:
    """A socket, and its generator of requests."""

    __slots__ = ("began", "got", "script", "sock")

    def __init__(self, port: int, steps: Script) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.script, self.got, self.began = steps, b"", 0.0

    def prepare(self) -> bytes:
        """Make all requests that are not measured, and return the first measured one."""
        step = next(self.script)
        while isinstance(step, Before):
            self.sock.sendall(step.request)
            while (answer := split(self.got)) is None:
                more = self.sock.recv(65_536)
                if not more:
                    raise ConnectionError("the service closed a connection while it was prepared")
                self.got += more
            self.got = b""
            step = self.script.send(answer[1])
        self.sock.setblocking(False)
        return bytes(step)


def split(got: bytes) -> tuple[int, bytes] | None:
    """Return the status and the body of a complete answer, or None."""
    end = got.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = got[:end].lower()
    at = head.find(b"content-length:")
    if at >= 0:
        stop = head.find(b"\r", at)
        size = int(head[at + 15 : stop if stop > 0 else end])
        if len(got) < end + 4 + size:
            return None
    elif b"\r\n0\r\n" not in got or not got.endswith(b"\r\n\r\n"):  # a chunked body
        return None
    return int(got[9:12]), got[end + 4 :]


def run(
    wire: str, act: str, port: int, connections: int, seconds: float, project: str = ""
) -> dict[str, Any]:
    """Load the service and return the results."""
    lanes = [
        LoadConnection(port, script(wire, act, number, connections, project))
        for number in range(connections)
    ]
    first = prepare(lanes)
    poll = select.epoll()
    by_fd = {lane.sock.fileno(): lane for lane in lanes}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    spans: list[float] = []
    statuses: dict[int, int] = {}
    gc.disable()
    cpu, began = process_time(), perf_counter()
    for lane, request in zip(lanes, first, strict=True):
        lane.began = perf_counter()
        lane.sock.send(request)
    until, now = began + seconds, began
    going = True
    while going and now < until:
        for fd, _ in poll.poll(1.0):
            lane = by_fd[fd]
            data = lane.sock.recv(65_536)
            got = lane.got + data if lane.got else data
            answer = split(got)
            if answer is None:
                if not data:
                    raise ConnectionError("the service closed a connection")
                lane.got = got
                continue
            lane.got = b""
            now = perf_counter()
            spans.append(now - lane.began)
            status = answer[0]
            statuses[status] = statuses.get(status, 0) + 1
            try:
                request = lane.script.send(answer[1])
            except StopIteration:
                going = False
                break
            lane.began = now
            lane.sock.send(request)
        else:
            now = perf_counter()
    took, used = perf_counter() - began, process_time() - cpu
    for lane in lanes:
        lane.sock.close()
    spans.sort()
    return {
        "rate": len(spans) / took,
        "p50_ms": spans[len(spans) // 2] * 1000,
        "p99_ms": spans[len(spans) * 99 // 100] * 1000,
        "count": len(spans),
        "bad": sum(n for status, n in statuses.items() if status not in good(wire, act)),
        "statuses": statuses,
        "busy": used / took,
    }


def prepare(lanes: list[LoadConnection]) -> list[bytes]:
    """Prepare all connections at once: one after another, each would wait for its own fsyncs."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(LoadConnection.prepare, lanes))


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))))
