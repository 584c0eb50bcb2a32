"""Sessions in separate processes that race for tasks, with the real client.

`python -m tests.races.racing --rounds 200` prints the results of a long run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.harness import processes
from tests.harness.services import ServiceProcess, running

CLIENT = Path(__file__).parents[2] / "client" / "dibs.py"
NO_LIMITS = {
    "DIBS_RATE_PER_SESSION": "0",
    "DIBS_RATE_PER_PROJECT": "0",
    "DIBS_MAX_CLAIMS_PER_SESSION": "5000",
    "DIBS_MAX_CLAIMS_PER_PROJECT": "5000",
}


class Racer:
    """A session on its own machine: a separate home and secret."""

    def __init__(self, url: str, project: str, home: Path, name: str) -> None:
        home.mkdir(parents=True)
        self.name = name
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("DIBS_", "CLAUDE"))}
        self.env = clean | {
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "DIBS_URL": url,
            "DIBS_PROJECT": project,
            "DIBS_LABEL": name,
            "DIBS_SESSION": str(uuid.uuid4()),
        }

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start the client."""
        return processes.start(
            [sys.executable, "-S", str(CLIENT), *words],
            env=self.env,
            cwd=self.env["HOME"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def race_for_one(service: ServiceProcess, folder: Path, racers: int, rounds: int) -> Counter[str]:
    """Let `racers` processes race for one task, again and again; count their outcomes."""
    told: Counter[str] = Counter()
    for number in range(rounds):
        field = [
            Racer(service.url, f"race.{number}", folder / f"{number}-{n}", f"racer-{n}")
            for n in range(racers)
        ]
        running = [racer.start("claim", "the-task", "--json") for racer in field]
        codes: Counter[int] = Counter()
        for process in running:
            out, err = process.communicate(timeout=60)
            codes[process.returncode] += 1
            if process.returncode == 1:
                problem = json.loads(out)
                assert problem["claim"]["holder"]["label"].startswith("racer-"), out
                assert 0 < problem["claim"]["expires_in"] <= 1800, out
            elif process.returncode != 0:
                raise AssertionError(f"exit {process.returncode}: {out}{err}")
        assert codes == {0: 1, 1: racers - 1}, f"round {number}: {codes}"
        told.update(won=codes[0], refused=codes[1])
    return told


def share_out(
    service: ServiceProcess, folder: Path, sessions: int, tasks: list[str]
) -> dict[str, str]:
    """Let `sessions` claim all tasks, each in its own order; return each task's winner."""
    won: dict[str, str] = {}

    def work(number: int) -> list[str]:
        racer = Racer(service.url, "share.out", folder / f"s-{number}", f"session-{number}")
        turn = len(tasks) * number // sessions
        mine = []
        for task in tasks[turn:] + tasks[:turn]:
            process = racer.start("claim", task, "--json")
            out, err = process.communicate(timeout=60)
            assert process.returncode in (0, 1), f"exit {process.returncode}: {out}{err}"
            if process.returncode == 0:
                mine.append(task)
        return mine

    with ThreadPoolExecutor(sessions) as pool:
        for number, mine in enumerate(pool.map(work, range(sessions))):
            for task in mine:
                assert task not in won, f"{task}: session-{number} and {won[task]}"
                won[task] = f"session-{number}"
    return won


def main() -> None:
    """Print the results of a long run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--racers", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=200)
    flags = parser.parse_args()
    processes.clean_signals()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running(folder / "service", env=NO_LIMITS) as service:
            told = race_for_one(service, folder, flags.racers, flags.rounds)
    print(f"{flags.rounds} rounds of {flags.racers} processes: {dict(told)}")


if __name__ == "__main__":
    main()
