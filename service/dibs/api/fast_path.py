"""The fast path of the POSTs under /v1, which bypasses the framework.

The framework's routing, injection and validation cost 50 µs a call, as much as the rest of a claim,
and each layer around it about 4 µs (docs/performance.md). Everything but the acts with POST goes to
the framework. Acts begin a few at a time, those of holders first (admission.py).
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from litestar.types import ASGIApp

from dibs import requests
from dibs.acts import POSTS, READS
from dibs.acts.act import Act, Call
from dibs.api import errors, headers, smuggling, telemetry
from dibs.api.access import Access
from dibs.api.admission import BEGUN_MOST, Holders, Pace, has_hung_up
from dibs.api.bodies import BodyBudget, body_of
from dibs.claims import Claims
from dibs.metrics import Metrics
from dibs.model import Project, Session
from dibs.responses import Reply
from dibs.results import Granted
from dibs.store import StoreDown

R = TypeVar("R", bound=requests.Request)

REQUEST_CHARS = 200
LARGE_AT_ONCE = 4
"""Acts with a body over DIBS_MAX_BODY that run at once; others wait."""


@dataclass(slots=True)
class Post:
    """A POST that has arrived completely."""

    project: str
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes
    receive: Any
    """The ASGI receive of the request, by which `has_hung_up` finds out."""

    def header(self, name: bytes) -> str:
        """Return a header, or ''."""
        return self.headers.get(name, b"").decode("latin-1")

    def by_session(self, kind: type[R]) -> tuple[Project, Session, R, str]:
        """Return project, session, fields and Idempotency-Key. Raises `bad-session`, or `invalid`
        with all errors."""
        session = requests.session(self.header(b"dibs-session"))
        wrong: requests.Errors = []
        if self.query:
            message = "A POST takes no query: send fields in the body and keys in headers."
            wrong.append({"field": "query", "message": message})
        key = self.header(b"idempotency-key") if b"idempotency-key" in self.headers else ""
        if key and (len(key) > REQUEST_CHARS or not (key.isascii() and key.isprintable())):
            message = f"Send printable ASCII, at most {REQUEST_CHARS} characters."
            wrong.append({"field": "Idempotency-Key", "message": message})
        name, body = self.fields(kind, wrong)
        return name, session, body, key

    def fields(self, kind: type[R], wrong: requests.Errors) -> tuple[Project, R]:
        """Return project and fields, or raise `invalid` with all errors, `wrong` first."""
        name = requests.project(self.project, wrong)
        given = requests.parse(self.header(b"content-type"), self.body, wrong)
        return name, kind.of(given, wrong)


class FastPath:
    """The acts with POST, as an ASGI application in front of the framework's."""

    def __init__(
        self,
        rest: ASGIApp,
        claims: Claims,
        access: Access,
        metrics: Metrics,
        max_body: int,
        bodies: BodyBudget,
    ) -> None:
        self._rest, self._claims, self._access, self._max_body = rest, claims, access, max_body
        self._metrics, self._large = metrics, asyncio.Semaphore(LARGE_AT_ONCE)
        self._bodies = bodies
        self._pace, self._holders = Pace(BEGUN_MOST), Holders()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle /v1/{project}/{act}; pass all other requests on."""
        # The raw path: nothing in a valid one needs percent-encoding.
        parts: list[str] = scope["raw_path"].decode("latin-1").split("/")
        act = POSTS.get(parts[3]) if len(parts) == 4 and parts[1] == "v1" else None
        if act and scope["method"] in ("GET", "HEAD") and act.path in READS:
            act = None
        if act is None or not parts[2] or ("%" in parts[2] and "%2F" in parts[2].upper()):
            await self._rest(scope, receive, send)
            return
        began, status = perf_counter(), 0
        given = dict(scope["headers"])
        session = given.get(b"dibs-session", b"")
        try:
            reply = await self._reply(parts[2], act, given, scope, receive)
            status = reply.status
            if session and (status != 429 or scope[telemetry.CODE] == "rate-limited"):
                self._holders.heard(session, status)
            await reply.answer(scope, send, headers.of_an_act(scope["headers"]))
        finally:
            telemetry.count(scope, self._metrics, act.name, status, perf_counter() - began)

    async def _reply(
        self, project: str, act: Act, given: dict[bytes, bytes], scope: Any, receive: Any
    ) -> Reply:
        try:
            if not self._pace.count():
                await self._pace.wait(first=self._holders.has(given.get(b"dibs-session", b"")))
            if scope["method"] != "POST":
                raise errors.wrong_method(scope)
            if len(given) < len(scope["headers"]):
                smuggling.single(scope["headers"])
            self._access.admit(scope, given.get(b"authorization", b"").decode("latin-1"))
            declared = int(given.get(b"content-length", -1))
            if act.body_most and not 0 <= declared <= self._max_body:
                most = max(act.body_most, self._max_body)
                async with self._bodies.body(receive, declared, most) as body, self._large:
                    post = Post(project, scope["query_string"], given, body, receive)
                    return await self._do(act, post, scope)
            body = await body_of(receive, declared, self._max_body)
            post = Post(project, scope["query_string"], given, body, receive)
            return await self._do(act, post, scope)
        except asyncio.CancelledError:
            # The service stops and could not wait for this act; uvicorn would answer with 500.
            return errors.answer(scope, StoreDown("The service is stopping.", sent=True))
        except Exception as error:  # noqa: BLE001 - errors.answer handles all exceptions
            await self._access.slow_down(scope, error)
            return errors.answer(scope, error)

    async def _do(self, act: Act, post: Post, scope: Any) -> Reply:
        if act.caller in ("admin", "ci"):
            by = self._access.check_person(post.headers, ci=act.caller == "ci")
            project, request = post.fields(act.request, [])
            call = Call(project, request, by=by)
        else:
            project, session, request, key = post.by_session(act.request)
            call = Call(project, request, session, key)
        if act.by_address:
            call.claimant = self._access.claimant(scope)
            call.has_hung_up = partial(has_hung_up, post.receive)
        result = await act.run(self._claims, call)
        if call.claimant.address and isinstance(result, Granted):
            self._access.pay_for_new(call.claimant, result.new)
        return act.answer(result, request)
