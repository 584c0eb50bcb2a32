"""No history of agents gives two live sessions one secret, or one session two secrets.

The client's own code runs here in random histories of starts, `/clear`, resumes, forks, exits,
sub-agents and replaced machines. No service is needed to compare identities.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.client.conftest import KEY, NAMED
from tests.client.parts import client, hook

GIVEN = "3f2b8c1e-6d4a-4f0b-9a7e-2c5d8e1f0a3b"
ENVIRONMENTS = [
    {},
    {"DIBS_KEY": KEY},
    {"DIBS_KEY": KEY, "DIBS_IDENTITY_KEY": "a-key-of-one-person"},
    {"DIBS_SESSION": GIVEN},
    {"DIBS_SESSION": GIVEN, "DIBS_KEY": KEY, "DIBS_LABEL": "team"},
]
SUBS = ("", "a1", "a2")


@dataclass
class LiveAgent:
    """A live agent, and the secrets seen from its session and its sub-agents."""

    machine: int
    process: str
    conversation: str
    remote: str = ""
    secrets: dict[str, str] = field(default_factory=dict)


class Histories(RuleBasedStateMachine):
    """Agents on machines that all have the same environment, as in a team."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.numbers = itertools.count(1)
        self.live: list[LiveAgent] = []
        self.ended: list[LiveAgent] = []
        self.knows_processes = True
        self.unclear: set[int] = set()  # machines that have notes of several clears

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(env=st.sampled_from(ENVIRONMENTS), knows_processes=st.booleans())
    def begin(self, env: dict[str, str], knows_processes: bool) -> None:
        """Choose an environment and a platform."""
        self.env, self.knows_processes = env, knows_processes

    @contextmanager
    def session_of(self, agent: LiveAgent, sub: str = "") -> "Iterator[client.Session]":
        """Yield the client's session as a command or a hook of this agent loads it."""
        home = self.folder / str(agent.machine)
        home.mkdir(exist_ok=True)
        env = {k: v for k, v in os.environ.items() if not NAMED.match(k)} | self.env
        env |= {"HOME": str(home), "DIBS_URL": "https://dibs.example.org", "DIBS_PROJECT": "a.b"}
        env |= {"CLAUDE_CODE_SESSION_ID": agent.conversation}
        env |= {"CLAUDE_CODE_REMOTE_SESSION_ID": agent.remote} if agent.remote else {}
        process = agent.process if self.knows_processes else ""
        with (
            mock.patch.dict(os.environ, env, clear=True),
            mock.patch.object(hook, "agent_process", return_value=process),
        ):
            yield client.Session(client.Setup(str(home)), sub=sub).load()

    def look(self, agent: LiveAgent, sub: str = "") -> str:
        """Return the secret that a command would send now."""
        with self.session_of(agent, sub) as session:
            return str(session.secret(make=True))

    def started(self, agent: LiveAgent) -> LiveAgent:
        """Record an agent as live: its commands may run from now on."""
        self.live.append(agent)
        for sub in agent.secrets or {"": ""}:
            agent.secrets[sub] = self.look(agent, sub)
        return agent

    @rule(machine=st.integers(0, 1), is_remote=st.booleans())
    def start(self, machine: int, is_remote: bool) -> None:
        """Start an agent; in the cloud, on its own new machine."""
        number = next(self.numbers)
        machine, remote = (10 + number, f"cse_{number}") if is_remote else (machine, "")
        self.started(LiveAgent(machine, f"{number} 1", f"conversation-{number}", remote))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), sub=st.sampled_from(SUBS[1:]))
    def delegate(self, data: st.DataObject, sub: str) -> None:
        """Start a sub-agent; every agent calls its sub-agents a1 and a2."""
        agent = data.draw(st.sampled_from(self.live))
        agent.secrets[sub] = self.look(agent, sub)

    @precondition(lambda self: any(not agent.remote for agent in self.live))
    @rule(data=st.data(), together=st.booleans())
    def clear(self, data: st.DataObject, together: bool) -> None:
        """Clear one agent, or all agents of a machine at once. The session goes on. If the client
        cannot know which session it was, the agent gets a new one, never another agent's."""
        one = data.draw(st.sampled_from([agent for agent in self.live if not agent.remote]))
        cleared = [
            agent for agent in self.live if agent.machine == one.machine and not agent.remote
        ]
        cleared = data.draw(st.permutations(cleared)) if together else [one]
        for agent in cleared:
            with self.session_of(agent) as session:
                hook.note_cleared(session)
        for agent in cleared:
            self.ended.append(LiveAgent(agent.machine, "", agent.conversation))
            agent.conversation = f"conversation-{next(self.numbers)}"
            with self.session_of(agent) as session:
                hook.gone_on(session)
        self.unclear |= {one.machine} if len(cleared) > 1 else set()
        is_known = self.knows_processes or one.machine not in self.unclear
        for agent in cleared:
            if not is_known:
                agent.secrets = {sub: self.look(agent, sub) for sub in agent.secrets}

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """End an agent."""
        agent = data.draw(st.sampled_from(self.live))
        self.live.remove(agent)
        self.ended.append(agent)

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """Resume an ended conversation on its machine in a new agent: it keeps its identity, unless
        another agent continues that session."""
        agent = data.draw(st.sampled_from(self.ended))
        self.ended.remove(agent)
        had, agent.process = dict(agent.secrets), f"{next(self.numbers)} 1"
        self.started(agent)
        assert had in ({}, agent.secrets)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        """Resume a conversation in another agent under a new id."""
        agent = data.draw(st.sampled_from(self.live))
        if not agent.remote:
            number = next(self.numbers)
            self.started(LiveAgent(agent.machine, f"{number} 1", f"conversation-{number}"))

    @precondition(lambda self: any(agent.remote for agent in self.live))
    @rule(data=st.data())
    def replace_the_machine(self, data: st.DataObject) -> None:
        """Continue a cloud session on a machine without state: with a key it keeps its identity."""
        agent = data.draw(st.sampled_from([agent for agent in self.live if agent.remote]))
        agent.machine = 1000 + next(self.numbers)
        agent.process = f"{agent.machine} 1"
        now = {sub: self.look(agent, sub) for sub in agent.secrets}
        if self.env:
            assert now == agent.secrets
        else:
            assert not set(now.values()) & set(agent.secrets.values())
        agent.secrets = now

    @invariant()
    def no_two_are_one(self) -> None:
        """Assert that every live session, sub-agents included, has its own secret."""
        secrets = [secret for agent in self.live for secret in agent.secrets.values()]
        assert len(set(secrets)) == len(secrets)

    @invariant()
    def none_is_two(self) -> None:
        """Assert that a session that asks again gets the same secret."""
        for agent in self.live:
            assert {sub: self.look(agent, sub) for sub in agent.secrets} == agent.secrets


def test_two_live_sessions_never_have_one_secret_nor_one_session_two() -> None:
    bounds = settings(max_examples=40, stateful_step_count=12, deadline=None)
    run_state_machine_as_test(Histories, settings=bounds)
