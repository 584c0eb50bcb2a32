"""A session's UUID is its password: it comes in a header, and goes nowhere."""

import http.client
import json
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.harness.services import ServiceProcess, running

ADMIN, TEAM = "an-admin-key-of-this-test", "the-team-key-of-this-test"
PROJECT = "secret.repo"
READS = ("claims", "claims/T-1", "claims/T-2", "events", "events?limit=1000")
PAGES = ("/", f"/p/{PROJECT}", "/metrics", "/readyz", "/livez", "/openapi.json")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    env = {
        "DIBS_LOG_LEVEL": "debug",
        "DIBS_ADMIN_KEY": ADMIN,
        "DIBS_TEAM_KEY": TEAM,
        "DIBS_MIN_TTL": "1s",
        "DIBS_GRACE": "0s",
    }
    with running(tmp_path, env=env) as service:
        yield service


class Ear:
    """A client that keeps every byte of the service's replies."""

    def __init__(self, service: ServiceProcess) -> None:
        self.port, self.heard = service.port, b""

    def call(
        self, method: str, path: str, body: object = None, *, session: str = "", key: str = TEAM
    ) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        if session:
            headers["Dibs-Session"] = session
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            reply = connection.getresponse()
            text = reply.read()
            self.heard += str(reply.getheaders()).encode() + text
            return json.loads(text) if "json" in str(reply.getheader("Content-Type")) else {}
        finally:
            connection.close()

    def post(self, act: str, session: str, key: str = TEAM, **body: object) -> dict[str, Any]:
        return self.call("POST", f"/v1/{PROJECT}/{act}", body, session=session, key=key)

    def stream(self, seconds: float) -> None:
        """Read the event stream for a moment, from the second event on."""
        first = self.call("GET", f"/v1/{PROJECT}/events?limit=1")["events"][0]["id"]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        headers = {"Authorization": f"Bearer {TEAM}", "Accept": "text/event-stream"}
        connection.request("GET", f"/v1/{PROJECT}/events?after={first}", headers=headers)
        reply = connection.getresponse()
        try:
            while line := reply.readline():
                self.heard += line
        except TimeoutError:
            pass
        finally:
            connection.close()


def live_a_life(ear: Ear, ann: str, bob: str) -> None:
    """Make two sessions use every act on each other, and meet every refusal."""
    claim = ear.post("claim", ann, task="T-1", ttl="1s", label="ann", note="mine")
    ear.post("claim", bob, task="T-1", queue=True, label="bob")
    ear.post("claim", bob, any_of=["T-1", "T-2"], ttl="2h")
    ear.post("claim", ann, all_of=["T-1", "T-2"])
    ear.post("heartbeat", bob, task="T-1", fence=claim["fence"])
    ear.post("heartbeat", ann, task="T-1", state="parked", ttl="1s")
    ear.post("claim", ann, task="")
    ear.post("claim", ann.upper(), task="T-3")
    ear.call("POST", f"/v1/{PROJECT}/claim", ["no object"], session=ann)
    ear.call("POST", f"/v1/{PROJECT}/claim", {"task": "T-4"}, session=ann + "0")
    ear.call("POST", f"/v1/{PROJECT}/claim", {"task": "T-4"}, session=ann, key="wrong")
    ear.call("GET", f"/v1/{PROJECT}/nowhere", session=ann)
    taken, deadline = {}, time.monotonic() + 20
    while "fence" not in taken:
        assert time.monotonic() < deadline, "ann's claim never lapsed"
        taken = ear.post("claim", bob, task="T-1", wait=1)
    ear.post("heartbeat", ann)
    ear.post("break", "", ADMIN, task="T-1", fence=taken["fence"], reason="for the test")
    ear.post("release", bob, task="T-2", outcome="done", pr="https://example.org/1")
    ear.post("release", bob, all=True)


def test_no_session_uuid_reaches_a_reply_an_event_a_log_a_metric_or_the_disk(
    service: ServiceProcess, tmp_path: Path
) -> None:
    ann, bob = str(uuid.uuid4()), str(uuid.uuid4())
    ear = Ear(service)
    live_a_life(ear, ann, bob)
    for path in READS:
        ear.call("GET", f"/v1/{PROJECT}/{path}", session=ann)
        ear.call("GET", f"/v1/{PROJECT}/{path}")
    for path in PAGES:
        ear.call("GET", path, session=bob)
    ear.stream(1.5)
    assert b'"lost"' in ear.heard, "no loss was reported: the test proved too little"
    assert b"event: broken" in ear.heard, "no event stream was read"

    places = {"what the service answered": ear.heard}
    places["the log"] = service.log.read_bytes()
    with redis.Redis(unix_socket_path=str(next(tmp_path.rglob("*.sock")))) as store:
        for name in store.scan_iter(count=1000):
            places[f"the key {name!r}"] = name + (store.dump(name) or b"")
    service.stop()
    for file in tmp_path.rglob("*"):
        if file.is_file():
            places[f"the file {file.name}"] = file.read_bytes()
    assert any("aof" in place for place in places), "no append-only file was checked"
    assert any(place.startswith("the key") for place in places), "no key was checked"
    for place, text in places.items():
        for session in (ann, bob):
            found = re.search(pattern(session), text, re.IGNORECASE)
            assert not found, f"a session's UUID is in {place}"


def pattern(session: str) -> bytes:
    """Match the UUID in any notation that reveals it: with dashes or without, or its bytes."""
    plain = re.escape(session.replace("-", ""))
    dashed = re.escape(session)
    raw = re.escape(uuid.UUID(session).bytes)
    return b"|".join([dashed.encode(), plain.encode(), raw])
