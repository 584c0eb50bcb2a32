"""The action's script, run as a workflow runs it: in a process, with an event in a file."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness import processes
from tests.harness.services import ServiceProcess

ROOT = Path(__file__).parents[2]
SCRIPT = Path(os.environ.get("DIBS_TEST_ACTION", ROOT / "action/dibs_action.py"))


@dataclass(frozen=True)
class ActionRun:
    """The result of a step."""

    code: int
    said: str


@dataclass(frozen=True)
class Workflow:
    """The workflow of one repository."""

    service: ServiceProcess
    folder: Path
    repository: str
    key: str = ""

    def run(
        self, event: Any, name: str = "pull_request", do: str = "verify", **settings: str
    ) -> ActionRun:
        """Run the step for an event; bytes are written unchanged."""
        file = self.folder / "event.json"
        file.write_bytes(event if isinstance(event, bytes) else json.dumps(event).encode())
        env = {
            "PATH": os.environ["PATH"],
            "GITHUB_EVENT_NAME": name,
            "GITHUB_EVENT_PATH": str(file),
            "GITHUB_REPOSITORY": self.repository,
            "GITHUB_SERVER_URL": "https://github.com",
            "DIBS_DO": do,
            "DIBS_URL": self.service.url,
            "DIBS_KEY": self.key,
            "DIBS_PROJECT": "",
            **settings,
        }
        ran = processes.run([sys.executable, "-I", SCRIPT], env=env, timeout=60)
        assert ran.stderr == ""
        return ActionRun(ran.returncode, ran.stdout)

    def verify(self, event: Any, name: str = "pull_request", mode: str = "require") -> ActionRun:
        """Run the required check."""
        return self.run(event, name, DIBS_MODE=mode)

    def resolve(self, event: Any) -> ActionRun:
        """Run the step for a closed pull request."""
        return self.run(event, "pull_request_target", "resolve")
