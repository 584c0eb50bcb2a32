"""The fence, checked where the work lands, always keeps a paused holder's write out."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from tests.client.conftest import CLIENT, Make, Sandbox
from tests.harness import processes

pytestmark = pytest.mark.long

SESSIONS, ROUNDS_EACH = 20, 10

# One session in a separate process, so that it can be frozen: it makes the calls that it is sent
# and prints each answer. It repeats a refused claim until the task is free.
SESSION = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("dibs_client", sys.argv[1])
dibs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dibs)
session = dibs.Session(dibs.Setup())
for line in sys.stdin:
    act, body = json.loads(line)
    answer = None
    while answer is None:
        try:
            answer = session.post(act, body) if act else body
        except dibs.Failure as failure:
            if failure.code != dibs.REFUSED:
                raise
            dibs.time.sleep(0.05)
    print(json.dumps(answer), flush=True)
"""


class Shelf:
    """A resource that refuses writes with a fence older than one it has seen."""

    def __init__(self) -> None:
        self.fence, self.last_writer, self.refused = 0, "", 0

    def write(self, fence: int, who: str) -> None:
        """Accept the write, or refuse it as stale."""
        if fence < self.fence:
            self.refused += 1
        else:
            self.fence, self.last_writer = fence, who


class FrozenSession:
    """A session in a process that can be frozen."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.process = processes.start(
            [sys.executable, "-c", SESSION, str(CLIENT)],
            cwd=sandbox.repo,
            env=sandbox.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, act: str, body: Any) -> None:
        """Send the next call to make."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps([act, body]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Wait for its next answer."""
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def freeze(self) -> None:
        """Stop the process and wait until it is stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def wake(self) -> None:
        """Continue the process."""
        self.process.send_signal(signal.SIGCONT)


def test_no_stale_write_is_taken_in_200_rounds_of_paused_holders(sandbox: Make) -> None:
    heir = FrozenSession(sandbox(DIBS_LABEL="heir"))
    holders = [FrozenSession(sandbox(DIBS_LABEL=f"holder-{n}")) for n in range(SESSIONS)]
    refused = 0
    try:
        for number in range(ROUNDS_EACH):
            refused += one_round(heir, holders, number)
    finally:
        for worker in (heir, *holders):
            processes.end(worker.process)
    assert refused == SESSIONS * ROUNDS_EACH


def one_round(heir: FrozenSession, holders: list[FrozenSession], number: int) -> int:
    """Freeze every holder past its ttl, give its task away, wake it, and let both write."""
    tasks = [f"T-{number}-{n}" for n in range(len(holders))]
    shelves = [Shelf() for _ in holders]
    for holder, task in zip(holders, tasks, strict=True):
        holder.ask("claim", {"task": task, "ttl": "1s"})
    fences = [holder.answer()["fence"] for holder in holders]
    for holder in holders:
        holder.freeze()
    for shelf, task in zip(shelves, tasks, strict=True):
        heir.ask("claim", {"task": task})
        shelf.write(heir.answer()["fence"], "heir")
    for holder, fence in zip(holders, fences, strict=True):
        holder.wake()
        holder.ask("", {"fence": fence})
    for shelf, holder in zip(shelves, holders, strict=True):
        shelf.write(holder.answer()["fence"], "holder")
        assert shelf.last_writer == "heir"
    heir.ask("release", {"all": True})
    heir.answer()
    return sum(shelf.refused for shelf in shelves)
