"""Sixteen clients, two services, a failing network: every answer was right (I1, I5, I6).

The short form runs with the other tests; `make prove` runs the long one, with random seeds.
"""

import os
import random
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from tests.proofs import wire, witness
from tests.proofs.audit import Audit
from tests.proofs.histories import (
    CLIENTS,
    CLOCK_MS,
    PROJECT,
    SETTINGS,
    Client,
    Operation,
    World,
    witnessed,
    world,
)
from tests.proofs.reference_model import Model

from dibs.app import rules
from dibs.settings import load

SECONDS = float(os.environ.get("DIBS_PROOF_SECONDS", "8"))
LONG = SECONDS >= 30
SEED = int(os.environ.get("DIBS_PROOF_SEED", "1"))

Ran = list[tuple[Any, float]]
"""The model's answers each time an operation took effect, and when that was, in ms."""


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 120)
def test_what_concurrent_clients_hear_is_what_one_sequential_program_would_say(
    tmp_path: Path,
) -> None:
    print(f"seed {SEED}")
    random.seed(SEED)
    stop = threading.Event()
    with world(tmp_path, SEED) as here:
        clients = [Client(SEED, number, here.proxies, stop) for number in range(CLIENTS)]
        try:
            here.run(clients, stop, SECONDS)
        finally:
            stop.set()
        for service in here.services:
            service.stop()
        operations = {each.key: each for client in clients for each in client.done}
        with here.store.clients()[0] as store:
            ran, model = replayed(witnessed(store), operations)
            audit = Audit(store, PROJECT)
            audit.check(model)
        counts = compared(operations, ran)
        report(here, counts)


def replayed(
    runs: list[witness.ScriptRun], operations: dict[str, Operation]
) -> tuple[dict[str, Ran], Model]:
    """Replay every run in the model, in the recorded order."""
    settings = load(**{name.lower(): value for name, value in SETTINGS.items()})
    model, ran = Model(rules(settings)), defaultdict[str, Ran](list)
    for run in runs:
        if not witness.replayable(run):
            continue
        step = witness.step_of(run)
        answer = model.run(step)
        assert run.reply is not None
        assert run.reply[0] == answer[0], f"{step} resulted in {run.reply}, not in {answer}"
        if step.act == "sweep":
            continue
        key = step.args["reason"] if step.act == "break_" else step.request
        assert key in operations, f"no client requested {step}"
        ran[key].append((answer, step.now + int(run.args[1]) / 1000))
    return ran, model


def compared(operations: dict[str, Operation], ran: dict[str, Ran]) -> Counter[str]:
    """Compare each client's answers with the runs that took effect; return counts."""
    counts: Counter[str] = Counter(operations=len(operations))
    for key, operation in operations.items():
        counts[operation.path] += 1
        counts["attempts"] += operation.attempts
        counts["ambiguous"] += operation.silent
        answers = ran[key]
        counts["ran more than once"] += len(answers) > 1
        for _, at_ms in answers:
            assert operation.sent_ms - CLOCK_MS <= at_ms, f"{operation} ran before it was sent"
        if operation.reply is None:
            counts["never answered"] += 1
            counts["never answered, took effect"] += bool(answers)
            assert answers == [] or operation.silent, f"{operation} was denied, but ran"
            continue
        heard = wire.said(*operation.reply)
        in_time = [wire.told(a) for a, at_ms in answers if at_ms <= operation.heard_ms + CLOCK_MS]
        assert heard in in_time, f"{operation}\nwas answered {heard}\nbut the runs were {in_time}"
        counts[f"heard {heard[0]}"] += 1
        counts["told of a loss"] += len(heard[2])
    return counts


def report(here: World, counts: Counter[str]) -> None:
    """Print the run's counts; fail if it met too few faults to prove anything."""
    faults = sum((proxy.met for proxy in here.proxies), Counter[str]())
    print(f"{dict(counts)}\nnetwork: {dict(faults)}\ntrouble: {dict(here.trouble)}")
    for proxy in here.proxies:
        proxy.assert_every_fault_met_traffic()
    least = 50 if LONG else 10
    assert counts["ambiguous"] >= least, f"only {counts['ambiguous']} ambiguous outcomes"
    for word in ("kept", "refused", "not-mine", "ended"):
        assert counts[f"heard {word}"], f"no client was answered {word}"
