"""The page docs/performance.md, made from one run."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[tuple[str, str, int], Mapping[str, float]]
STRICT, EVERYSEC = "dibs strict", "dibs everysec"
PLAIN, ETCD, ECHO = "plain FastAPI", "etcd gateway", "framework echo"
ORDER = (STRICT, EVERYSEC, PLAIN, ETCD, ECHO)
ACTS = {
    "claim": "claim, fresh",
    "refused": "claim, refused",
    "beat": "heartbeat, one",
    "beat-all": "heartbeat, all 5",
    "release": "release",
    "cycle": "claim, beat, release",
    "list": "list of 200",
    "show": "show",
}
TARGETS = (
    ("strict ÷ etcd", STRICT, ETCD, 1.5),
    ("strict ÷ plain FastAPI", STRICT, PLAIN, 2.4),
    ("everysec ÷ framework echo", EVERYSEC, ECHO, 0.8),
)


CORES = os.cpu_count() or 1
QUIET = ""
NOT_QUIET = """
**The machine was not quiet:** other work took processors and disk during this run, which hits what
runs in several processes and syncs a log the hardest. Run it again on an idle machine before you
rely on it.
"""
PROFILE = """\
What the service's own process does for one fresh claim, by a sampling profiler (py-spy, 500 Hz),
everysec, 32 connections, in µs (not part of the run above):

| part | µs |
|---|--:|
| uvicorn: write the answer, the kernel's part included | 14 |
| uvicorn: parse the request, start a task | 10 |
| reading and checking session, project and body | 7 |
| hashing the session, the call to the store without its wire | 9 |
| the wire: pack, write, parse the reply | 5 |
| record to claim, claim to JSON | 11 |
| dispatch, headers, counting | 8 |
| the loop, and reading from sockets | 6 |

The framework's echo takes some 65, 45 of them for routing, injection, validation and the response.
The POSTs of sessions go past those 45 (api/fast_path.py); what dibs does in their place comes to
about as much.
"""
KEPT = """\
Kept, measured beside the same code without it, claims a second of everysec / of strict:

- each call written to the store when it is made, not a task later: + 23 % / + 15 %;
- one connection for all calls: + 20 % / + 2 %;
- head and body of an answer in one write: + 7 % / + 2 %;
- claims as structs rather than dataclasses: + 3 % / 0, lists + 10 %;
- views as JSON, rates in one hash, rules as numbers in the scripts: + 22 % / + 8 %;
- the link to the store as a protocol of its own: + 5 % / 0; the acts without the layers around the
  framework: 5 % less of the service;
- a record as one JSON text: 4 µs less of the store, lists + 17 %;
- 100 freed blocks kept by the store's malloc: – / + 7 %;
- scripts that define only the functions they need: 10 % less of the script, + 4 % of strict;
- fewer headers on the answer of an act: + 6 % / 0.

Gone because it gave under 5 % anywhere, or less than nothing: a heap frozen for the garbage
collector, or none; rates that are not written to the log; answers of the store handed on a few at a
time; a bound on the calls that are under way, or one batch of them at a time; processes pinned to
cores; batch scheduling; a thread of the store's for its sockets (+ 20 %, for a whole core).
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _names(results: Results) -> list[str]:
    return [name for name in ORDER if any(key[0] == name for key in results)]


def _targets(results: Results, growth: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for what, ours, theirs, least in TARGETS:
        mine, other = results.get((ours, "claim", 32)), results.get((theirs, "claim", 32))
        ratio = f"{mine['rate'] / other['rate']:.2f}" if mine and other else "not in this run"
        rows.append((f"claims a second, {what}", f"≥ {least}", ratio))
    small = growth[0]
    for large in growth[1:]:
        for what, name, bound in (
            ("claims a second", "rate", "≥ 0.9"),
            ("time for a list of 200", "list_p50_ms", "≤ 1.3"),
        ):
            ratio = large[name] / small[name]
            rows.append((f"{what}, {large['claims']} ÷ 1,000", bound, f"{ratio:.2f}"))
    most = max(growth[1:], key=lambda each: each["bytes_each"])
    bytes_each = f"{most['bytes_each']:.0f} bytes"
    rows.append(("store memory per live claim, all facts given", "≤ 700 bytes", bytes_each))
    return table(("what", "to reach", "found"), rows)


def _rates(results: Results) -> str:
    names = _names(results)
    rows = []
    for act, about in ACTS.items():
        row = [about]
        for name in names:
            found = results.get((name, act, 32))
            row.append(f"{found['rate']:,.0f}" if found else "–")
        rows.append(row)
    return table(("a second", *names), rows)


def _ratios(results: Results) -> str:
    names = _names(results)
    rows = []
    for act, about in ACTS.items():
        base = results.get((STRICT, act, 32))
        row = [about]
        for name in names:
            found = results.get((name, act, 32))
            row.append(f"{found['rate'] / base['rate']:.2f}" if found and base else "–")
        rows.append(row)
    return table(("÷ dibs strict", *names), rows)


def _latency(results: Results) -> str:
    rows = []
    for name in _names(results):
        row = [name]
        for lanes in (1, 16, 32, 64):
            found = results.get((name, "claim", lanes))
            row.append(f"{found['p50_ms']:.2f} / {found['p99_ms']:.1f}" if found else "–")
        rows.append(row)
    return table(("p50 / p99 in ms", "1", "16", "32", "64 connections"), rows)


def _processor(results: Results) -> str:
    rows = []
    for name in _names(results):
        found = results[name, "claim", 32]
        rows.append((name, f"{found['cpu_us']:.0f}", f"{found['busy']:.2f}"))
    head = ("a fresh claim", "processor time, µs", "cores taken by the generator of load")
    return table(head, rows)


def _growth(growth: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            each["claims"],
            f"{each['rate']:,.0f}",
            f"{each['list_p50_ms']:.1f}",
            f"{each['start_s']:.1f}",
            f"{each['sweep_ms']:.1f}",
            f"{each['bytes_each']:.0f}",
        )
        for each in growth
    ]
    head = ("live claims", "claims/s", "list of 200, ms", "start, s", "sweep of all, ms")
    return table((*head, "bytes a claim"), rows)


def _turns(turns: Sequence[Mapping[str, float]]) -> str:
    if not turns:
        return "(This store does not count its turns: Valkey and Redis do from 7.2 on.)\n"
    rows = [
        (
            f"{each['lanes']:.0f}",
            f"{each['rate']:,.0f}",
            f"{each['a_turn']:.1f}",
            f"{each['script_us']:.0f}",
            f"{each['other_us']:.0f}",
            f"{each['waiting_us']:.0f}",
            f"{each['service_us']:.0f}",
            f"{each['service_us'] * each['rate'] / 1e6:.2f}",
        )
        for each in turns
    ]
    head = ["connections", "claims/s", "claims a turn", "store: script, µs", "other work, µs"]
    head += ["waiting for the disk, µs", "service, µs", "of a core"]
    return table(head, rows)


def _budget(results: Results) -> str:
    """What each target leaves for a claim, and what a claim takes."""
    rows = []
    for what, ours, theirs, least in TARGETS:
        mine, other = results.get((ours, "claim", 32)), results.get((theirs, "claim", 32))
        if not mine or not other:
            continue
        rate = other["rate"] * least
        whole = ours != EVERYSEC  # its store is not its own: one process is what can be compared
        cores = CORES if whole else 1
        spent = mine["cpu_us"] + (mine["busy"] / mine["rate"] * 1e6 if whole else 0)
        left = cores / rate * 1e6
        rows.append((what, f"{rate:,.0f}", str(cores), f"{left:.0f}", f"{spent:.0f}"))
    return table(("target", "claims/s it takes", "cores", "µs a claim", "found"), rows)


def page(
    *,
    machine: str,
    date: str,
    busy: float,
    took_s: float,
    results: Results,
    missing: Sequence[str],
    turns: Sequence[Mapping[str, float]],
    scripts: Mapping[str, str],
    growth: Sequence[Mapping[str, Any]],
    clients: Mapping[str, float],
) -> str:
    """Return the page."""
    quiet = QUIET if busy < 1 else NOT_QUIET
    lacks = quiet + "".join(f"\n**Missing:** {line}\n" for line in missing)
    raw = table(("script", "by redis-benchmark"), list(scripts.items()))
    calls = table(("one process", "ms"), [(name, f"{ms:.0f}") for name, ms in clients.items()])
    return f"""# Performance

Written by `make bench` on {date}: {machine}; load average {busy:.1f} at the start; {took_s:.0f} s.
Figures of different machines do not compare, and neither do those of different runs; the ratios of
one run do.
{lacks}
## What it is to reach

32 connections, medians of rounds that take turns:

{_targets(results, growth)}
## Calls a second

32 connections that are kept, one call under way on each:

{_rates(results)}
{_ratios(results)}
A list of the plain service scans the whole store, and its heartbeat for five claims is five calls,
counted one by one; etcd's is one keep-alive of the lease that all five hang on.

## Time for a claim

{_latency(results)}
{_processor(results)}
Processor time is that of all processes that a contender starts: dibs with its private store (not
with everysec, whose store is started by the bench, as is the plain service's), etcd whole.

## Where the time of a claim goes

{PROFILE}
dibs strict by itself, for each claim, by the store's count of its turns: it answers nobody before
what the turn wrote is synced.

{_turns(turns)}
What the targets leave for a claim in all processes together, the generator of load included (for
everysec in the service alone), and what was found:

{_budget(results)}
Where more was found than is left, or nearly as much, the processor rules the target out: no program
has all of the cores all of the time. Beside that the turns of the store are a bound, on 32
connections a million µs ÷ (script + other work + waiting) claims a second for one service. The wait
depends on the disk: this one syncs in 0.1 ms when the last sync was just before, and in 0.5 to 1 ms
after a pause of as little as 0.5 ms. On 128 connections a sync is shared by more claims.

{KEPT}
## The scripts alone

A store as dibs starts it (`appendfsync always`), 32 clients, no pipelining:

{raw}
## Growth

The same service on stores of different size, taking turns. The claims that fill a store say label,
branch, url and a note of 60 characters, each by a session of its own. A start reads the whole log.

{_growth(growth)}
## In a session's shell

Median time of a whole process; `dibs` is the command that `init` lays into a repository.
`python -m bench.sides --client ../checkout-of-before` compares two checkouts by processor time.

{calls}
## How it is measured

- One command, one run: every contender is up the whole time, and each act goes round them in turn.
- **dibs strict** is `dibs serve` as it comes: a private store, `appendfsync always`. **everysec**
  is the same service on a store that syncs once a second. Rates and quotas are checked, and never
  reached.
- **plain FastAPI** (bench/plain.py) is what most teams would write first: `SET NX EX`, on the same
  store with everysec. It has no fence, queue, events or atomic renewal.
- **etcd gateway** is Debian's etcd-server over its JSON gateway, one node, every write synced: a
  claim is a transaction that puts a key on the session's lease if it is not there.
- **framework echo** (bench/echo.py) is Litestar on uvicorn answering a claim with its own body.
- The generator of load (bench/load.py) is a process of its own on epoll, without a framework. Its
  share of a core is in the table above: near 1 it would be what is measured.
"""
