"""The cost of one client call in a session's shell: the whole process, start to end."""

import contextlib
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.harness.processes import run

from bench import contenders
from bench.contenders import ROOT

HOOK = json.dumps(
    {"hook_event_name": "PostToolUse", "session_id": "bench", "tool_name": "Bash", "cwd": "."}
)
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Installed:
    """A client as `init` installs it, on a separate machine."""

    folder: Path
    env: dict[str, str]

    def calls(self) -> dict[str, list[str]]:
        """Return the measured commands by name: the claim first, the hook throttled."""
        sh = ["sh", str(self.folder / "dibs")]
        script = [sys.executable, str(self.folder / "dibs.py")]
        return {
            "`dibs claim`": [*sh, "claim", "T-client"],
            "`python3 dibs.py claim`": [*script, "claim", "T-client"],
            "`dibs beat`": [*sh, "beat"],
            "`python3 dibs.py beat`": [*script, "beat"],
            "`dibs hook`, throttled": [*sh, "hook"],
            "`python3 dibs.py hook`, throttled": [*script, "hook"],
        }

    def time(self, command: list[str]) -> tuple[float, float]:
        """Run a command; return its elapsed time and its processor time in milliseconds."""
        began, cpu_s = time.perf_counter(), _cpu_s()
        run(
            command,
            input=HOOK if "hook" in command else "",
            env=self.env,
            cwd=self.folder,
            timeout=30,
            check="curl" not in command,
        )
        return (time.perf_counter() - began) * 1000, (_cpu_s() - cpu_s) * 1000


def _cpu_s() -> float:
    """Return the processor time of the commands that have ended. (No service ends meanwhile.)"""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def installed(checkout: Path, port: int, label: str) -> Iterator[Installed]:
    """Install the client of a checkout as `init` does; its command finds this Python as python3."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, "bin")
        folder.mkdir()
        for path in (*checkout.glob("client/*.py"), *checkout.glob("skill/*")):
            shutil.copy(path, folder)
        (folder / "python3").symlink_to(sys.executable)
        kept = ("DIBS_", "CLAUDE", "PYTHON")
        env = {k: v for k, v in os.environ.items() if not k.startswith(kept)}
        env |= {
            "HOME": home,
            "XDG_STATE_HOME": home,
            "DIBS_URL": f"http://127.0.0.1:{port}",
            "DIBS_PROJECT": f"bench.{label}",
            "DIBS_LABEL": label,
            "PATH": f"{folder}:{env['PATH']}",
        }
        yield Installed(folder, env)


def measure(say: Callable[[str], None], rounds: int) -> dict[str, float]:
    """Return the median time of each call in ms."""
    say("the client's processes")
    with (
        contenders.dibs("dibs strict") as service,
        installed(ROOT, service.port, "bench") as client,
    ):
        url = f"{client.env['DIBS_URL']}/v1/bench.bench/claim"
        who = f"Dibs-Session: {uuid.uuid4()}"
        calls = {"`python3 -c pass`": [sys.executable, "-c", "pass"]}
        if shutil.which("curl"):
            calls["`curl` a claim"] = ["curl", "-s", "-H", who, "-d", "task=T-curl", url]
        calls |= client.calls()
        for name in ("`python3 dibs.py beat`", "`python3 dibs.py hook`, throttled"):
            del calls[name]
        client.time(calls["`dibs hook`, throttled"])  # it records the conversation before the claim
        times: Times = {name: [] for name in calls}
        for _ in range(rounds + 1):
            for name, command in calls.items():
                times[name].append(client.time(command)[0])
        return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def compare(before: Path, rounds: int) -> None:
    """Print the processor time of each call, for the client of another checkout and of this one."""
    with (
        contenders.dibs("dibs strict") as service,
        installed(before, service.port, "before") as old,
        installed(ROOT, service.port, "now") as new,
    ):
        for name in new.calls():
            pairs = []
            for number in range(rounds + 1):
                order = (old, new) if number % 2 else (new, old)
                taken = {each.folder: each.time(each.calls()[name])[1] for each in order}
                pairs.append((taken[old.folder], taken[new.folder]))
            was, now = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
            print(f"{name}: before {was:.1f} ms, now {now:.1f} ms, {now / was:.3f}", flush=True)
