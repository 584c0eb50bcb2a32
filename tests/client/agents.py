"""A stand-in for an agent: one process that starts its hooks and commands as its children."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from tests.client.conftest import CommandAnswer, Sandbox
from tests.harness import processes

PROGRAM = """
import json, os, subprocess, sys
for line in sys.stdin:
    command, text, env, cwd = json.loads(line)
    done = subprocess.run(["sh", "-c", command + "; exit $?"], input=text, text=True,
        capture_output=True, env=env, cwd=cwd)
    print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
"""
NAMED_BY = "CLAUDE_CODE_SESSION_ID"


class Agent:
    """One agent on a machine. It may have several conversations, one after another."""

    def __init__(self, box: Sandbox, conversation: str, *, tells: bool = True) -> None:
        """`tells`: whether the agent tells its commands which conversation they belong to."""
        self.box, self.conversation, self.tells = box, conversation, tells
        self.process = processes.start(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        box.started.append(self.process)

    def run(self, command: list[str], text: str, **env: str | None) -> CommandAnswer:
        """Run a command through a shell, as the agent does."""
        assert self.process.stdin
        assert self.process.stdout
        named = {NAMED_BY: self.conversation} if self.tells else {}
        environ = self.box.environ({**named, **env})
        line = json.dumps([" ".join(command), text, environ, str(self.box.repo)])
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        code, stdout, stderr = json.loads(self.process.stdout.readline())
        return CommandAnswer(command, code, stdout, stderr)

    def dibs(self, *words: str, **env: str | None) -> CommandAnswer:
        """Run a dibs command."""
        return self.run(self.box.command(*words), "", **env)

    def hook(self, event: str, env: Mapping[str, str | None] | None = None, **fields: Any) -> str:
        """Run the hook of an event and return its output."""
        payload = {"session_id": self.conversation, "hook_event_name": event, **fields}
        where = {"CLAUDE_PROJECT_DIR": str(self.box.repo), **(env or {})}
        answer = self.run(self.box.command("hook"), json.dumps(payload), **where).said(0)
        assert answer.stderr == ""
        return answer.stdout

    def begins(self, source: str = "startup") -> str:
        """Start or resume a conversation."""
        return self.hook("SessionStart", source=source)

    def clears(self, conversation: str) -> str:
        """Run the hooks of a person's `/clear`: one conversation ends and another begins."""
        self.hook("SessionEnd", reason="clear")
        self.conversation = conversation
        return self.begins("clear")
