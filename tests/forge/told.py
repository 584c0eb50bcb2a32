"""Made-up GitHub webhook payloads: in GitHub's shape, cut to the fields that matter, and signed."""

import copy
import hmac
import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

import httpx
from tests.harness.services import ServiceProcess

SECRET = "a-webhook-secret-for-tests"
OLD_SECRET = "the-webhook-secret-of-before"
RECORDED = json.loads((Path(__file__).parent / "payloads.json").read_text("utf-8"))
_seconds = iter(range(1, 10_000))


def page(repository: str, host: str = "https://github.com") -> str:
    """Return the URL of a repository's page."""
    return f"{host}/{repository}"


def now() -> str:
    """Return a time in GitHub's format, later than all previous ones."""
    start = datetime.now(UTC).timestamp() // 1 - 7_200
    return datetime.fromtimestamp(start + next(_seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pull(repository: str, action: str, number: int = 7, /, **more: Any) -> dict[str, Any]:
    """Return an event of a pull request; `more` are its fields and its `host`."""
    host = more.pop("host", "https://github.com")
    told: dict[str, Any] = copy.deepcopy(RECORDED["pull_request"])
    told |= {"action": action, "number": number}
    told["repository"] |= {"full_name": repository, "html_url": page(repository, host)}
    one = told["pull_request"]
    one |= {"number": number, "html_url": f"{page(repository, host)}/pull/{number}"}
    one |= {"updated_at": now(), "state": "closed" if action == "closed" else "open"}
    one["head"]["repo"]["full_name"] = one["base"]["repo"]["full_name"] = repository
    one["head"]["ref"] = more.pop("branch", one["head"]["ref"])
    if "head_repo" in more:
        one["head"]["repo"]["full_name"] = more.pop("head_repo")
    one.update(more)
    return told


def issue(repository: str, action: str, number: int = 12, /, **more: Any) -> dict[str, Any]:
    """Return an event of an issue; `more` are its fields."""
    labels = more.pop("labels", ("agents",))
    told: dict[str, Any] = copy.deepcopy(RECORDED["issues"])
    told["action"] = action
    told["repository"] |= {"full_name": repository, "html_url": page(repository)}
    one = told["issue"]
    one |= {"number": number, "html_url": f"{page(repository)}/issues/{number}"}
    one |= {"updated_at": now(), "labels": [{"name": label} for label in labels]}
    one |= {"state": "closed" if action in ("closed", "deleted") else "open"}
    one.update(more)
    return told


def signed(body: bytes, secret: str = SECRET, algorithm: str = "sha256") -> dict[str, str]:
    """Return the signature header of a body."""
    digest = {"sha256": sha256, "sha1": sha1}[algorithm]
    name = "X-Hub-Signature-256" if algorithm == "sha256" else "X-Hub-Signature"
    return {name: f"{algorithm}={hmac.new(secret.encode(), body, digest).hexdigest()}"}


def deliver(
    service: ServiceProcess,
    payload: Any,
    event: str | None = None,
    *,
    headers: Mapping[str, str | None] | None = None,
    id: str = "",
) -> httpx.Response:
    """POST a signed payload (bytes unchanged); `headers` override the usual, None removes one."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    if event is None:
        event = "pull_request" if b'"pull_request":' in body else "issues"
    sent: dict[str, str | None] = {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": id or str(uuid.uuid4()),
        **signed(body),
    }
    sent.update(headers or {})
    given = {name: value for name, value in sent.items() if value is not None}
    return httpx.post(service.url + "/hooks/github", content=body, headers=given, timeout=30)


def told(
    service: ServiceProcess, payload: Any, event: str | None = None, **more: Any
) -> dict[str, Any]:
    """Deliver a payload, assert that it is accepted, and return the service's answer."""
    answer = deliver(service, payload, event, **more)
    assert answer.status_code == 202, answer.text
    said: dict[str, Any] = answer.json()
    return said
