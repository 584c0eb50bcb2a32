"""Sessions that claim, hold and release over HTTP during a failure, and their answers."""

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.harness.services import new_session


@dataclass(frozen=True)
class Grant:
    """A granted claim, with the times of its request and its answer (monotonic seconds)."""

    project: str
    task: str
    session: str
    fence: int
    asked: float
    heard: float
    kept: bool
    """Whether this load keeps the claim rather than release it."""


@dataclass
class SteadyLoad:
    """Threads that claim new tasks and keep them, and compete for hot tasks, which they release.

    They repeat a call unchanged if it got no answer or a 503, as the contract demands.
    """

    ports: Callable[[], Sequence[int]]
    projects: Sequence[str]
    threads: int = 4
    pause_s: float = 0.005
    give_up_s: float = 40.0
    grants: list[Grant] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "SteadyLoad":
        self._running = [
            threading.Thread(target=self._run, args=(number,)) for number in range(self.threads)
        ]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join(self.give_up_s + 10)

    def _run(self, number: int) -> None:
        die = random.Random(number)
        connections: dict[int, http.client.HTTPConnection] = {}
        count = 0
        while not self._stop.is_set():
            count += 1
            project, session = die.choice(self.projects), new_session()
            hot = die.random() < 0.4
            task = f"hot-{die.randrange(2)}" if hot else f"new-{number}-{count}"
            asked = time.monotonic()
            status, body = self._ask(connections, project, "claim", {"task": task}, session)
            heard = time.monotonic()
            if status in (200, 201):
                grant = Grant(project, task, session, body["fence"], asked, heard, not hot)
                self.grants.append(grant)
                if hot:
                    release = {"task": task, "fence": body["fence"]}
                    self._ask(connections, project, "release", release, session)
            elif status not in (0, 409):
                self.wrong.append(f"{status} {body}")
            time.sleep(self.pause_s)
        for connection in connections.values():
            connection.close()

    def _ask(
        self,
        connections: dict[int, http.client.HTTPConnection],
        project: str,
        act: str,
        body: Mapping[str, object],
        session: str,
    ) -> tuple[int, Any]:
        until = time.monotonic() + self.give_up_s
        while time.monotonic() < until:
            port = random.choice(self.ports())
            try:
                status, answer = _post(connections, port, project, act, body, session)
            except (OSError, http.client.HTTPException, ValueError) as error:
                if port in connections:
                    connections.pop(port).close()
                self.unanswered[type(error).__name__] += 1
                time.sleep(0.05)
                continue
            self.answers[f"{act} {answer.get('code', status)}"] += 1
            if status != 503:
                return status, answer
            time.sleep(0.1)
        self.wrong.append(f"{act} on {project} was not answered for {self.give_up_s} s")
        return 0, {}

    def assert_fences_only_grew(self) -> None:
        """Assert that fences are unique in a project, and that they grow for each task."""
        assert not self.wrong, self.wrong[:5]
        for project in self.projects:
            fences = Counter(grant.fence for grant in self.grants if grant.project == project)
            twice = [fence for fence, count in fences.items() if count > 1]
            assert not twice, f"{project}: {[g for g in self.grants if g.fence in twice]}"
            hot: dict[str, list[Grant]] = {}
            for grant in self.grants:
                if grant.project == project:
                    hot.setdefault(grant.task, []).append(grant)
            for grants in hot.values():
                for one in grants:
                    for other in grants:
                        if one.heard < other.asked:
                            assert one.fence < other.fence, (one, other)


def _post(
    connections: dict[int, http.client.HTTPConnection],
    port: int,
    project: str,
    act: str,
    body: Mapping[str, object],
    session: str,
) -> tuple[int, Any]:
    connection = connections.get(port)
    if connection is None:
        connection = connections[port] = http.client.HTTPConnection("127.0.0.1", port, timeout=8)
    connection.request(
        "POST",
        f"/v1/{project}/{act}",
        json.dumps(body),
        {"Content-Type": "application/json", "Dibs-Session": session},
    )
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())
