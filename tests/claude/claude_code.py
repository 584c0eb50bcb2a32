"""The real Claude Code, run as a person or a program runs it, with a scripted model."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.claude.scriptedmodel import ScriptedModel, Step, scripted_model, use
from tests.client.conftest import Sandbox
from tests.harness import processes

CLAUDE = os.environ.get("DIBS_CLAUDE", "")
DIBS = "sh .claude/skills/dibs/dibs"
TOLD_S = 110.0
"""The time limit of a session with a few scripted turns, also on a busy machine."""
QUIET = (
    "DISABLE_TELEMETRY",
    "DISABLE_AUTOUPDATER",
    "DISABLE_ERROR_REPORTING",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
)


def environ(box: Sandbox, model: ScriptedModel, more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an agent in this sandbox that uses this model."""
    named = {"ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "nobody-checks-this"}
    return box.env | dict.fromkeys(QUIET, "1") | named | dict(more)


def claude(
    box: Sandbox,
    *steps: Step,
    flags: tuple[str, ...] = (),
    subs: dict[str, list[Step]] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> ScriptedModel:
    """Run one headless session with these steps; return the model, which has the requests."""
    with scripted_model(*steps, {"text": "that was all"}, **(subs or {})) as model:
        mode = () if "--permission-mode" in flags else ("--permission-mode", "acceptEdits")
        done = processes.run(
            [CLAUDE, "-p", "Work on T-1", *mode, *flags],
            cwd=cwd or box.repo,
            env=environ(box, model, env or {}),
            stdin=subprocess.DEVNULL,
            timeout=TOLD_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return model


class Conversation:
    """A session of several prompts, `/clear` included, until it is ended."""

    def __init__(self, box: Sandbox, model: ScriptedModel, *flags: str) -> None:
        self.model, self.id = model, ""
        streams = ("--input-format", "stream-json", "--output-format", "stream-json", "--verbose")
        self.process = processes.start(
            [CLAUDE, "-p", *streams, "--permission-mode", "acceptEdits", *flags],
            cwd=box.repo,
            env=environ(box, model, {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def send(self, text: str) -> None:
        """Send a prompt without waiting for the answer."""
        message = {"type": "user", "message": {"role": "user", "content": text}}
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def say(self, text: str) -> str:
        """Send a prompt; return the result at the end of the turn."""
        self.send(text)
        assert self.process.stdout
        for line in self.process.stdout:
            told: dict[str, Any] = json.loads(line)
            self.id = told.get("session_id", self.id)
            if told["type"] == "result":
                return str(told.get("result"))
        raise AssertionError("the session ended in the middle of a turn")

    def end(self) -> None:
        """Close the session's input and wait for its end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


@contextlib.contextmanager
def conversation(
    box: Sandbox,
    *steps: Step,
    flags: tuple[str, ...] = (),
    subs: dict[str, list[Step]] | None = None,
) -> Iterator[Conversation]:
    """Run a conversation for the length of a block."""
    with scripted_model(*steps, **(subs or {})) as model:
        talk = Conversation(box, model, *flags)
        try:
            yield talk
        finally:
            processes.end(talk.process)


def write(box: Sandbox, name: str) -> Step:
    """Return a step that writes a file of the repository."""
    return use("Write", file_path=str(box.repo / name), content="print(1)\n")


def bash(command: str, **given: Any) -> Step:
    """Return a step that runs a shell command."""
    return use("Bash", command=command, description="run it", **given)


def agent(prompt: str, **given: Any) -> Step:
    """Return a step that starts a sub-agent."""
    kind = {"description": prompt, "subagent_type": "general-purpose"}
    return use("Agent", prompt=prompt, **(kind | given))


def trust(box: Sandbox, *folders: Path) -> None:
    """Record that a person trusts the files of these folders."""
    trusted = {str(path): {"hasTrustDialogAccepted": True} for path in (box.repo, *folders)}
    (box.home / ".claude.json").write_text(json.dumps({"projects": trusted}))
