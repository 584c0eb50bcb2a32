"""The parts of docs/performance.md that a run of the comparison writes."""

import os
import re
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
**The machine was not quiet:** other work used processors and disk during this run. This affects
services with several processes and a synced log the most. Run it again on an idle machine before
you rely on it.
"""
MEASURED = re.compile(r"(<!-- measured: ([a-z ]+) -->\n).*?(<!-- /measured -->)", re.DOTALL)
"""The parts of the page that a run writes; the text around them is written by hand."""


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
    what = "store memory per live claim with all fields, 60 of it to find names that look alike"
    rows.append((what, "≤ 800 bytes", bytes_each))
    return table(("figure", "target", "measured"), rows)


def _rates(results: Results) -> str:
    names = _names(results)
    rows = []
    for act, about in ACTS.items():
        row = [about]
        for name in names:
            found = results.get((name, act, 32))
            row.append(f"{found['rate']:,.0f}" if found else "–")
        rows.append(row)
    return table(("calls a second", *names), rows)


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
    head = ("a fresh claim", "processor time, µs", "cores used by the load generator")
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
    head += ["waiting for the disk, µs", "service, µs", "service, cores"]
    return table(head, rows)


def _budget(results: Results) -> str:
    """Return a table of the time that each target leaves for a claim and the time it takes."""
    rows = []
    for what, ours, theirs, least in TARGETS:
        mine, other = results.get((ours, "claim", 32)), results.get((theirs, "claim", 32))
        if not mine or not other:
            continue
        rate = other["rate"] * least
        whole = ours != EVERYSEC  # its store is apart: compare one process
        cores = CORES if whole else 1
        spent = mine["cpu_us"] + (mine["busy"] / mine["rate"] * 1e6 if whole else 0)
        left = cores / rate * 1e6
        rows.append((what, f"{rate:,.0f}", str(cores), f"{left:.0f}", f"{spent:.0f}"))
    return table(("target", "claims/s required", "cores", "µs a claim", "measured"), rows)


def measured(
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
) -> dict[str, str]:
    """Return the results of a run by the marks of the page."""
    run = (
        f"Measured by `make bench` on {date}: {machine}; load average {busy:.1f} at the start; "
        f"{took_s:.0f} s.\n"
    )
    lacks = "".join(f"\n**Missing:** {line}\n" for line in missing)
    return {
        "run": run + (QUIET if busy < 1 else NOT_QUIET) + lacks,
        "targets": _targets(results, growth),
        "rates": _rates(results) + "\n" + _ratios(results),
        "latency": _latency(results) + "\n" + _processor(results),
        "turns": _turns(turns),
        "budget": _budget(results),
        "scripts": table(("script", "by redis-benchmark"), list(scripts.items())),
        "growth": _growth(growth),
        "clients": table(
            ("one process", "ms"), [(name, f"{ms:.0f}") for name, ms in clients.items()]
        ),
    }


def filled(page: str, anew: Mapping[str, str]) -> str:
    """Return the page with new results between its marks. Raise ValueError if the page's marks are
    not those of a run."""
    marks = [found[2] for found in MEASURED.finditer(page)]
    if sorted(marks) != sorted(anew):
        raise ValueError(f"the page's marks are {marks}, those of a run {list(anew)}")
    return MEASURED.sub(lambda found: f"{found[1]}\n{anew[found[2]]}\n{found[3]}", page)
