"""POST /hooks/github: deliveries of a forge, authenticated by their signature.

The signature covers the raw body, so the body is read first, up to its limit. It is not parsed
before the signature has been verified.
"""

import asyncio
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from time import perf_counter
from typing import Any
from weakref import WeakValueDictionary

from litestar.types import ASGIApp

from dibs import responses
from dibs.api import errors, headers, smuggling, telemetry
from dibs.api.access import Access
from dibs.api.bodies import BodyBudget
from dibs.characters import fault_of_name
from dibs.forge import deliveries, github, handler
from dibs.forge.deliveries import Delivery
from dibs.forge.repository import project_of
from dibs.metrics import Metrics
from dibs.model import Project
from dibs.problems import ProblemError, invalid
from dibs.responses import Reply
from dibs.store import Store

PATH = "/hooks/github"
BODY_MOST = 1 << 20
_SHA256, _SHA1 = b"x-hub-signature-256", b"x-hub-signature"
_ID_CHARS = 100
_LARGE = (
    "This service accepts deliveries up to 1 MiB. GitHub sends up to 25 MB, but those of pull "
    "requests and issues are smaller: select only these events for the webhook. The delivery was "
    "not processed."
)
_HEX = frozenset(b"0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Forge:
    """The settings of a forge."""

    secrets: Sequence[str] = ()
    """The webhook's secrets. Without one the path does not exist."""
    label: str = ""
    projects: Mapping[str, str] = field(default_factory=dict)


class Webhooks:
    """The webhook's path, as an ASGI application in front of the framework's."""

    def __init__(
        self,
        rest: ASGIApp,
        store: Store,
        access: Access,
        metrics: Metrics,
        forge: Forge,
        bodies: BodyBudget,
    ) -> None:
        self._rest, self._store, self._access, self._metrics = rest, store, access, metrics
        self._forge, self._bodies = forge, bodies
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._secrets = [secret.encode() for secret in forge.secrets]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle requests for PATH; pass all others on."""
        if scope["type"] != "http" or scope["raw_path"] != PATH.encode() or not self._secrets:
            await self._rest(scope, receive, send)
            return
        began, status = perf_counter(), 0
        try:
            reply = await self._reply(scope, receive)
            status = reply.status
            await reply.answer(scope, send, headers.of_an_act(scope["headers"]))
        finally:
            telemetry.count(scope, self._metrics, "hook", status, perf_counter() - began)

    async def _reply(self, scope: Any, receive: Any) -> Reply:
        kind, result = "other", "refused"
        try:
            if scope["method"] != "POST":
                raise errors.post_only(scope)
            smuggling.single(scope["headers"])
            given = dict(scope["headers"])
            signature = _signature(given)
            declared = int(given.get(b"content-length", -1))
            if declared > BODY_MOST:
                raise ProblemError("too-large", _LARGE)
            async with self._bodies.body(receive, declared, BODY_MOST) as body:
                self._check(signature, body)
            event = _header(given, b"x-github-event", "X-GitHub-Event")
            delivered = _header(given, b"x-github-delivery", "X-GitHub-Delivery")
            kind = event if event in telemetry.FORGE_EVENTS else "other"
            said = await self._take(event, delivered, given.get(b"content-type", b""), body)
            result = said["result"]
            return Reply(responses.encode(said), responses.JSON, 202)
        except Exception as error:  # noqa: BLE001 - errors.answer handles all exceptions
            await self._access.slow_down(scope, error)
            return errors.answer(scope, error)
        finally:
            self._metrics.add("dibs_forge_events_total", kind, result)

    def _check(self, signature: bytes, body: bytes) -> None:
        """Accept a body signed with one of the secrets; always try all of them. Raises
        `bad-signature`."""
        wanted = [hmac.new(secret, body, sha256).hexdigest().encode() for secret in self._secrets]
        matches = [hmac.compare_digest(signature, each) for each in wanted]
        if not any(matches):
            raise ProblemError(
                "bad-signature",
                "The signature does not match this body and the secret of this service. The "
                "webhook's secret and DIBS_GITHUB_SECRET must be the same. The delivery was not "
                "processed.",
            )

    async def _take(self, kind: str, delivered: str, content: bytes, body: bytes) -> dict[str, Any]:
        """Process a delivery once; return what was done."""
        if content.split(b";")[0].strip().lower() != b"application/json":
            message = "Set the content type of the webhook to application/json."
            raise invalid([{"field": "Content-Type", "message": message}])
        try:
            event = github.read(kind, body)
        except github.Unreadable as unreadable:
            raise invalid([{"field": "body", "message": str(unreadable)}]) from None
        said = {"event": kind, "action": event.action, "delivery": delivered, "project": None}
        if event.thing is None:
            return said | _told(await handler.do(self._store, project_of("", {}), event, ""))
        project = project_of(event.page, self._forge.projects)
        if not project or not self._access.serves(project):
            why = f"This service does not accept the project of {event.repository[:200]}."
            return said | _told(handler.Report("ignored", why=[why]))
        said["project"] = project
        delivery = Delivery(delivered, body, event)
        turn = self._turns.setdefault(f"{project} {deliveries.thing_of(event)}", asyncio.Lock())
        async with turn:  # an `opened` must not act after the `closed` that overtakes it
            return said | _told(await self._once(project, delivery))

    async def _once(self, project: Project, delivery: Delivery) -> handler.Report:
        """Process a delivery, unless it is a replay, overtaken or old."""
        if before := await deliveries.seen(self._store, project, delivery):
            return handler.Report(before, why=[_BEFORE[before]])
        report = await handler.do(self._store, project, delivery.event, self._forge.label)
        if report.result == handler.DONE:  # a delivery without effect is harmless if repeated
            await deliveries.keep(self._store, project, delivery)
        return report


_BEFORE = {
    "replayed": "This delivery, or one with the same body, was received before. Nothing was done.",
    "overtaken": "A later delivery about this was received before it. Nothing was done.",
    "old": "This was last changed more than a week ago. Nothing was done.",
}


def _told(report: handler.Report) -> dict[str, Any]:
    return {
        "result": report.result,
        "did": report.did or None,
        "matched": report.matched,
        "why": report.why,
    }


def _signature(given: Mapping[bytes, bytes]) -> bytes:
    """Return the hex digits of the signature, or raise `bad-signature` before the body is read."""
    algorithm, _, digits = given.get(_SHA256, b"").partition(b"=")
    if (
        algorithm == b"sha256"
        and len(digits) == 2 * sha256().digest_size
        and _HEX.issuperset(digits)
    ):
        return digits
    if _SHA256 in given:
        why = "X-Hub-Signature-256 must be sha256= and 64 hexadecimal digits, in lower case."
    elif _SHA1 in given:
        why = "X-Hub-Signature is SHA-1, which is not accepted: send X-Hub-Signature-256."
    else:
        why = "X-Hub-Signature-256 is missing: set the secret of the webhook."
    raise ProblemError("bad-signature", f"{why} The delivery was not processed.")


def _header(given: Mapping[bytes, bytes], name: bytes, shown: str) -> str:
    value = given.get(name, b"").decode("latin-1")
    if not value or len(value) > _ID_CHARS or not value.isascii() or fault_of_name(value):
        message = f"{shown} is missing, or is not what GitHub sends."
        raise invalid([{"field": shown, "message": message}])
    return value
