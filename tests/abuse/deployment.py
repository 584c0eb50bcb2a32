"""A deployed service, a team that works on it, and the effects of an attack on both."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import redis
from tests.harness.processes import end, family, start, until
from tests.harness.services import ServiceProcess, new_session

from dibs.settings import Settings

SECONDS = float(os.environ.get("DIBS_ABUSE_SECONDS", "1.5"))
"""The duration of an attack."""
MACHINE = 256_000_000
"""The memory of the smallest machine, which fly.toml requests."""
SESSIONS = 20
BEAT_S = 0.5
LATE_S = 1.0 if "DIBS_ABUSE_SECONDS" in os.environ else 5.0
"""The time after which a call of the team counts as late. In the short form other tests compete for
the processor, so it proves only that nobody is refused or kept out; `make abuse`, alone on a
machine, measures the delays."""
LOOK_S = 0.2
KEPT_S = max(2, round(SECONDS))
"""The lifetime of a stranger's claims, and of finished ones; by default a service keeps them for a
day, and in the history for 90 days."""
SHARE = str(Settings.model_fields["store_memory"].default)
"""The store's share of the machine's memory: the default of a service."""
OPEN = {
    "DIBS_OPEN": "yes",
    "DIBS_STORE_MEMORY": str(MACHINE * int(SHARE.rstrip("%")) // 100),
    "DIBS_MIN_TTL": "1s",
    "DIBS_DEFAULT_TTL": f"{KEPT_S}s",
    "DIBS_MAX_TTL": "1h",  # for the claims of the team
    "DIBS_GRACE": "1s",
    "DIBS_HANDOVER": "1s",
    "DIBS_TICKET": f"{KEPT_S}s",
    "DIBS_RETENTION": f"{KEPT_S}s",
    "DIBS_DONE_RETENTION": f"{KEPT_S}s",
    "DIBS_HISTORY_RETENTION": f"{KEPT_S}s",
}
BEHIND_FLY = {"DIBS_TRUSTED_PROXIES": "127.0.0.0/8", "DIBS_ADDRESS_HEADER": "Fly-Client-IP"}
"""As in fly.toml: the proxy in front is trusted, so limits by address apply."""


@dataclass(frozen=True)
class BystandersAnswer:
    """An answer to a caller who has no part in the attack, and its duration."""

    act: str
    status: int
    seconds: float
    said: str

    @property
    def refused(self) -> bool:
        """Whether the call was refused or failed."""
        return self.status not in (200, 201)

    @property
    def late(self) -> bool:
        """Whether the answer came too late."""
        return self.seconds > LATE_S


@dataclass
class WorkingTeam:
    """Sessions that hold a task each and renew it twice a second, on a new connection each time as
    the client does, and a caller that checks the service's health."""

    service: ServiceProcess
    project: str = "acme.web"
    address: str = "203.0.113.9"
    answers: list[BystandersAnswer] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._sessions = [new_session() for _ in range(SESSIONS)]
        for number, who in enumerate(self._sessions):
            wish = {"task": f"T-{number}", "ttl": "1h"}

            def granted(who: str = who, wish: dict[str, str] = wish) -> bool:
                return self.ask("claim", wish, who).status in (200, 201)

            # Claims that strangers made in an earlier attack expire.
            until(granted, "the team has its task", 3 * KEPT_S + 10, every_s=0.1)
        self._threads = [
            threading.Thread(target=self._works, args=(number, who))
            for number, who in enumerate(self._sessions)
        ]
        self._threads.append(threading.Thread(target=self._looks))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _works(self, number: int, who: str) -> None:
        task = {"task": f"T-{number}"}
        self._over.wait(BEAT_S * number / SESSIONS)
        while not self._over.is_set():
            began = time.monotonic()
            self.ask("heartbeat", task, who)
            self._over.wait(max(0.0, began + BEAT_S - time.monotonic()))
        self.ask("release", task, who)

    def _looks(self) -> None:
        while not self._over.wait(BEAT_S):
            self.ask("readyz", None)
            self.ask("livez", None)

    def ask(self, act: str, body: dict[str, Any] | None, session: str = "") -> BystandersAnswer:
        """Make one call and record the answer."""
        path = f"/{act}" if body is None else f"/v1/{self.project}/{act}"
        headers = {"Fly-Client-IP": self.address, "Content-Type": "application/json"}
        if session:
            headers["Dibs-Session"] = session
        began, status, said = time.monotonic(), 0, ""
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=10)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", path, sent, headers)
            reply = connection.getresponse()
            status, said = reply.status, reply.read().decode()
        except (OSError, http.client.HTTPException) as error:
            said = repr(error)
        finally:
            connection.close()
        answer = BystandersAnswer(act, status, time.monotonic() - began, said)
        self.answers.append(answer)
        return answer


class PeakMemory:
    """The peak memory of a service and all its child processes."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.shared = 0
        """The peak total, with shared pages counted once (Pss)."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            everybody = [self._service.pid, *family(self._service.pid)]
            self.shared = max(
                self.shared, sum(_of(pid, "smaps_rollup", "Pss:") for pid in everybody)
            )

    def most(self) -> int:
        """Return the peak total, or the sum of the service's and the store's peaks if larger."""
        both = (self._service.pid, self._service.store())
        return max(self.shared, sum(_of(pid, "status", "VmHWM:") for pid in both))


def _of(pid: int, file: str, name: str) -> int:
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:  # the process has ended
        return 0
    return int(text.split(name)[1].split()[0]) * 1024 if name in text else 0


@dataclass
class Seen:
    """The results of an attack."""

    attack: str
    told: Counter[str]
    answers: list[BystandersAnswer]
    memory: int

    def of(self, *acts: str) -> list[BystandersAnswer]:
        """Return the answers to some of the calls."""
        return [answer for answer in self.answers if answer.act in acts]

    @property
    def own(self) -> list[BystandersAnswer]:
        """The answers to the team's calls on its own claims."""
        return self.of("heartbeat", "release")

    def __str__(self) -> str:
        """Return a line for the output."""
        own = self.own
        worst = max(answer.seconds for answer in own)
        bad = sum(answer.refused or answer.late for answer in own)
        return (
            f"{self.attack}: {len(own)} of the team's calls, {bad} refused or late, the slowest "
            f"{worst * 1000:.0f} ms; {self.memory / 1e6:.0f} MB; the stranger: {dict(self.told)}"
        )


class Deployed:
    """A service, and the size of its store before any attack."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.service = ServiceProcess(folder, env=env)
        self.before = 0

    def __enter__(self) -> Self:
        self.service.start()
        return self

    def is_worked_with(self) -> None:
        """Let a team work for a moment, then record how much memory the store uses."""
        with WorkingTeam(self.service):
            pass
        self.before = self.used()

    def __exit__(self, *_exception: object) -> None:
        self.service.kill()

    @property
    def store(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.service.folder / "data" / "valkey.sock"))

    def used(self) -> int:
        """Return the number of bytes that the store uses for data."""
        with self.store as store:
            about: Any = store.info("memory")
            return int(about["used_memory"])

    def written(self) -> dict[bytes, bytes]:
        """Return every key of the store with its dump, except for the lease clock."""
        with self.store as store:
            keys = [key for key in store.keys("*") if key != b"dibs:clock"]
            return {key: store.dump(key) or b"" for key in keys}

    def suffers(self, attack: str, *, attempt: int = 0, seconds: float = SECONDS) -> Seen:
        """Let strangers attack while the team works, and for a second more, so that the team
        releases its tasks during the attack. Each attempt has its own project."""
        project = f"{attack}.{attempt}"
        log = self.service.folder / f"{project}.log"
        with contextlib.ExitStack() as over, PeakMemory(self.service) as memory:
            errors = over.enter_context(open(log, "w"))
            with WorkingTeam(self.service, project) as team:
                stranger = self._stranger(attack, project, seconds + 1, errors)
                over.callback(end, stranger)
                time.sleep(seconds)
            said, _ = stranger.communicate(timeout=seconds + 60)
        assert stranger.returncode == 0, log.read_text()
        return Seen(attack, Counter(json.loads(said)), team.answers, memory.most())

    def attacked(self, attacks: str, seconds: float) -> Counter[str]:
        """Let strangers attack while nobody works."""
        log = self.service.folder / "attacks.log"
        with open(log, "w") as errors:
            stranger = self._stranger(attacks, "acme.web", seconds, errors)
            try:
                said, _ = stranger.communicate(timeout=seconds + 60)
            finally:
                end(stranger)
        assert stranger.returncode == 0, log.read_text()
        return Counter(json.loads(said))

    def _stranger(
        self, attacks: str, project: str, seconds: float, errors: IO[str]
    ) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.abuse.strangers", attacks]
        command += [str(self.service.port), str(seconds), project]
        return start(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors)


ROOT = Path(__file__).parents[2]
