"""Two versions or setups of dibs in one run: rates in turn, and their ratio.

python -m bench.sides --before ../checkout-of-before    this code against another checkout's
python -m bench.sides --client ../checkout-of-before    the client's processes, by processor time
python -m bench.sides --replicas                        DIBS_REPLICAS=1 against 0, on loopback

The other checkout needs its own .venv (run make run or make test there first). A machine's speed
varies from run to run, so only the ratio is meaningful: the median over alternating rounds.
"""

import argparse
import contextlib
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench import client, contenders
from bench.contenders import Contender, load

ROUNDS = 9
SECONDS = 2.0


def main() -> None:
    """Measure and print a line for each pair."""
    parser = argparse.ArgumentParser(prog="python -m bench.sides", description=__doc__)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT")
    parser.add_argument("--client", type=Path, metavar="CHECKOUT")
    parser.add_argument("--replicas", action="store_true")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--act", default="claim")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    told = parser.parse_args()
    if told.client:
        client.compare(told.client.resolve(), told.rounds * 10)
    if told.before:
        python = str(told.before.resolve() / ".venv" / "bin" / "python")
        for fsync in ("always", "everysec"):
            with (
                contenders.dibs("before", fsync=fsync, python=python) as before,
                contenders.dibs("now", fsync=fsync) as now,
            ):
                compare(f"{told.act}, {fsync}", before, now, told.connections, told)
    if told.replicas:
        with replicated() as (alone, with_replica):
            compare("DIBS_REPLICAS=1", alone, with_replica, told.connections, told)


def compare(
    what: str, one: Contender, other: Contender, connections: int, told: argparse.Namespace
) -> None:
    """Load both in turn; print the medians and the median of the ratios."""
    rates: list[tuple[float, float]] = []
    for _ in range(told.rounds + 1):
        pair = [load(each, told.act, connections, SECONDS)["rate"] for each in (one, other)]
        rates.append((pair[0], pair[1]))
    rates.pop(0)  # the first round is a warm-up
    ratio = statistics.median(second / first for first, second in rates)
    medians = [statistics.median(column) for column in zip(*rates, strict=True)]
    print(
        f"{what}: {one.name} {medians[0]:.0f}/s, {other.name} {medians[1]:.0f}/s, "
        f"ratio {ratio:.3f} (median of {len(rates)}, {connections} connections)",
        flush=True,
    )


@contextlib.contextmanager
def replicated() -> Iterator[tuple[Contender, Contender]]:
    """Yield two services: one that waits for no replica and one that waits for one."""
    with contextlib.ExitStack() as held:
        services = []
        for name, replicas in (("none", "0"), ("one", "1")):
            url = held.enter_context(primary_and_replica())
            env = {"DIBS_REDIS_URL": url, "DIBS_REPLICAS": replicas}
            services.append(held.enter_context(contenders.dibs(name, fsync="everysec", env=env)))
        yield services[0], services[1]


@contextlib.contextmanager
def primary_and_replica() -> Iterator[str]:
    """Run a store and its replica, both syncing once a second; yield the store's URL."""
    with contextlib.ExitStack() as held:
        where = held.enter_context(contenders.folder())
        ports = [contenders.free_port(), contenders.free_port()]
        for number, port in enumerate(ports):
            folder = where / str(port)
            folder.mkdir()
            config = {"port": str(port), "dir": str(folder), "bind": "127.0.0.1", "save": ""}
            config |= {"appendonly": "yes", "appendfsync": "everysec"}
            config |= {"repl-diskless-sync-delay": "0"}
            if number:
                config["replicaof"] = f"127.0.0.1 {ports[0]}"
            words = [word for key, value in config.items() for word in (f"--{key}", value)]
            log = folder / "log"
            held.enter_context(contenders.process([contenders.server(), *words], log))
            contenders.wait_for(port, log)
        url = f"redis://127.0.0.1:{ports[0]}"
        wait_for_replica(url)
        yield url


def wait_for_replica(url: str) -> None:
    """Wait until the store reports that its replica follows."""
    import redis

    until = time.monotonic() + contenders.START_S
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        while time.monotonic() < until:
            if client.execute_command("WAIT", 1, 100):
                return
    raise subprocess.SubprocessError("the replica did not follow")


if __name__ == "__main__":
    main()
