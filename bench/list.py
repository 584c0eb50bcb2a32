"""The cost of a list of tasks: writing it, and taking the next task from it.

python -m bench.list            100,000 tasks, about three minutes
python -m bench.list --quick    5,000 tasks
"""

import contextlib
import http.client
import json
import statistics
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import redis

from bench import contenders, figures
from bench.contenders import LANES, load
from bench.figures import Figure, Say
from bench.growth import store_url
from bench.wires import FACTS, PROJECT

MANY, IMPORTED, DEPENDENTS, A_CALL = 100_000, 10_000, 1_000, 500
SECONDS, ROUNDS = 0.5, 9
Entry = dict[str, Any]


class ListCaller:
    """A session with its own connection."""

    def __init__(self, port: int, project: str = PROJECT) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._project, self._session = project, str(uuid.uuid4())

    def post(self, call: str, **fields: Any) -> float:
        """POST; return the seconds it took."""
        head = {"Dibs-Session": self._session, "Content-Type": "application/json"}
        body, began = json.dumps(fields), time.perf_counter()
        self._http.request("POST", f"/v1/{self._project}/{call}", body, head)
        reply = self._http.getresponse()
        said = reply.read()
        took = time.perf_counter() - began
        if reply.status not in (200, 201):
            raise RuntimeError(f"{call}: {reply.status} {said[:500]!r}")
        return took

    def write(self, entries: list[Entry]) -> float:
        """Write a list, with the most entries that a call may have; return the seconds it took."""
        calls = range(0, len(entries), A_CALL)
        return sum(self.post("tasks", tasks=entries[at : at + A_CALL]) for at in calls)


def entry(name: str, number: int) -> Entry:
    """Return a task with a title, as most have, and a priority."""
    title = f"Let the parser read dates of kind {number:06}"
    return {"task": f"{name}-{number:06}", "title": title, "priority": number % 5}


def with_text(name: str, number: int) -> Entry:
    """Return the same task with an import's fields: a text of 480 characters, a need, a link."""
    more = {
        "body": "What is to be done, in a few sentences. " * 12,
        "url": "https://e.org/issues/7",
    }
    needs = {"needs": [f"{name}-{number - 1:06}"]} if number % 10 else {}
    return entry(name, number) | more | needs


def measure(say: Say, *, quick: bool = False) -> list[Figure]:
    """Return the measured figures."""
    many = 5_000 if quick else MANY
    imported = 1_000 if quick else IMPORTED
    with contextlib.ExitStack() as held:
        folder = held.enter_context(contenders.folder())
        service = held.enter_context(contenders.dibs("dibs", data=folder))
        store = held.enter_context(
            contextlib.closing(redis.Redis.from_url(store_url(folder), socket_timeout=60))
        )
        say(f"list: writing {imported:,} tasks")
        found = list(_import(service.port, imported))
        say("list: bytes")
        found += _bytes(service.port, store, 5_000 if quick else 30_000)
        say(f"list: writing {many:,} tasks")
        ListCaller(service.port).write([entry("T", number) for number in range(many)])
        say("list: dependents")
        found.append(_dependents(service.port, 3 if quick else 9))
        say("list: next and claims, in turns")
        found.append(_next(service, many, quick=quick))
    return found


def _import(port: int, many: int) -> Iterator[Figure]:
    lead, entries = ListCaller(port, "bench.import"), [with_text("I", n) for n in range(many)]
    share = many / IMPORTED
    for what, most_s in (("all new", 10), ("all unchanged", 5)):
        took = lead.write(entries)
        what = f"time to write {many:,} tasks with texts of 480 characters, {what}, 500 a call"
        yield Figure(what, f"≤ {most_s * share:g} s", f"{took:.1f} s", took <= most_s * share)


def _bytes(port: int, store: Any, many: int) -> Iterator[Figure]:
    def used() -> int:
        for key in store.scan_iter("dibs:*:rates:*", 1_000):
            store.delete(key)
        return int(store.info("memory")["used_memory"])

    # First fill the event stream to its full length, so that the figures do not include its growth.
    kept = ListCaller(port, "bench.bytes")
    kept.write([entry("W", n) for n in range(12_000)])
    before = used()
    kept.write([entry("K", n) for n in range(many)])
    what = "store memory per listed task with a title of 39 characters and no body"
    yield _bytes_each(what, (used() - before) / many, 500)
    before = used()
    for first in range(0, many, 25):
        tasks = [f"L-{number:06}" for number in range(first, first + 25)]
        ListCaller(port, "bench.bytes").post("claim", all_of=tasks, **FACTS)
    what = "store memory per claim on an unlisted task with all fields, on one branch"
    yield _bytes_each(what, (used() - before) / many, 700)


def _bytes_each(what: str, each: float, most: int) -> Figure:
    return Figure(what, f"≤ {most} bytes", f"{each:.0f} bytes", each <= most)


def _dependents(port: int, rounds: int) -> Figure:
    lead, took = ListCaller(port), list[float]()
    for turn in range(rounds):
        need = f"D-{turn}"
        others = [entry(f"D-{turn}", n) | {"needs": [need]} for n in range(DEPENDENTS)]
        lead.write([{"task": need}, *others])
        lead.post("claim", task=need)
        took.append(lead.post("release", task=need, outcome="done") * 1000)
    found = statistics.median(took)
    what = f"time to finish a task that {DEPENDENTS:,} others need"
    return Figure(what, "≤ 20 ms", f"{found:.1f} ms (at most {max(took):.1f})", found <= 20)


def _next(service: contenders.Contender, many: int, *, quick: bool) -> Figure:
    ratios, rates = [], []
    for turn in range(3 if quick else ROUNDS + 1):
        seconds = 0.2 if quick else SECONDS
        one, other = (load(service, act, LANES, seconds)["rate"] for act in ("claim", "next"))
        if turn:  # the first round is a warm-up
            ratios.append(other / one)
            rates.append(other)
    ratio = statistics.median(ratios)
    what = f"`next` a second among {many:,} listed tasks ÷ claims by name in the same project"
    found = f"{ratio:.2f} ({statistics.median(rates):,.0f} a second)"
    return Figure(what, "≥ 0.9", found, ratio >= 0.9)


def main() -> int:
    """Measure and print the figures; report missed targets; return the exit code."""
    said = f"{LANES} connections, medians of alternating rounds."
    return figures.main("bench.list", __doc__, "A list of tasks", said, measure)


if __name__ == "__main__":
    sys.exit(main())
