"""The modules that a call loads before it begins: an agent waits for them at each tool call."""

import json
import sys

import pytest
from tests.client.conftest import CLIENT, Make
from tests.harness.processes import run

# Runs dibs.py as its command does, then prints the names of the modules that were loaded.
LOADING = """
import gc, io, os, sys, time
folder, *words = sys.argv[1:]
known = set(sys.modules)
sys.path.insert(0, folder)
import dibs
del sys.path[0]
code = dibs.main(words)
print(" ".join(sorted(set(sys.modules) - known)))
sys.exit(code)
"""
# Modules that each take at least a tenth of a claim's time to load.
HEAVY = (
    "argparse", "calendar", "dataclasses", "datetime", "decimal", "gettext", "http.client",
    "inspect", "locale", "pathlib", "ssl", "subprocess", "tempfile", "threading", "typing",
    "unicodedata", "urllib.parse", "_strptime",
)  # fmt: skip
BEAT = json.dumps({"hook_event_name": "PostToolUse", "session_id": "c0ffee", "tool_name": "Bash"})


def loaded(make: Make, *words: str) -> set[str]:
    """Return the modules loaded by a call of a session that has just claimed T-1."""
    ann = make(CLAUDE_CODE_SESSION_ID="c0ffee")
    ann.dibs("claim", "T-1").said(0)
    command = [sys.executable, "-IS", "-c", LOADING, str(CLIENT.parent), *words]
    done = run(command, cwd=ann.repo, env=ann.env, input=BEAT)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.splitlines()[-1].split())


def test_a_hook_that_follows_another_loads_dibs_py_and_nothing_else(sandbox: Make) -> None:
    assert loaded(sandbox, "hook") == {"dibs"}


@pytest.mark.parametrize("words", ["claim T-2", "claim T-1", "beat", "verify T-1", "done T-1"])
def test_what_a_session_runs_loads_nothing_heavy(sandbox: Make, words: str) -> None:
    found = loaded(sandbox, *words.split())
    assert "socket" in found
    assert found & set(HEAVY) == {"gettext"}  # an empty stand-in module
