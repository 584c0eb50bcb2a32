"""The cost of a board: many open streams, steady changes, one page of a thousand claims, and a
stop.

    python -m bench.board [--streams 200] [--rate 50] [--seconds 15]

Starts a service with a private store in a temporary folder. The load shares the machine with the
service, so read the figures as an upper bound.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from tests.harness.processes import clean_signals, end, start
from tests.harness.services import ServiceProcess

from bench.contenders import ROOT, cpu_s

PROJECT = "bench.board"
OTHER = "bench.other"


def percentile(values: list[float], share: float) -> float:
    """Return the value that a `share` of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class JsonConnection:
    """A kept-alive HTTP connection that posts JSON."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port, self.session = host, port, str(uuid.uuid4())

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        text = b"" if body is None else json.dumps(body).encode()
        self.writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nDibs-Session: {self.session}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode()
            + text
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def claim(self, project: str, task: str) -> None:
        status, body = await self.ask("POST", f"/v1/{project}/claim", {"task": task})
        if status not in (200, 201):
            raise RuntimeError(body)

    async def release(self, project: str, task: str) -> None:
        await self.ask("POST", f"/v1/{project}/release", {"task": task, "outcome": "released"})


class OpenBoard:
    """One open board: the arrival time of each change."""

    def __init__(self) -> None:
        self.arrived: dict[bytes, float] = {}
        self.tasks: dict[bytes, list[str]] = {}

    async def follow(self, host: str, port: int, ready: asyncio.Event, *, parse: bool) -> None:
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 24)
        writer.write(f"GET /p/{PROJECT}/stream HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        ready.set()
        current = b""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                line = await reader.readuntil(b"\n")
                if line.startswith(b"id: "):
                    current = line
                    self.arrived[current] = time.monotonic()
                elif parse and line.startswith(b"data: ") and b'"rows"' in line:
                    data = json.loads(line[6:])
                    said = [row[0] for row in data["rows"]] + data["gone"]
                    self.tasks[current] = said


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


async def steady(host: str, port: int, rate: int, seconds: float) -> dict[str, float]:
    """Make `rate` transitions a second; return the time of each claim's acknowledgement."""
    told: dict[str, float] = {}
    crew = [JsonConnection(host, port) for _ in range(10)]
    await asyncio.gather(*(one.open() for one in crew))
    began, number = time.monotonic(), 0

    async def worker(one: JsonConnection) -> None:
        nonlocal number
        held: list[str] = []
        one.session = str(uuid.uuid4())
        while (now := time.monotonic()) - began < seconds:
            mine, number = number, number + 2
            due = began + mine / rate
            if due > now:
                await asyncio.sleep(due - now)
            held.append(f"{one.session[:8]}-{mine}")
            await one.claim(PROJECT, held[-1])
            told[held[-1]] = time.monotonic()
            if len(held) > 3:  # the task stays long enough for a person to see it
                await one.release(PROJECT, held.pop(0))
        for task in held:  # a board shows only the first 200 tasks, so none may pile up
            await one.release(PROJECT, task)

    await asyncio.gather(*map(worker, crew))
    return told


async def throughput(host: str, port: int, seconds: float) -> tuple[float, float]:
    """Claim and release as fast as eight sessions can; return calls a second, and the p99 in ms."""
    crew = [JsonConnection(host, port) for _ in range(8)]
    await asyncio.gather(*(one.open() for one in crew))
    took: list[float] = []
    end = time.monotonic() + seconds

    async def worker(one: JsonConnection) -> None:
        while time.monotonic() < end:
            task = f"W-{one.session}"
            for act in (one.claim, one.release):
                began = time.monotonic()
                await act(OTHER, task)
                took.append(time.monotonic() - began)

    await asyncio.gather(*map(worker, crew))
    return len(took) / seconds, percentile(took, 0.99) * 1000


async def paint(host: str, port: int) -> list[float]:
    """Make 1,000 claims; return the times of reading their first page in ms, uncached first."""
    one = JsonConnection(host, port)
    await one.open()
    for first in range(0, 1000, 25):
        tasks = [f"P-{n}" for n in range(first, first + 25)]
        body = {"all_of": tasks, "note": "A note of an ordinary length.", "branch": "some/branch"}
        status, _ = await one.ask("POST", "/v1/bench.full/claim", body)
        assert status == 201
    took = []
    for _ in range(6):
        began = time.monotonic()
        status, page = await one.ask("GET", "/p/bench.full")
        took.append((time.monotonic() - began) * 1000)
        assert status == 200
        assert page.count(b"data-task=") == 200
    print(f"  page: {len(page) / 1024:.0f} KiB")
    return took


async def drain(host: str, port: int, streams: int) -> None:
    """Open `streams` streams as browsers do, and discard their bytes until ended."""

    async def one() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"GET /p/{PROJECT}/stream HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        while await reader.read(1 << 16):
            pass

    await asyncio.gather(*(one() for _ in range(streams)))


@contextlib.asynccontextmanager
async def audience(host: str, port: int, streams: int) -> AsyncIterator[None]:
    """Open boards in a separate process, so that reading them does not slow the load."""
    drain = ["-m", "bench.board", "--drain", f"{host}:{port}", "--streams", str(streams)]
    process = start([sys.executable, *drain], cwd=ROOT)
    await asyncio.sleep(1.5)
    try:
        yield
    finally:
        end(process)


async def slowdown(host: str, port: int, pid: int, streams: int, rate: int) -> None:
    """Claim as fast as possible without and with boards, in turn, and print the difference."""
    calls: dict[bool, list[float]] = {False: [], True: []}
    idle: dict[bool, list[float]] = {False: [], True: []}
    for watched in [False, True] * 3:
        async with audience(host, port, streams if watched else 1):
            began, used = time.monotonic(), cpu_s(pid)
            await steady(host, port, rate, 4)
            idle[watched].append((cpu_s(pid) - used) / (time.monotonic() - began))
            load = asyncio.create_task(steady(host, port, rate, 5))
            calls[watched].append((await throughput(host, port, 4))[0])
            await load
    without, with_ = statistics.median(calls[False]), statistics.median(calls[True])
    print(
        f"claims during {rate} transitions/s, three runs each, in turn\n"
        f"  1 board: {without:.0f} calls/s; {streams} boards: {with_:.0f} calls/s, "
        f"{(1 - with_ / without) * 100:.0f} % fewer\n"
        f"  processor at {rate} transitions/s alone: 1 board {statistics.median(idle[False]):.0%}, "
        f"{streams} boards {statistics.median(idle[True]):.0%} of a core"
    )


async def arrivals(
    host: str, port: int, boards: list[OpenBoard], rate: int, seconds: float
) -> list[float]:
    """Return the delays from each claim's reply to its arrival at each board, in ms."""
    told = await steady(host, port, rate, seconds)
    await asyncio.sleep(1)
    first = {t: rev for rev, ts in reversed(boards[0].tasks.items()) for t in ts}
    assert not [task for task in told if task not in first], "a claim was never shown"
    return [
        (board.arrived[first[task]] - at) * 1000 for task, at in told.items() for board in boards
    ]


async def main(streams: int, rate: int, seconds: float) -> None:
    """Measure and print the results."""
    with tempfile.TemporaryDirectory() as folder:
        limits = {"DIBS_RATE_PER_SESSION": "0", "DIBS_RATE_PER_PROJECT": "0"}
        limits["DIBS_MAX_CLAIMS_PER_SESSION"] = "2000"
        with ServiceProcess(Path(folder), env=limits) as service:
            host, port = "127.0.0.1", service.port
            took = " ".join(f"{ms:.0f}" for ms in await paint(host, port))
            print(f"  first page of 1,000 claims, six times: {took} ms")
            await throughput(host, port, 2)  # a warm-up
            await slowdown(host, port, service.pid, streams, rate)

            boards = [OpenBoard() for _ in range(streams)]
            ready = [asyncio.Event() for _ in boards]
            follows = [
                asyncio.create_task(board.follow(host, port, event, parse=board is boards[0]))
                for board, event in zip(boards, ready, strict=True)
            ]
            await asyncio.gather(*(event.wait() for event in ready))
            await asyncio.sleep(1)
            before = memory_mib(service.pid)
            late = await arrivals(host, port, boards, rate, seconds)
            print(
                f"{rate} transitions/s, {streams} boards: {len(late)} arrivals, none missing\n"
                f"  from the claim's reply to the stream: median {statistics.median(late):.0f} ms, "
                f"p99 {percentile(late, 0.99):.0f} ms, most {max(late):.0f} ms\n"
                f"  memory {before:.0f} -> {memory_mib(service.pid):.0f} MiB"
            )
            began = time.monotonic()
            stopped = asyncio.create_task(asyncio.to_thread(service.stop))
            await asyncio.gather(*follows)
            print(f"end of all streams {time.monotonic() - began:.2f} s after SIGTERM", end="")
            print(f", of the service {await stopped:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rate", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--drain", metavar="HOST:PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drain:
        with contextlib.suppress(KeyboardInterrupt):
            at, _, of = arguments.drain.rpartition(":")
            asyncio.run(drain(at, int(of), arguments.streams))
        sys.exit()
    clean_signals()
    asyncio.run(main(arguments.streams, arguments.rate, arguments.seconds))
