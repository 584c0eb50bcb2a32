"""Thousands of calls generated from the service's own description, which its answers must match."""

import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.harness import processes
from tests.harness.services import running
from tests.proofs import stores

from dibs.model import Project

EXAMPLES = int(os.environ.get("DIBS_PROOF_EXAMPLES", "8"))
"""Random cases for each operation, in each random phase of schemathesis."""
CALLS = 500
"""The calls that a run makes at least: an odd description could allow none."""
SHORT_EXAMPLES, SHORT_CALLS = 2, 100
"""With `--short`."""
SEED = os.environ.get("DIBS_PROOF_SEED", "1")
ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")
ADMIN = "an-admin-key-of-this-test"
PLENTY = {f"DIBS_MAX_CLAIMS_PER_{whose}": "1000000" for whose in ("SESSION", "PROJECT")}
NO_RATES = {f"DIBS_RATE_PER_{whose}": "0" for whose in ("SESSION", "PROJECT")}


@pytest.mark.timeout(120 + EXAMPLES * 2)
def test_every_call_that_the_description_allows_is_answered_as_it_says(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    is_short = pytestconfig.getoption("short")
    examples, least = (SHORT_EXAMPLES, SHORT_CALLS) if is_short else (EXAMPLES, CALLS)
    with ExitStack() as held:
        service_env = {"DIBS_ADMIN_KEY": ADMIN, **PLENTY, **NO_RATES}
        if stores.KIND != "embedded":  # which the service starts itself
            store = stores.backing(tmp_path, Project("p"))
            held.callback(store.stop)
            service_env["DIBS_REDIS_URL"] = store.url
        service = held.enter_context(running(tmp_path / "service", env=service_env))
        script = "import sys; from schemathesis.cli import schemathesis; schemathesis()"
        command = [sys.executable, "-c", script, "--config-file", str(CONFIG), "run"]
        command += [f"{service.url}/openapi.json"]
        command += ["--checks", "all", "--max-examples", str(examples), "--seed", SEED]
        command += ["-H", f"Authorization: Bearer {ADMIN}", "--no-color"]
        env = os.environ | {"SCHEMATHESIS_HOOKS": "tests.proofs.generated_calls"}
        ran = processes.run(
            command,
            env=env | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            cwd=tmp_path,
            timeout=110 + examples * 2,
        )
        print(ran.stdout[-1500:])
        log = service.log.read_text()
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    cases = re.search(r"(\d+) generated", ran.stdout)
    assert cases, "schemathesis did not say how many calls it made"
    assert int(cases[1]) >= least, f"only {cases[1]} calls were made"
    assert "Traceback" not in log, log[-3000:]
