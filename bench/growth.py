"""The effect of a full store on each act: one service on 1 thousand and on 1 million claims."""

import asyncio
import contextlib
import csv
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis
from tests.harness.processes import run

from bench import contenders
from bench.contenders import LANES, Contender, Missing, load
from bench.wires import FACTS, PROJECT
from dibs.acts import SCRIPTS, claim, heartbeat
from dibs.model import Project
from dibs.store import Rules, Store
from dibs.store.redis.link import PipelineLink

SIZES = (
    ("1,000 in 1 project", 1_000, 1),
    ("100,000 in 1 project", 100_000, 1),
    ("1,000,000 in 1 project", 1_000_000, 1),
    ("1,000,000 in 10,000", 1_000_000, 10_000),
)
QUICK = (("1,000 in 1 project", 1_000, 1), ("50,000 in 1,000", 50_000, 1_000))

# The keys and fields are those of a claim: see lua/record.lua. One call makes a thousand claims,
# because a million calls of the service would take minutes for the same result.
_FILL = """
local project, first, count, now, facts = KEYS[1], ARGV[1], ARGV[2], ARGV[3], cjson.decode(ARGV[4])
for i = first, first + count - 1 do
  local task, owner = 'T-' .. string.format('%07d', i), string.format('%032x', i)
  local due = string.format('%.0f', now + 1800000 + i % 600000)
  redis.call('SET', project .. ':task:' .. task, cjson.encode({state = 'held', owner = owner,
    fence = string.format('%.0f', now * 1000 + i), ttl = '1800000', since = now, beat = now,
    due = due, label = facts.label, branch = facts.branch, url = facts.url,
    note = facts.note}))
  redis.call('ZADD', project .. ':live', due, task)
  redis.call('SADD', project .. ':held:' .. owner, task)
end
"""


@dataclass(slots=True)
class Grown:
    """The results for one number of claims."""

    claims: str
    rate: float = 0.0
    list_p50_ms: float = 0.0
    start_s: float = 0.0
    sweep_ms: float = 0.0
    bytes_each: float = 0.0


def _fill(url: str, claims: int, projects: int) -> float:
    """Put claims into a store; return the bytes that each takes."""
    with contextlib.closing(redis.Redis.from_url(url, socket_timeout=60)) as store:
        store.config_set(
            "appendfsync", "no"
        )  # during the fill: a sync for each thousand claims is slow
        before = store.info("memory")["used_memory"]
        fill, now = store.register_script(_FILL), int(time.time() * 1000)
        each = claims // projects
        for number in range(projects):
            name = PROJECT if projects == 1 else f"bench.{number}"
            store.zadd("dibs:projects", {name: now})
            for first in range(0, each, 1_000):
                count = min(1_000, each - first)
                fill([f"dibs:{{{name}}}"], [first, count, now, json.dumps(FACTS)])
        store.config_set("appendfsync", "always")
        return float(store.info("memory")["used_memory"] - before) / claims


def measure(say: Callable[[str], None], *, quick: bool = False) -> list[dict[str, Any]]:
    """Return the results for each size; the sizes take turns."""
    found: list[Grown] = []
    with contextlib.ExitStack() as held:
        running: list[Contender] = []
        for name, claims, projects in QUICK if quick else SIZES:
            say(f"growth: {name}")
            folder = held.enter_context(contenders.folder())
            grown = Grown(name)
            with contenders.dibs(name, data=folder):
                grown.bytes_each = _fill(store_url(folder), claims, projects)
            began = time.perf_counter()
            running.append(held.enter_context(contenders.dibs(name, data=folder)))
            grown.start_s = time.perf_counter() - began
            grown.sweep_ms = asyncio.run(_sweep(store_url(folder), projects))
            found.append(grown)
        rates: dict[str, list[float]] = {}
        lists: dict[str, list[float]] = {}
        for _ in range(2 if quick else 10):
            say("growth: claims and lists")
            for contender in running:
                name = contender.name
                rates.setdefault(name, []).append(load(contender, "claim", LANES, 0.6)["rate"])
                listed = load(contender, "list", 1, 0.3, "bench.list")
                lists.setdefault(name, []).append(listed["p50_ms"])
    for grown in found:
        grown.rate = statistics.median(rates[grown.claims])
        grown.list_p50_ms = statistics.median(lists[grown.claims])
    return [asdict(grown) for grown in found]


def store_url(folder: Path) -> str:
    """Return the URL of the private store of a dibs that runs on `folder`."""
    return f"unix://{folder / 'data' / 'valkey.sock'}"


async def _sweep(url: str, projects: int) -> float:
    """Return the time of one sweep of all projects, in ms."""
    store = Store(PipelineLink.to(url), Rules())
    await store.open()
    names = [Project(PROJECT if projects == 1 else f"bench.{n}") for n in range(projects)]
    await store.sweep(names[0])
    began = time.perf_counter()
    for start in range(0, len(names), 50):  # as maintenance does
        await asyncio.gather(*map(store.sweep, names[start : start + 50]))
    took_ms = (time.perf_counter() - began) * 1000
    await store.close()
    return took_ms


def raw_scripts() -> dict[str, str]:
    """Return the rates of the scripts alone, from redis-benchmark with 32 clients."""
    program = shutil.which("redis-benchmark")
    if program is None:
        return {"not in this run": "redis-benchmark is missing (Debian: redis-tools)"}
    rules = Rules(stall_ms=10**9, claims_per_session=10**7, claims_per_project=10**7)
    rules = Rules(**(asdict(rules) | {"rate_per_session": 10**6, "rate_per_project": 10**6}))
    now = str(int(time.time() * 1_000_000))
    claiming = claim.Arguments(
        mode="one",
        tag="",
        ttl_ms="",
        reopen="",
        queue="",
        closed="",
        address_hash="",
        label=FACTS["label"],
        branch=FACTS["branch"],
        url=FACTS["url"],
        note=FACTS["note"],
        pr="",
    )
    acts = {
        "claim": [*claiming, "T-__rand_int__", ""],
        "heartbeat": [*heartbeat.Arguments("T-0", fence="", ttl_ms="", state="", note="", pr="")],
    }
    rates = {}
    with contenders.folder() as folder, contenders.redis(folder, "always") as url:
        client = redis.Redis.from_url(url)
        head = ["1", f"dibs:{{{PROJECT}}}", now, "0", "", "r", "0" * 32]
        first = claim.SCRIPT.fill(rules)
        client.execute_command("EVAL", first.text, *head, *claiming, "T-0", "")
        for name, args in acts.items():
            script = SCRIPTS[name].fill(rules)
            client.script_load(script.text)
            rates[name] = _benchmark(program, url, ["EVALSHA", script.sha, *head, *args])
        client.close()
    return rates


def _benchmark(program: str, url: str, command: list[str]) -> str:
    flags = ["-s", url.removeprefix("unix://"), "-c", "32", "-n", "30000", "-r", "100000000"]
    done = run([program, *flags, "--csv", *command], check=True)
    row = _last(csv.DictReader(done.stdout.splitlines()))
    return (
        f"{float(row['rps']):,.0f}/s, p50 {row['p50_latency_ms']}, p99 {row['p99_latency_ms']} ms"
    )


def _last(rows: Iterator[Any]) -> Any:
    found = list(rows)
    if not found:
        raise Missing("redis-benchmark printed nothing")
    return found[-1]
