"""The request of each act for each contender: one class per contender, one method per act.

A method returns a whole HTTP request. Bodies are written by hand: the load generator must cost far
less than the service that it measures.
"""

import json
import re
from base64 import b64encode
from typing import Any

PROJECT = "bench.repo"
FACTS = {
    "label": "session_01HZX3Q9T7VYB2",
    "branch": "claude/fix-login-redirect-01HZX3",
    "url": "https://claude.ai/code/session_01HZX3Q9T7VYB2",
    "note": "Reads the redirect code; tests first, then the change itself",
}
"""The fields of a claim's holder, with a note of 60 characters."""
_FACTS = json.dumps(FACTS)[1:]
_FENCE = re.compile(rb'"fence":(\d+)')


def get(path: str, headers: str = "") -> bytes:
    """Return a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n{headers}\r\n".encode()


def post(path: str, body: str, headers: str = "") -> bytes:
    """Return a POST of JSON."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\n{headers}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


class Dibs:
    """This service."""

    taken = 409
    leased = False
    """Whether sessions need a setup request; then one session makes all claims of a connection."""

    def __init__(self, project: str = PROJECT) -> None:
        self._v1 = f"/v1/{project}"

    def setup(self, who: str) -> list[bytes]:
        """Return the requests that a session sends once, before all others."""
        return []

    def _post(self, act: str, who: str, body: str) -> bytes:
        return post(f"{self._v1}/{act}", body, f"Dibs-Session: {who}\r\n")

    def claim(self, task: str, who: str) -> bytes:
        """Claim `task`."""
        return self._post("claim", who, f'{{"task": "{task}", {_FACTS}')

    def next(self, who: str) -> bytes:
        """Claim the next task of the list."""
        return self._post("claim", who, f'{{"next": true, {_FACTS}')

    def proof(self, reply: bytes) -> str:
        """Return the part of a claim's reply that later calls send: the fence."""
        found = _FENCE.search(reply)
        return found[1].decode() if found else "1"

    def beat(self, task: str, who: str, proof: str) -> bytes:
        """Extend one claim."""
        return self._post("heartbeat", who, f'{{"task": "{task}", "fence": {proof}}}')

    def beat_all(self, who: str, tasks: list[str]) -> list[bytes]:
        """Extend all claims of a session."""
        return [self._post("heartbeat", who, "")]

    def release(self, task: str, who: str, proof: str) -> bytes:
        """End a claim."""
        body = f'{{"task": "{task}", "fence": {proof}, "outcome": "released"}}'
        return self._post("release", who, body)

    def list_(self) -> bytes:
        """List up to 200 claims of the project."""
        return get(f"{self._v1}/claims?limit=200")

    def show(self, task: str) -> bytes:
        """Read one task."""
        return get(f"{self._v1}/claims/{task}")


class Plain(Dibs):
    """The service that most teams would write: see plain.py. It has one namespace and no fence."""

    def __init__(self, project: str = PROJECT) -> None:
        self._prefix = project

    def _post(self, act: str, who: str, body: str) -> bytes:
        return post(
            f"/{act}", f'{{"session": "{who}", {body[1:]}' if body else f'{{"session": "{who}"}}'
        )

    def claim(self, task: str, who: str) -> bytes:
        """See Dibs."""
        return super().claim(f"{self._prefix}:{task}", who)

    def proof(self, reply: bytes) -> str:
        """See Dibs."""
        return "0"

    def beat(self, task: str, who: str, proof: str) -> bytes:
        """See Dibs."""
        return super().beat(f"{self._prefix}:{task}", who, proof)

    def beat_all(self, who: str, tasks: list[str]) -> list[bytes]:
        """See Dibs; it does not know the claims of a session, so each is extended separately."""
        return [self.beat(task, who, "0") for task in tasks]

    def release(self, task: str, who: str, proof: str) -> bytes:
        """See Dibs."""
        return super().release(f"{self._prefix}:{task}", who, proof)

    def list_(self) -> bytes:
        """See Dibs."""
        return get(f"/claims?prefix={self._prefix}")

    def show(self, task: str) -> bytes:
        """See Dibs."""
        return get(f"/claims/{self._prefix}:{task}")


class Echo(Dibs):
    """The framework alone: it answers a claim with the claim's own body."""


class Etcd:
    """etcd's JSON gateway: a session is a lease, and a claim is a key on it, put if absent."""

    leased = True
    taken = 200  # a transaction that did not succeed also answers 200

    def __init__(self, project: str = PROJECT) -> None:
        self._prefix = project

    def _key(self, task: str) -> str:
        return b64encode(f"{self._prefix}/{task}".encode()).decode()

    @staticmethod
    def _lease(who: str) -> int:
        return int(who[-12:], 16) << 14 | int(who[9:13], 16) % (1 << 14) | 1 << 62

    def setup(self, who: str) -> list[bytes]:
        """See Dibs."""
        return [post("/v3/lease/grant", f'{{"TTL": 1800, "ID": {self._lease(who)}}}')]

    def claim(self, task: str, who: str) -> bytes:
        """See Dibs."""
        key, lease = self._key(task), self._lease(who)
        value = b64encode(f'{{"session": "{who}", {_FACTS}'.encode()).decode()
        return post(
            "/v3/kv/txn",
            f'{{"compare": [{{"key": "{key}", "target": "CREATE", "createRevision": 0}}], '
            f'"success": [{{"requestPut": {{"key": "{key}", "value": "{value}", '
            f'"lease": {lease}}}}}], "failure": [{{"requestRange": {{"key": "{key}"}}}}]}}',
        )

    def proof(self, reply: bytes) -> str:
        """See Dibs; it is the revision at which the key was put."""
        found = re.search(rb'"revision":"(\d+)"', reply)
        return found[1].decode() if found else "1"

    def beat(self, task: str, who: str, proof: str) -> bytes:
        """See Dibs."""
        return post("/v3/lease/keepalive", f'{{"ID": {self._lease(who)}}}')

    def beat_all(self, who: str, tasks: list[str]) -> list[bytes]:
        """See Dibs; one lease for all claims."""
        return [self.beat("", who, "")]

    def release(self, task: str, who: str, proof: str) -> bytes:
        """See Dibs."""
        key = self._key(task)
        return post(
            "/v3/kv/txn",
            f'{{"compare": [{{"key": "{key}", "target": "CREATE", "createRevision": {proof}}}], '
            f'"success": [{{"requestDeleteRange": {{"key": "{key}"}}}}]}}',
        )

    def list_(self) -> bytes:
        """See Dibs."""
        first, last = self._key(""), b64encode(f"{self._prefix}0".encode()).decode()
        return post("/v3/kv/range", f'{{"key": "{first}", "range_end": "{last}", "limit": 200}}')

    def show(self, task: str) -> bytes:
        """See Dibs."""
        return post("/v3/kv/range", f'{{"key": "{self._key(task)}"}}')


WIRES: dict[str, Any] = {"dibs": Dibs, "plain": Plain, "echo": Echo, "etcd": Etcd}
