"""Concurrent clients over real HTTP and a failing network, and a check of all that they were told.

Two service processes share a store. The store itself records every run of a script
(tests/proofs/recorded.py), so it is certain which acts took effect, and in which order: the runs
are replayed in the model, and each client's answers must be the model's.
"""

import http.client
import json
import os
import random
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from tests.harness.services import ServiceProcess
from tests.proofs import stores, witness
from tests.proofs.recorded import WITNESS
from tests.tools.faultproxy import FAULTS, FaultProxy

from dibs.model import Project
from dibs.store.keys import keys

CLIENTS = 16
TASKS = [f"hot {n}" for n in range(6)] + [f"cold/{n}" for n in range(10)]
PROJECT = "histories.repo"
ADMIN = "an-admin-key-of-a-test"
ODDS = dict(zip(FAULTS, (0.06, 0.08, 0.05, 0.10, 0.08), strict=True))
SETTINGS = {
    "DEFAULT_TTL": "2s",
    "MIN_TTL": "1s",
    "MAX_TTL": "4s",
    "PARK_TTL": "3s",
    "GRACE": "1s",
    "HANDOVER": "1s",
    "TICKET": "2s",
    "MAX_HOLD": "6s",
    "RATE_PER_SESSION": "0",
    "RATE_PER_PROJECT": "0",
    "ADMIN_KEY": ADMIN,
}
"""Spans so short that deadlines race with acts all the time."""
ATTEMPTS = 4
CLOCK_MS = 5
"""The milliseconds by which two processes' readings of one clock may differ."""


@dataclass
class Operation:
    """A client's request, and the answer to it."""

    path: str
    body: dict[str, Any]
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    sent_ms: float = 0
    heard_ms: float = 0
    attempts: int = 0
    silent: int = 0
    """The attempts after which the client could not know whether the act took effect."""
    reply: tuple[int, dict[str, Any]] | None = None


RECORDED = [sys.executable, str(Path(__file__).with_name("recorded.py"))]
"""The command of a service whose scripts record their runs."""


class Client(threading.Thread):
    """One session that acts at random."""

    def __init__(self, seed: int, number: int, proxies: list[FaultProxy], stop: threading.Event):
        super().__init__(name=f"client-{number}")
        self.dice = random.Random(f"{seed} {number}")
        self.session, self.label = str(uuid.uuid4()), f"client {number}"
        self.proxies, self.stop = proxies, stop
        self.fences: dict[str, int] = {}
        self.done: list[Operation] = []

    def run(self) -> None:
        while not self.stop.is_set():
            operation = self._choose()
            self._perform(operation)
            self.done.append(operation)
            self.stop.wait(self.dice.uniform(0, 0.05))

    def _choose(self) -> Operation:
        dice, mine = self.dice, sorted(self.fences)
        task = dice.choice(mine if mine and dice.random() < 0.7 else TASKS[: dice.choice([6, 16])])
        fence = self.fences.get(task) if dice.random() < 0.8 else None
        word = dice.choices(
            ["claim", "several", "heartbeat", "all", "release", "leave", "break"],
            [8, 2, 6, 3, 5, 1, 1],
        )[0]
        ttl = dice.choice([None, 1, 2, 3])
        body: dict[str, Any]
        match word:
            case "claim":
                task = dice.choice(TASKS[: dice.choice([4, 16])])
                body = {"task": task, "queue": dice.random() < 0.4, "reopen": dice.random() < 0.7}
                body |= {"wait": 1} if dice.random() < 0.1 else {}
            case "several":
                some = dice.sample(TASKS, dice.randint(1, 4))
                body = {dice.choice(["any_of", "all_of"]): some, "reopen": True}
            case "heartbeat":
                state = dice.choice([None, None, "working", "parked"])
                body = {"task": task, "fence": fence, "state": state, "ttl": ttl}
            case "all":
                return Operation("heartbeat", {"note": f"note {dice.random()}"})
            case "release":
                outcome = dice.choice(["released", "abandoned", "done"])
                body = {"task": task, "fence": fence, "outcome": outcome}
            case "leave":
                return Operation("release", {"all": True})
            case _:
                operation = Operation("break", {"task": task, "fence": fence or 7})
                operation.body["reason"] = operation.key
                return operation
        if word in ("claim", "several"):
            body |= {"ttl": ttl, "label": self.label, "note": f"by {self.label}"}
        path = "claim" if word == "several" else word
        return Operation(path, {k: v for k, v in body.items() if v is not None})

    def _perform(self, operation: Operation) -> None:
        operation.sent_ms = time.time() * 1000
        while operation.attempts < ATTEMPTS and not operation.reply:
            operation.attempts += 1
            try:
                status, body = self._post(operation)
            except (OSError, http.client.HTTPException, ValueError):
                operation.silent += 1
                continue
            if status == 503:
                operation.silent += body["outcome"] == "unknown"
                self.stop.wait(0.2)
                continue
            operation.heard_ms = time.time() * 1000
            operation.reply = status, body
            self._learn(status, body)

    def _post(self, operation: Operation) -> tuple[int, dict[str, Any]]:
        proxy = self.dice.choice(self.proxies)
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=6)
        headers = {"Content-Type": "application/json", "Dibs-Session": self.session}
        headers["Idempotency-Key"] = operation.key
        if operation.path == "break":
            headers["Authorization"] = f"Bearer {ADMIN}"
        try:
            path = f"/v1/{PROJECT}/{operation.path}"
            connection.request("POST", path, json.dumps(operation.body), headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def _learn(self, status: int, body: dict[str, Any]) -> None:
        for claim in body.get("claims", [body]) if status < 300 else []:
            if claim.get("mine"):
                self.fences[claim["task"]] = claim["fence"]


class World:
    """A store, two services, a failing network in front of each, and faults on request."""

    def __init__(self, folder: Path, seed: int, held: ExitStack) -> None:
        self.folder = folder
        self.dice = random.Random(f"{seed} trouble")
        self.trouble: Counter[str] = Counter()
        self.store = stores.backing(folder / "store", Project(PROJECT))
        held.callback(self.store.stop)
        env = {f"DIBS_{name}": value for name, value in SETTINGS.items()}
        env["DIBS_REDIS_URL"] = self.store.url
        self.services = [
            ServiceProcess(folder / f"service{n}", env=env, command=RECORDED) for n in (1, 2)
        ]
        for service in self.services:
            held.callback(service.stop)
            service.start()
        self.proxies = [
            held.enter_context(
                FaultProxy(("127.0.0.1", service.port), seed=seed + n, odds=ODDS, max_delay_s=0.3)
            )
            for n, service in enumerate(self.services)
        ]

    def kill_store(self) -> None:
        """Kill the store with SIGKILL, and start it again on its data."""
        self.store.kill()
        self.store.start()

    def pause_store(self) -> None:
        """Stop the store for a moment, or for longer than any ttl."""
        self.store.send(signal.SIGSTOP)
        time.sleep(self.dice.choice([0.5, 2, 6]))
        self.store.send(signal.SIGCONT)

    def kill_service(self) -> None:
        service = self.dice.choice(self.services)
        service.kill()
        service.start()

    def pause_service(self) -> None:
        service = self.dice.choice(self.services)
        os.kill(service.pid, signal.SIGSTOP)
        time.sleep(self.dice.choice([0.5, 2]))
        os.kill(service.pid, signal.SIGCONT)

    def run(self, clients: list[Client], stop: threading.Event, seconds: float) -> None:
        """Run the clients for `seconds`, with a fault every two seconds."""
        acts = [self.kill_store, self.pause_service, self.kill_service, self.pause_store]
        until, number = time.monotonic() + seconds, 0
        for client in clients:
            client.start()
        while not stop.wait(min(2.0, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                stop.set()
                break
            act = acts[number % len(acts)]
            number += 1
            act()
            self.trouble[act.__name__] += 1
        for client in clients:
            client.join(60)
            assert not client.is_alive(), "a client hangs"


@contextmanager
def world(folder: Path, seed: int) -> Iterator[World]:
    with ExitStack() as held:
        yield World(folder, seed, held)


def witnessed(store: redis.Redis) -> list[witness.ScriptRun]:
    """Return every run of a script, in the order in which they took effect."""
    runs, at = [], 0
    key = keys(Project(PROJECT)) + WITNESS
    while page := store.lrange(key, at, at + 999):
        for line in page:
            name, args, reply = json.loads(line)
            runs.append(witness.ScriptRun(name, PROJECT, list(args), lists(reply)))
        at += len(page)
    return runs


def lists(value: Any) -> Any:
    """Turn Lua's empty table, which JSON shows as {}, into a list."""
    if value == {}:
        return []
    return [lists(each) for each in value] if isinstance(value, list) else value
