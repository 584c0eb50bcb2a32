"""Run the random proofs for a given time: `make prove ARGS="--minutes 60 --seed 7"`.

Each round runs the state machine, a long concurrent history and generated calls. Each of them gets
its own seed, which is printed, so that a failure can be run again alone. `--store redis` uses
Debian's server, `--store cluster` three primaries of it.
"""

import argparse
import os
import random
import sys
import time

from tests.harness import processes
from tests.proofs.stores import KINDS

MOST_S = 3600
"""Seconds that a part of a round may take; it usually takes a few minutes at most."""


def main() -> int:
    """Return 0 if every round passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=10, help="minutes after which no round starts (10)"
    )
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="the seed of a run to repeat"
    )
    parser.add_argument(
        "--store", choices=KINDS, default=KINDS[0], help=f"the kind of store ({KINDS[0]})"
    )
    wanted = parser.parse_args()
    processes.clean_signals()
    dice, until, rounds = random.Random(wanted.seed), time.monotonic() + wanted.minutes * 60, 0
    args = f"--minutes {wanted.minutes:g} --seed {wanted.seed} --store {wanted.store}"
    print(f"make prove ARGS='{args}'", flush=True)
    while rounds == 0 or time.monotonic() < until:
        rounds += 1
        for file, env in (
            ("test_state_machine.py", {"DIBS_PROOF_CASES": "400", "DIBS_PROOF_STEPS": "80"}),
            ("test_histories.py", {"DIBS_PROOF_SECONDS": "45"}),
            ("test_generated_calls.py", {"DIBS_PROOF_EXAMPLES": "250"}),
        ):
            seed = str(dice.randrange(10**6))
            took = time.monotonic()
            command = [sys.executable, "-m", "pytest", "-q", "-s", "-x", f"tests/proofs/{file}"]
            env |= {"DIBS_PROOF_SEED": seed, "DIBS_PROOF_STORE": wanted.store}
            print(f"\nround {rounds}: {file} with {env}", flush=True)
            round_ = processes.run(
                [*command, f"--hypothesis-seed={seed}"],
                env=os.environ | env,
                capture_output=False,
                timeout=MOST_S,
            )
            if round_.returncode:
                print(f"\nround {rounds} FAILED: {file} with {env}")
                return 1
            print(f"round {rounds}: {file} passed in {time.monotonic() - took:.0f} s", flush=True)
    print(f"\n{rounds} rounds passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
