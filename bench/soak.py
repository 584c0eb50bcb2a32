"""Load with restarts, of any length: no acknowledged act is lost, and no resource grows.

    python -m bench.soak [--seconds 1800] [--rate 500] [--every 180] [--json FILE]

A service with its private store gets acts at a steady rate: sessions claim, send heartbeats,
release, and claim tasks that others hold. At intervals it is restarted: stopped, killed, or its
store killed, in turn. The run records memory, file descriptors and the store's size; at the end
every acknowledged claim that was not released must exist, with its fence.

Exit code: 0 if all held, 1 if something was lost or grew.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness.processes import clean_signals, until
from tests.harness.services import ServiceProcess

SESSIONS = 40
HELD_MOST = 10
"""The most claims of one session; it releases one before it claims another."""
PROJECTS = 5
TASKS = 4_000
"""The number of task names: few enough that records are reused and the store's size is bounded."""
SETTLED = 0.4
"""The share of the run after which caches are warm; later growth counts."""
GROWTH = 1.25
SLACK_BYTES = 8 << 20


@dataclass
class Held:
    """An acknowledged claim."""

    session: str
    fence: int


@dataclass
class Book:
    """A record of acknowledged acts, and of errors."""

    held: dict[tuple[str, str], Held] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    wrong: list[str] = field(default_factory=list)
    restarts: list[tuple[str, float]] = field(default_factory=list)
    seen: list[dict[str, float]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


class PatientConnection:
    """One kept-alive connection that repeats a call until it gets an answer other than 503."""

    def __init__(self, port: int, book: Book) -> None:
        self._port, self._book = port, book
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(
        self, project: str, act: str, body: dict[str, Any], session: str
    ) -> tuple[int, dict[str, Any]]:
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/{project}/{act} HTTP/1.1\r\nHost: soak\r\nDibs-Session: {session}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        for attempt in range(600):
            began = time.monotonic()
            try:
                status, answer = await asyncio.wait_for(self._once(head.encode() + data), 5)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                self.close()
                status, answer = 0, {}
            if status not in (0, 503):
                if attempt == 0:
                    self._book.latencies.append(time.monotonic() - began)
                return status, answer
            self._book.repeats += 1
            await asyncio.sleep(0.05)
        self._book.wrong.append(f"{act} of {body} was never answered")
        return 0, {}

    async def _once(self, request: bytes) -> tuple[int, dict[str, Any]]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        low = head.lower()
        length = int(low.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        answer = json.loads(await reader.readexactly(length))
        if b"connection: close" in low:
            self.close()
        return int(head.split(b" ", 2)[1]), answer

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None


class Restarted(ServiceProcess):
    """`dibs serve` in a directory, with ways to restart it and its use of resources."""

    def restart(self, how: str) -> float:
        """Restart by `how`; return the seconds of downtime."""
        began = time.monotonic()
        if how == "store":  # the service starts it again itself
            os.kill(self.store(), signal.SIGKILL)
            until(self.is_ready, "the service is ready on its store", 60, every_s=0.05)
            return time.monotonic() - began
        if how == "kill":
            self.kill()
        else:
            self.stop()
        self.start()
        return time.monotonic() - began

    def uses(self) -> dict[str, float]:
        """Return memory, descriptors, and the size on disk."""
        used: dict[str, float] = {}
        processes = {"service": [self.pid], "store": [self.store()]}
        for name, pids in processes.items():
            pages = sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in pids)
            used[f"{name}_bytes"] = pages * 4096
            used[f"{name}_fds"] = sum(len(os.listdir(f"/proc/{p}/fd")) for p in pids)
        logs = (self.folder / "data/appendonlydir").glob("*")
        used["disk_bytes"] = sum(path.stat().st_size for path in logs)
        return used


async def session(number: int, port: int, book: Book, beat: asyncio.Queue[None]) -> None:
    """Run one session: one act for each turn."""
    die, me = (
        random.Random(number),
        str(uuid.UUID(int=random.Random(number).getrandbits(128), version=4)),
    )
    connection = PatientConnection(port, book)
    mine: dict[tuple[str, str], int] = {}
    try:
        while True:
            await beat.get()
            await act(die, me, connection, mine, book)
            beat.task_done()
    finally:
        connection.close()


async def act(
    die: random.Random,
    me: str,
    connection: PatientConnection,
    mine: dict[tuple[str, str], int],
    book: Book,
) -> None:
    """Make one act and record its acknowledgement."""
    kind = die.random()
    if mine and (kind < 0.25 or len(mine) >= HELD_MOST):
        (project, task), fence = die.choice(list(mine.items()))
        outcome = "abandoned" if die.random() < 0.5 else "released"
        body = {"task": task, "fence": fence, "outcome": outcome}
        status, answer = await connection.call(project, "release", body, me)
        book.outcomes[f"release {answer.get('code', status)}"] += 1
        if status != 200:
            book.wrong.append(f"release of {task}, fence {fence}: {answer}")
        del mine[project, task]
        book.held.pop((project, task), None)
    elif mine and kind < 0.5:
        (project, task), fence = die.choice(list(mine.items()))
        body = {"task": task, "fence": fence, "note": f"at {die.random()}"}
        status, answer = await connection.call(project, "heartbeat", body, me)
        book.outcomes[f"heartbeat {answer.get('code', status)}"] += 1
        if status != 200 or answer.get("fence") != fence:
            book.wrong.append(f"heartbeat of {task}, fence {fence}: {answer}")
    else:
        project, task = f"soak{die.randrange(PROJECTS)}", f"T-{die.randrange(TASKS // PROJECTS)}"
        # Read before the call: if the holder releases the task meanwhile, a grant is no clash.
        held = book.held.get((project, task))
        body = {"task": task, "ttl": "1h", "label": me[:8], "branch": f"work/{task}"}
        status, answer = await connection.call(project, "claim", body, me)
        book.outcomes[f"claim {answer.get('code', status)}"] += 1
        if status in (200, 201):
            now = book.held.get((project, task))
            if held is now is not None and now.session != me:
                book.wrong.append(f"{task} was granted twice: {now}, {answer}")
            mine[project, task] = answer["fence"]
            book.held[project, task] = Held(me, answer["fence"])
        elif status != 409:
            book.wrong.append(f"claim of {task}: {answer}")


async def run(service: Restarted, book: Book, given: argparse.Namespace) -> None:
    """Give out turns at the rate, and restart the service at intervals."""
    turns: asyncio.Queue[None] = asyncio.Queue(maxsize=SESSIONS * 2)
    sessions = [
        asyncio.create_task(session(number, service.port, book, turns))
        for number in range(SESSIONS)
    ]
    restarting = asyncio.create_task(restarts(service, book, given))
    watching = asyncio.create_task(watch(service, book, given, restarting))
    began, given_out = time.monotonic(), 0
    while (now := time.monotonic()) < began + given.seconds:
        due = int((now - began) * given.rate)
        # Turns missed while the service was down are not made up for in one burst.
        given_out = max(given_out, due - given.rate)
        while given_out < due and not turns.full():
            turns.put_nowait(None)
            given_out += 1
        await asyncio.sleep(0.005)
        for task in (*sessions, restarting, watching):
            if task.done() and task.exception():
                raise SystemExit(f"the soak itself failed: {task.exception()!r}")
    restarting.cancel()
    watching.cancel()
    await asyncio.gather(restarting, watching, return_exceptions=True)
    await turns.join()
    for task in sessions:
        task.cancel()
    await asyncio.gather(*sessions, return_exceptions=True)


async def restarts(service: Restarted, book: Book, given: argparse.Namespace) -> None:
    for turn in range(10**6):
        await asyncio.sleep(given.every)
        how = ("stop", "kill", "store")[turn % 3]
        away_s = await asyncio.shield(asyncio.to_thread(service.restart, how))
        book.restarts.append((how, away_s))


async def watch(
    service: Restarted, book: Book, given: argparse.Namespace, restarting: "asyncio.Task[None]"
) -> None:
    began, every = time.monotonic(), max(1.0, given.seconds / 120)
    while True:
        await asyncio.sleep(every)
        with contextlib.suppress(
            OSError, IndexError, ValueError, StopIteration
        ):  # the service is restarting
            book.seen.append({"at_s": time.monotonic() - began} | service.uses())


def missing(service: Restarted, book: Book) -> list[str]:
    """Return the acknowledged, unreleased claims that do not exist."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    lost = []
    for (project, task), held in book.held.items():
        headers = {"Dibs-Session": held.session}
        connection.request(
            "GET", f"/v1/{project}/claims/{task}?fence={held.fence}", headers=headers
        )
        shown = json.loads(connection.getresponse().read())
        if not (shown.get("current") and shown.get("mine")):
            lost.append(f"{task} of {held}: {shown}")
    connection.close()
    return lost


def grown(book: Book) -> list[str]:
    """Return the resources that kept growing after the run had settled."""
    found = []
    last_s = book.seen[-1]["at_s"] if book.seen else 0
    middle = [seen for seen in book.seen if SETTLED <= seen["at_s"] / last_s < SETTLED + 0.2]
    end = [seen for seen in book.seen if seen["at_s"] / last_s >= 0.8]
    for name in ("service_bytes", "service_fds", "store_bytes", "store_fds", "disk_bytes"):
        before = max((seen[name] for seen in middle), default=0)
        after = sorted(seen[name] for seen in end)[len(end) // 2] if end else 0
        slack = 30 if name.endswith("fds") else SLACK_BYTES
        # The log grows until it is rewritten at double its size, but not below 64 MB.
        limit = (160 << 20) if name == "disk_bytes" else before * GROWTH + slack
        if after > limit:
            found.append(f"{name} grew from {before:.0f} to {after:.0f}")
    return found


def figures(
    book: Book, given: argparse.Namespace, lost: list[str], grew: list[str]
) -> dict[str, Any]:
    """Return the results to print and to save."""
    ordered = sorted(book.latencies) or [0.0]
    acts = sum(book.outcomes.values())
    first, last = book.seen[len(book.seen) // 3], book.seen[-1]
    return {
        "seconds": given.seconds,
        "acts": acts,
        "acts_per_s": round(acts / given.seconds, 1),
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 2),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 2),
        "restarts": len(book.restarts),
        "away_s": {
            how: round(max(s for h, s in book.restarts if h == how), 2)
            for how in dict(book.restarts)
        },
        "repeated_calls": book.repeats,
        "outcomes": dict(sorted(book.outcomes.items())),
        "held_at_the_end": len(book.held),
        "lost": len(lost),
        "wrong": len(book.wrong),
        "grew": grew,
        "after_a_third": {k: round(v) for k, v in first.items()},
        "at_the_end": {k: round(v) for k, v in last.items()},
    }


def main() -> int:
    """Run the soak and print its results; return the exit code."""
    clean_signals()
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--rate", type=int, default=500, help="acts a second")
    parser.add_argument("--every", type=float, default=180, help="seconds between restarts")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    given = parser.parse_args()
    book = Book()
    with tempfile.TemporaryDirectory(prefix="dibs-soak-") as folder:
        limits = {"DIBS_RATE_PER_SESSION": "0", "DIBS_RATE_PER_PROJECT": "0"}
        with Restarted(Path(folder), env=limits) as service:
            asyncio.run(run(service, book, given))
            lost, grew = missing(service, book), grown(book)
            service.stop()
    told = figures(book, given, lost, grew)
    print(json.dumps(told, indent=1))
    for line in [*lost[:5], *book.wrong[:5]]:
        print(line, file=sys.stderr)
    if given.json:
        given.json.write_text(json.dumps(told, indent=1) + "\n")
    return 1 if lost or book.wrong or grew else 0


if __name__ == "__main__":
    sys.exit(main())
