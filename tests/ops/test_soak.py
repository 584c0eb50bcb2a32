"""A short soak: load with restarts loses no claim and nothing grows. `make soak` runs longer."""

import json
import os
import sys
from pathlib import Path

import pytest
from tests.harness.processes import run

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(240)
def test_load_with_restarts_loses_nothing(tmp_path: Path) -> None:
    seconds = 40 if os.environ.get("CI") == "true" else 20
    told = run(
        [
            *(sys.executable, "-m", "bench.soak"),
            *("--seconds", str(seconds), "--every", str(seconds / 5), "--rate", "250"),
            *("--json", str(tmp_path / "figures.json")),
        ],
        cwd=ROOT,
        timeout=220,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["lost"], figures["wrong"], figures["grew"]) == (0, 0, [])
    assert set(figures["away_s"]) == {"stop", "kill", "store"}, "each kind of restart happened"
    assert figures["acts"] > seconds * 100
