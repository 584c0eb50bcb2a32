"""What sessions do all day, the POSTs under /v1, on the shortest way through.

The framework's routing, injection and validation cost 50 µs a call, as much as all the rest that
is done here for a claim, and each layer around it some 4: docs/performance.md. So these four go
from the server's scope straight to the answer. All that is not one of them goes to the framework.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

from litestar.types import ASGIApp

from dibs.api import answers, bodies, edge, errors, headers, observe
from dibs.api.access import Access
from dibs.api.problems import ProblemError, invalid
from dibs.api.wire import Reply
from dibs.claims import Claims, OutOfBounds, Wish
from dibs.metrics import Metrics
from dibs.outcomes import Granted
from dibs.words import Project, Session

B = TypeVar("B", bound=bodies.Body)

REQUEST_CHARS = 200


@dataclass(slots=True)
class Post:
    """A POST that has arrived whole."""

    project: str
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes
    scope: Any

    def header(self, name: bytes) -> str:
        """Return a header, or ''."""
        return self.headers.get(name, b"").decode("latin-1")

    def by_session(self, body_type: type[B]) -> tuple[Project, Session, B, str]:
        """Return project, session, fields and Idempotency-Key, or raise a problem that names all
        that is wrong with them."""
        session = bodies.session(self.header(b"dibs-session"))
        wrong: bodies.Errors = []
        if self.query:
            message = "A POST has no query: names and keys travel in the body and the headers."
            wrong.append({"field": "query", "message": message})
        key = self.header(b"idempotency-key")
        if len(key) > REQUEST_CHARS or not (key.isascii() and (key.isprintable() or not key)):
            message = f"An Idempotency-Key is printable ASCII, at most {REQUEST_CHARS} characters."
            wrong.append({"field": "Idempotency-Key", "message": message})
        name, body = self.fields(body_type, wrong)
        return name, session, body, key

    def fields(self, body_type: type[B], wrong: bodies.Errors) -> tuple[Project, B]:
        """Return project and fields, or raise `invalid` with all that is wrong, `wrong` first."""
        name = bodies.project(self.project, wrong)
        given = bodies.parse(self.header(b"content-type"), self.body, wrong)
        return name, body_type.of(given, wrong)


class Acts:
    """The four, as an ASGI application in front of the framework's."""

    def __init__(
        self, rest: ASGIApp, claims: Claims, access: Access, metrics: Metrics, max_body: int
    ) -> None:
        self._rest, self._claims, self._access, self._max_body = rest, claims, access, max_body
        self._metrics = metrics
        acts = (self.claim, self.heartbeat, self.release, self.break_)
        self._acts: dict[str, Callable[[Post], Awaitable[Reply]]] = dict(
            zip(observe.POSTS, acts, strict=True)
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer /v1/{project}/{act}; hand on all else."""
        # The path as it was sent: what is right in it has nothing to encode.
        parts: list[str] = scope["raw_path"].decode("latin-1").split("/")
        act = len(parts) == 4 and parts[1] == "v1" and parts[3] in self._acts
        if not act or not parts[2] or ("%" in parts[2] and "%2F" in parts[2].upper()):
            await self._rest(scope, receive, send)
            return
        began, status = perf_counter(), 0
        try:
            reply = await self._reply(parts[2], parts[3], scope, receive)
            status = reply.status
            await reply.send(send, headers.of_an_act(scope["headers"]))
        finally:
            observe.count(scope, self._metrics, parts[3], status, perf_counter() - began)

    async def _reply(self, project: str, act: str, scope: Any, receive: Any) -> Reply:
        try:
            if scope["method"] != "POST":
                raise errors.wrong_method(scope)
            given = dict(scope["headers"])
            if len(given) < len(scope["headers"]):
                edge.single(scope["headers"])
            self._access.admit(scope, given.get(b"authorization", b"").decode("latin-1"))
            body = await _body(receive, int(given.get(b"content-length", -1)), self._max_body)
            return await self._acts[act](Post(project, scope["query_string"], given, body, scope))
        except Exception as error:  # noqa: BLE001 - the one place that answers all of them
            await self._access.slow_down(scope, error)
            return errors.answer(scope, error)

    async def claim(self, post: Post) -> Reply:
        """Take a task, the first free of several, or all of several."""
        project, session, body, request = post.by_session(bodies.ClaimBody)
        mode = "any" if body.any_of else "all" if body.all_of else "one"
        wish = Wish(
            tasks=body.any_of or body.all_of or (body.task,),  # type: ignore[arg-type]
            mode=mode,
            ttl_s=body.ttl,
            reopen=body.reopen,
            queue=body.queue,
            wait_s=body.wait,
            label=body.label,
            branch=body.branch,
            url=body.url,
            note=body.note,
        )
        try:
            claimant = self._access.claimant(post.scope)
            outcome = await self._claims.claim(project, session, wish, request, claimant)
        except OutOfBounds as bound:
            raise invalid([{"field": bound.field, "message": str(bound)}]) from None
        if claimant.address and isinstance(outcome, Granted):
            self._access.pay_for_new(claimant, outcome.new)
        return answers.claimed(outcome, wish)

    async def heartbeat(self, post: Post) -> Reply:
        """Push back the deadline of one claim, or of all that the session has."""
        project, session, body, request = post.by_session(bodies.HeartbeatBody)
        try:
            outcome = await self._claims.heartbeat(
                project,
                session,
                body.task,
                body.fence,
                ttl_s=body.ttl,
                state=body.state or "",
                note=body.note,
                request=request,
            )
        except OutOfBounds as bound:
            raise invalid([{"field": bound.field, "message": str(bound)}]) from None
        return answers.kept(outcome, body.task, body.fence)

    async def release(self, post: Post) -> Reply:
        """End a claim, or all that the session has."""
        project, session, body, request = post.by_session(bodies.ReleaseBody)
        outcome = await self._claims.store.release(
            project,
            session,
            body.task,
            body.fence,
            outcome=body.outcome,
            note=body.note,
            pr=body.pr,
            request=request,
        )
        return answers.ended(outcome, body.task, body.fence)

    async def break_(self, post: Post) -> Reply:
        """End somebody's claim: a person with an admin key, who names the fence they saw."""
        by = self._access.check_admin(post.headers)
        project, body = post.fields(bodies.BreakBody, [])
        if body.fence is None:
            raise ProblemError(
                "fence-required",
                f"Name the fence of the claim on {body.task} that you saw, so that no newer one "
                "is broken by mistake.",
            )
        outcome = await self._claims.store.break_(
            project, body.task, body.fence, reason=body.reason, by=by or "an admin"
        )
        return answers.broken(outcome, body.fence)


async def _body(receive: Any, declared: int, most: int) -> bytes:
    """Return a request's body, or raise `too-large`, or `invalid` where a part of it is missing.

    `declared` is what it should have, -1 where nobody says. What is too large is not asked for.
    """
    body, more = b"", declared <= most
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ProblemError("invalid", "The request broke off before it was here.")
        body += message.get("body", b"")
        more = message.get("more_body", False) and len(body) <= most
    if declared > most or len(body) > most:
        raise ProblemError("too-large", "The body is larger than this service takes.")
    if len(body) != declared >= 0:
        raise edge.short(declared, len(body))
    return body
