"""Compare dibs with what a team would use instead, in one run, and insert the results into
docs/performance.md.

python -m bench           the whole comparison, about six minutes
python -m bench --quick   one short round of everything, printed only
"""

import argparse
import contextlib
import datetime
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tests.harness.processes import clean_signals

from bench import client, contenders, figures, growth, report, turns
from bench.acts import ACTS
from bench.contenders import LANES, ROOT, Contender, Missing, Result, load
from bench.figures import Say

STRICT, EVERYSEC = "dibs strict", "dibs everysec"
PLAIN, ETCD, ECHO = "plain FastAPI", "etcd gateway", "framework echo"
PAGE = ROOT / "docs" / "performance.md"
Start = Callable[[str], AbstractContextManager[Contender]]
ALL: dict[str, Start] = {
    STRICT: contenders.dibs,
    EVERYSEC: lambda name: contenders.dibs(name, fsync="everysec"),
    PLAIN: contenders.plain,
    ETCD: contenders.etcd,
    ECHO: contenders.echo,
}
Results = dict[tuple[str, str, int], list[Result]]


def started(held: contextlib.ExitStack, missing: list[str]) -> list[Contender]:
    """Start every installed contender, and record the missing ones."""
    running = []
    for name, start in ALL.items():
        try:
            running.append(held.enter_context(start(name)))
        except Missing as lacks:
            missing.append(f"{name} is not in this run: {lacks}")
    return running


def compare(rounds: int, seconds: float, say: Say) -> tuple[Results, list[str]]:
    """Run every act on every contender in turn, `rounds` times."""
    results: Results = {}
    missing: list[str] = []
    with contextlib.ExitStack() as held:
        running = started(held, missing)
        for line in missing:
            say(line)
        for number in range(rounds):
            for act in ACTS:
                say(f"round {number + 1} of {rounds}: {act}")
                # The claim is the main result, so it has more rounds than the rest.
                for _ in range(3 if act == "claim" else 1):
                    for contender in running:
                        if contender.wire != "echo" or act == "claim":
                            result = load(contender, act, LANES, seconds)
                            results.setdefault((contender.name, act, LANES), []).append(result)
        for lanes in (1, 16, 64):
            say(f"latency on {lanes} connections")
            for _ in range(min(rounds, 2)):
                for contender in running:
                    result = load(contender, "claim", lanes, seconds)
                    results.setdefault((contender.name, "claim", lanes), []).append(result)
    return results, missing


def raw_scripts(say: Say) -> dict[str, str]:
    """Run the scripts alone with redis-benchmark, on a store as dibs starts it."""
    say("raw scripts")
    return growth.raw_scripts()


def machine() -> str:
    """Return a description of this machine."""
    model = "an unknown processor"
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()} "
        f"{platform.release().split('-')[0]}, Python {platform.python_version()}"
    )


def main() -> int:
    """Run the comparison, print the results, and write the page."""
    clean_signals()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, printed only")
    quick = parser.parse_args().quick
    began, say = time.monotonic(), figures.say()
    busy = os.getloadavg()[0]
    results, missing = compare(1 if quick else 3, 0.5 if quick else 0.8, say)
    turned = turns.measure(say)
    scripts = raw_scripts(say)
    growths = growth.measure(say, quick=quick)
    clients = client.measure(say, rounds=3 if quick else 15)
    anew = report.measured(
        machine=machine(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        busy=busy,
        took_s=time.monotonic() - began,
        results={key: _median(found) for key, found in results.items()},
        missing=missing,
        turns=turned,
        scripts=scripts,
        growth=growths,
        clients=clients,
    )
    print("\n".join(anew.values()))
    if not quick:
        PAGE.write_text(report.filled(PAGE.read_text("utf-8"), anew), "utf-8")
    return 0


def _median(found: list[Result]) -> Result:
    names = ("rate", "p50_ms", "p99_ms", "cpu_us", "busy")
    return {name: statistics.median(one[name] for one in found) for name in names}


if __name__ == "__main__":
    sys.exit(main())
