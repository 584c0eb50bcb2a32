"""The cost of a forge: the time of its answers, its effect on claims, and finding a claim.

python -m bench.forge            50 events a second during claims, 100,000 claims; 90 s
python -m bench.forge --quick    a few short rounds, 2,000 claims
"""

import asyncio
import contextlib
import http.client
import json
import math
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.forge.told import pull, signed
from tests.harness import acting
from tests.harness.processes import clean_signals, end, start

from bench import contenders, figures
from bench.contenders import ROOT, load
from bench.figures import Figure, Say
from bench.growth import store_url
from dibs import results
from dibs.model import Project, Session, Task
from dibs.store import Rules, Store
from dibs.store.redis.link import PipelineLink

RATE, SECONDS, ROUNDS, LANES = 50, 2.0, 12, 8
SENDERS = 4
"""Concurrent deliveries: a forge does not wait for one answer before it sends the next."""
LEAD_S = 1.6
"""Seconds by which the events outlast the load, which needs a moment to begin."""
TASKS = 100
"""The number of tasks in the forge's project; each has a pull request that is opened and closed."""
FEW, MANY, LOOKS = 10, 100_000, 200
ADMIN, SECRET = "an-admin-key-of-this-bench", "a-webhook-secret-for-tests"
ENV = {"DIBS_ADMIN_KEY": ADMIN, "DIBS_GITHUB_SECRET": SECRET}
P99_MS, SHARE_LEAST, GROWTH_MOST = 20.0, 0.97, 1.5
DESCRIPTION = "What was changed and why, in as many words as a session writes. " * 300
"""A description that makes a delivery about 20 KiB, as GitHub's are."""


def deliver(port: int, first: int, seconds: float) -> list[tuple[float, float]]:
    """Send RATE events a second; return each one's due time and its ms from then on."""
    now, took = time.time(), list[tuple[float, float]]()
    prepared = [_delivery(first + number, now) for number in range(math.ceil(seconds * RATE))]
    print("ready", flush=True)
    began = time.time()

    def tell(lane: int) -> None:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for number in range(lane, len(prepared), SENDERS):
            body, head = prepared[number]
            due = began + number / RATE
            time.sleep(max(0.0, due - time.time()))
            link.request("POST", "/hooks/github", body, head)
            reply = link.getresponse()
            said = reply.read()
            took.append((due, (time.time() - due) * 1000))
            if reply.status != 202 or json.loads(said)["result"] != "done":
                raise RuntimeError(f"the hook answered {reply.status} {said[:500]!r}")

    with ThreadPoolExecutor(SENDERS) as senders:
        list(senders.map(tell, range(SENDERS)))
    return took


def _delivery(number: int, now: float) -> tuple[bytes, dict[str, str]]:
    """Return the next event of a pull request: opened, closed, reopened, and so on."""
    turn, task = divmod(number, TASKS)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 3_600 + turn))
    told = pull("acme/web", ("opened", "closed", "reopened", "closed")[turn % 4], task)
    told["pull_request"] |= {"updated_at": at, "body": DESCRIPTION}
    told["pull_request"]["head"]["ref"] = f"feat/{task}"
    body = json.dumps(told).encode()
    names = {"X-GitHub-Event": "pull_request", "X-GitHub-Delivery": str(uuid.uuid4())}
    return body, {"Content-Type": "application/json", **names, **signed(body, SECRET)}


def measure(say: Say, *, quick: bool = False) -> list[Figure]:
    """Return the measured figures."""
    with contextlib.ExitStack() as held:
        folder = held.enter_context(contenders.folder())
        service = held.enter_context(contenders.dibs("dibs", data=folder, env=ENV))
        say("forge: claims, with and without events")
        beside = _beside(service, say, *((2, 1.2) if quick else (ROUNDS, SECONDS)))
        many = 2_000 if quick else MANY
        say(f"forge: making {many:,} claims")
        for project, count in (("bench.few", FEW), ("bench.many", many)):
            asyncio.run(_fill(folder, Project(project), count))
        say("forge: finding a claim")
        return beside + _found(service.port, many)


def _beside(service: contenders.Contender, say: Say, rounds: int, seconds: float) -> list[Figure]:
    """Measure claims on LANES connections, in turns alone and during RATE events a second."""
    caller = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    head = {"Dibs-Session": str(uuid.uuid4()), "Content-Type": "application/json"}
    for number in range(TASKS):
        fields = {"task": f"T-{number}", "branch": f"feat/{number}", "ttl": "12h"}
        caller.request("POST", "/v1/acme.web/claim", json.dumps(fields), head)
        caller.getresponse().read()
    load(service, "claim", LANES, seconds)  # a warm-up
    alone, beside, took, told = list[float](), list[float](), list[float](), 0
    for turn in range(rounds):
        for is_beside in (turn % 2 == 0, turn % 2 == 1):
            if not is_beside:
                alone.append(load(service, "claim", LANES, seconds)["rate"])
                continue
            with _forge(service.port, told, seconds + LEAD_S) as events:
                began = time.time()
                beside.append(load(service, "claim", LANES, seconds)["rate"])
                over = time.time()
            took += [ms for due, ms in events if began + LEAD_S / 4 < due < over - LEAD_S / 4]
            told += len(events)
    share = statistics.median(b / a for a, b in zip(alone, beside, strict=True))
    p50, p99 = (statistics.quantiles(took, n=100)[at] for at in (49, 98))
    what = f"a webhook of 20 KiB, {RATE} a second during claims on {LANES} connections"
    rates = f"{statistics.median(beside):,.0f} against {statistics.median(alone):,.0f} a second"
    return [
        Figure(f"{what}, p99", f"≤ {P99_MS:g} ms", f"{p99:.1f} ms (p50 {p50:.1f})", p99 <= P99_MS),
        Figure(
            "claims a second during those events ÷ without them",
            f"≥ {SHARE_LEAST:g}",
            f"{share:.2f} ({rates})",
            share >= SHARE_LEAST,
        ),
    ]


@contextlib.contextmanager
def _forge(port: int, first: int, seconds: float) -> Iterator[list[tuple[float, float]]]:
    """Send events from a separate process during the block; fill the yielded list at its end."""
    plan, took = json.dumps([port, first, seconds]), list[tuple[float, float]]()
    command = [sys.executable, "-m", "bench.forge", "--deliver", plan]
    forge = start(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert forge.stdout
        forge.stdout.readline()
        yield took
        said, _ = forge.communicate(timeout=60)
        took += map(tuple, json.loads(said))
    finally:
        end(forge)


async def _fill(folder: Path, project: Project, count: int) -> None:
    """Claim `count` tasks, each on its own branch and pull request."""
    most = dict.fromkeys(("rate_per_session", "rate_per_project", "claims_per_project"), 10**7)
    store = Store(PipelineLink.to(store_url(folder)), Rules(**most, record_bytes=10**12))
    await store.open()

    async def one(number: int) -> None:
        session, tasks = Session(str(uuid.uuid4())), [Task(f"T-{number}")]
        branch, pr = f"feat/{number}", f"https://e.org/pull/{number}"
        outcome = await acting.claim(store, project, session, tasks, branch=branch, pr=pr)
        if not isinstance(outcome, results.Granted):
            raise RuntimeError(f"a claim returned {outcome}")

    for first in range(0, count, 500):
        await asyncio.gather(*map(one, range(first, min(first + 500, count))))
        await store.tick()
    await store.close()


def _found(port: int, many: int) -> list[Figure]:
    """Measure the time to find a claim among few and among many, in turns."""
    caller = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    key = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}

    def ask(project: str, way: str, number: int) -> float:
        body, method, path = None, "GET", f"claims?branch=feat/{number}"
        if way == "resolve":
            told = {"pr": f"https://e.org/pull/{number}", "outcome": "merged", "fence": 1}
            body, method, path = json.dumps(told), "POST", "resolve"
        began = time.perf_counter()
        caller.request(method, f"/v1/{project}/{path}", body, key)
        reply = caller.getresponse()
        said = json.loads(reply.read())
        took = (time.perf_counter() - began) * 1000
        # The fence is another tenure's, so the verdict changes nothing and can be repeated.
        if reply.status != 412 if way == "resolve" else len(said.get("claims", ())) != 1:
            raise RuntimeError(f"{way} was answered {reply.status} {said}")
        return took

    found = []
    for way in ("verify", "resolve"):
        took: dict[int, list[float]] = {FEW: [], many: []}
        for turn in range(LOOKS):
            for project, count in (("bench.few", FEW), ("bench.many", many)):
                took[count].append(ask(project, way, turn * 7_919 % count))
        few, all_of = (statistics.median(each) for each in took.values())
        what = {
            "verify": "time to find a claim by its branch",
            "resolve": "time of a verdict by pull request",
        }
        found.append(
            Figure(
                f"{what[way]} among {many:,} claims ÷ among {FEW}",
                f"≤ {GROWTH_MOST:g}",
                f"{all_of / few:.2f} ({all_of:.2f} and {few:.2f} ms)",
                all_of / few <= GROWTH_MOST,
            )
        )
    return found


def main() -> int:
    """Measure and print the figures; report missed targets; return the exit code."""
    if len(sys.argv) == 3 and sys.argv[1] == "--deliver":  # a process started by _forge()
        clean_signals()
        print(json.dumps(deliver(*json.loads(sys.argv[2]))))
        return 0
    said = "medians of alternating rounds."
    return figures.main("bench.forge", __doc__, "A forge", said, measure)


if __name__ == "__main__":
    sys.exit(main())
