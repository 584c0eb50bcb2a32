"""What one call of the client costs in a session's shell: the whole process, start to end."""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.harness.processes import run

from bench import contenders
from bench.contenders import ROOT

CLIENT = ROOT / "client" / "dibs.py"
HOOK = json.dumps(
    {"hook_event_name": "PostToolUse", "session_id": "bench", "tool_name": "Bash", "cwd": "."}
)


def measure(say: Callable[[str], None], rounds: int) -> dict[str, float]:
    """Return the median time of each call in ms."""
    say("the client's processes")
    with contenders.dibs("dibs strict") as service, tempfile.TemporaryDirectory() as home:
        env = {
            k: v for k, v in os.environ.items() if not k.startswith(("DIBS_", "CLAUDE", "PYTHON"))
        }
        env |= {
            "HOME": home,
            "XDG_STATE_HOME": home,
            "DIBS_URL": f"http://127.0.0.1:{service.port}",
            "DIBS_PROJECT": "bench.repo",
            "DIBS_LABEL": "bench",
        }
        who = f"Dibs-Session: {uuid.uuid4()}"
        url = f"{env['DIBS_URL']}/v1/bench.repo/claim"
        # As `init` lays them; the command finds this Python as python3.
        folder = Path(home, "bin")
        folder.mkdir()
        for path in (CLIENT, ROOT / "skill" / "dibs"):
            shutil.copy(path, folder)
        (folder / "python3").symlink_to(sys.executable)
        env["PATH"] = f"{folder}:{env['PATH']}"
        dibs, script = ["sh", f"{folder}/dibs"], [sys.executable, f"{folder}/dibs.py"]
        calls: dict[str, list[str]] = {
            "`python3 -c pass`": [sys.executable, "-c", "pass"],
            "`curl` a claim": ["curl", "-s", "-H", who, "-d", "task=T-curl", url],
            "`dibs claim`": [*dibs, "claim", "T-client"],
            "`python3 dibs.py claim`": [*script, "claim", "T-client"],
            "`dibs beat`": [*dibs, "beat"],
            "`dibs hook`, throttled": [*dibs, "hook"],
        }
        spans: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds + 1):
            for name, command in calls.items():
                if command[0] == "curl" and not _have_curl():
                    continue
                began = time.perf_counter()
                run(
                    command,
                    input=HOOK if "hook" in command else "",
                    env=env,
                    cwd=Path(home),
                    timeout=30,
                    check="curl" not in command,
                )
                spans[name].append((time.perf_counter() - began) * 1000)
        return {name: statistics.median(found[1:]) for name, found in spans.items() if found[1:]}


def _have_curl() -> bool:
    return shutil.which("curl") is not None
