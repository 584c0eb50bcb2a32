"""Processes that each take the next task until none is left, and a check of what they did.

`python -m tests.races.draining --processes 50 --tasks 500` prints the results of a long run.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

PROJECT = "drain"
ROOT = Path(__file__).parents[2]


class DrainingSession:
    """A session with its own connection."""

    def __init__(self, port: int) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.session = str(uuid.uuid4())

    def post(self, call: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """POST a JSON body."""
        head = {"Dibs-Session": self.session, "Content-Type": "application/json"}
        self.http.request("POST", f"/v1/{PROJECT}/{call}", json.dumps(fields), head)
        reply = self.http.getresponse()
        return reply.status, json.loads(reply.read())

    def get(self, path: str) -> dict[str, Any]:
        """GET a resource of the project."""
        self.http.request("GET", f"/v1/{PROJECT}/{path}")
        found: dict[str, Any] = json.loads(self.http.getresponse().read())
        return found


def work(port: int) -> None:
    """Take and finish the next task until none is left; print the finished tasks."""
    worker, did = DrainingSession(port), list[str]()
    while True:
        status, body = worker.post("claim", next=True)
        if status == 201:
            did.append(body["task"])
            ended, told = worker.post("release", task=body["task"], outcome="done")
            assert ended == 200, told
        elif status == 409 and not any(body["counts"][why] for why in ("held", "blocked")):
            break
        else:
            assert status == 409, body
            worker.get("claims?limit=1")  # a short wait, in which the holders can work
    print(json.dumps(did))


def tasks_of(many: int, deep: int) -> list[dict[str, Any]]:
    """Return a list of `many` tasks, in chains and meshes `deep` levels deep, of all priorities."""
    wide = many // deep
    entries = []
    for number in range(many):
        level, place = divmod(number, wide)
        needs = {f"T-{(level - 1) * wide + (place + step) % wide}" for step in range(place % 3 + 1)}
        entry: dict[str, Any] = {"task": f"T-{number}", "priority": (place * 7 + level) % 5}
        # Later tasks come first in the list, so that its order alone cannot give the right result.
        entries.append(entry | ({"needs": sorted(needs)} if 0 < level < deep else {}))
    return entries[::-1]


def drain(port: int, processes: int, entries: list[dict[str, Any]]) -> Counter[str]:
    """List the tasks, let processes take them, check the result; return each task's count."""
    from tests.harness.processes import start

    lead = DrainingSession(port)
    for first in range(0, len(entries), 500):
        status, told = lead.post("tasks", tasks=entries[first : first + 500])
        assert status == 200, told
    command = [sys.executable, "-S", str(Path(__file__)), "--work", str(port)]
    running = [start(command, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(processes)]
    did: Counter[str] = Counter()
    for number, process in enumerate(running):
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"worker {number} ended with {process.returncode}"
        mine = json.loads(out)
        assert not [task for task in mine if did[task]], "a task was granted twice"
        did.update(mine)
    assert did == Counter(entry["task"] for entry in entries), "each task is done once"
    check(events(lead), entries)
    lead.http.close()
    return did


def events(lead: DrainingSession) -> list[dict[str, Any]]:
    """Return all events of the project, in order."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = lead.get(f"events?limit=1000&after={after}")
        assert not page["reset"]
        if not page["events"]:
            return found
        found += page["events"]
        after = page["next"]


def check(told: list[dict[str, Any]], entries: list[dict[str, Any]]) -> None:
    """Replay the events; assert that each granted task was the first ready one at that moment."""
    place = {entry["task"]: (entry["priority"], at) for at, entry in enumerate(entries)}
    missing = {entry["task"]: set(entry.get("needs", ())) for entry in entries}
    ready = {task for task, needs in missing.items() if not needs}
    done: set[str] = set()
    for event in told:
        task = event["task"]
        match event["type"]:
            case "claimed":
                assert not missing[task], f"{task} was granted before {missing[task]}"
                first = min(ready, key=place.__getitem__)
                assert task == first, f"{task} {place[task]} was granted before {first}"
                ready.remove(task)
            case "done":
                done.add(task)
                for other, needs in missing.items():
                    if task in needs:
                        needs.remove(task)
                        if not needs:
                            ready.add(other)
    assert len(done) == len(entries)


def main() -> None:
    """Run rounds and print a line for each, or, with --work, be one of the processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=int, metavar="PORT")
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    flags = parser.parse_args()
    if flags.work:
        work(flags.work)
        return
    from tests.harness.processes import clean_signals
    from tests.harness.services import running
    from tests.races.racing import NO_LIMITS

    clean_signals()
    for number in range(flags.rounds):
        with tempfile.TemporaryDirectory() as name, running(Path(name), env=NO_LIMITS) as service:
            drain(service.port, flags.processes, tasks_of(flags.tasks, 10))
        print(f"round {number + 1}: {flags.tasks} tasks, {flags.processes} processes", flush=True)


if __name__ == "__main__":
    main()
