"""The calls under /v1. Each handler parses, asks, and answers."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from litestar import Controller, Request, Response, get, post
from litestar.response import Stream

from dibs.api import answers, bodies, wire
from dibs.api.keys import Keys
from dibs.api.problems import ProblemError, invalid
from dibs.claims import Claims, OutOfBounds, Wish
from dibs.store import StoreDown
from dibs.store.store import Reset
from dibs.store.stream import Ended
from dibs.words import Project, Refused, Session

Answer = Response[bytes]
Req = Request[Any, Any, Any]
B = TypeVar("B", bound=bodies.Body)

REQUEST_CHARS = 200


@dataclass(frozen=True, slots=True)
class Call(Generic[B]):
    """A POST that has been read and found in order."""

    project: Project
    session: Session
    body: B
    request: str
    """The Idempotency-Key, or ''."""


async def read(request: Req, project: str, body_type: type[B]) -> Call[B]:
    """Read a POST by a session, or raise a problem that names all that is wrong with it."""
    session = bodies.session(request.headers.get("dibs-session"))
    errors: bodies.Errors = []
    if request.scope["query_string"]:
        message = "A POST has no query: names and keys travel in the body and the headers."
        errors.append({"field": "query", "message": message})
    key = request.headers.get("idempotency-key", "")
    if len(key) > REQUEST_CHARS or not (key.isascii() and (key.isprintable() or not key)):
        message = f"An Idempotency-Key is printable ASCII, at most {REQUEST_CHARS} characters."
        errors.append({"field": "Idempotency-Key", "message": message})
    name = bodies.project(project, errors)
    given = bodies.parse(request.headers.get("content-type", ""), await request.body(), errors)
    return Call(name, session, body_type.of(given, errors), key)


def reader(request: Req) -> Session | None:
    """Return who reads, where they say so: only `mine` depends on it."""
    text = request.headers.get("dibs-session")
    return bodies.session(text) if text else None


def in_project(project: str) -> Project:
    """Return the project of a GET, or raise `invalid`."""
    errors: bodies.Errors = []
    name = bodies.project(project, errors)
    if errors:
        raise invalid(errors)
    return name


class V1(Controller):
    """What sessions call."""

    path = "/v1/{project:str}"

    @post("/claim", status_code=201)
    async def claim(self, request: Req, project: str, claims: Claims) -> Answer:
        """Take a task, the first free of several, or all of several."""
        call = await read(request, project, bodies.ClaimBody)
        body = call.body
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
            outcome = await claims.claim(call.project, call.session, wish, call.request)
        except OutOfBounds as bound:
            raise invalid([{"field": bound.field, "message": str(bound)}]) from None
        return answers.claimed(outcome, wish)

    @post("/heartbeat", status_code=200)
    async def heartbeat(self, request: Req, project: str, claims: Claims) -> Answer:
        """Push back the deadline of one claim, or of all that the session has."""
        call = await read(request, project, bodies.HeartbeatBody)
        body = call.body
        try:
            outcome = await claims.heartbeat(
                call.project,
                call.session,
                body.task,
                body.fence,
                ttl_s=body.ttl,
                state=body.state or "",
                note=body.note,
                request=call.request,
            )
        except OutOfBounds as bound:
            raise invalid([{"field": bound.field, "message": str(bound)}]) from None
        return answers.kept(outcome, body.task, body.fence)

    @post("/release", status_code=200)
    async def release(self, request: Req, project: str, claims: Claims) -> Answer:
        """End a claim, or all that the session has."""
        call = await read(request, project, bodies.ReleaseBody)
        body = call.body
        outcome = await claims.store.release(
            call.project,
            call.session,
            body.task,
            body.fence,
            outcome=body.outcome,
            note=body.note,
            pr=body.pr,
            request=call.request,
        )
        return answers.ended(outcome, body.task, body.fence)

    @post("/break", status_code=200)
    async def break_(self, request: Req, project: str, claims: Claims, keys: Keys) -> Answer:
        """End somebody's claim: a person with an admin key, who names the fence they saw."""
        by = keys.check_admin(request.headers.get("authorization"))
        errors: bodies.Errors = []
        name = bodies.project(project, errors)
        content_type = request.headers.get("content-type", "")
        given = bodies.parse(content_type, await request.body(), errors)
        body = bodies.BreakBody.of(given, errors)
        if body.fence is None:
            raise ProblemError(
                "fence-required",
                f"Name the fence of the claim on {body.task} that you saw, so that no newer one "
                "is broken by mistake.",
            )
        outcome = await claims.store.break_(
            name, body.task, body.fence, reason=body.reason, by=by or "an admin"
        )
        return answers.broken(outcome, body.fence)

    @get("/claims")
    async def list_(self, request: Req, project: str, claims: Claims) -> Answer:
        """List claims, as JSON or (`Accept: text/plain`) as a table for people."""
        name = in_project(project)
        query = bodies.ListQuery.of(bodies.query(request.scope["query_string"]), [])
        who = reader(request)
        try:
            page = await claims.store.list_(
                name,
                who,
                states=query.state.split(","),
                text=query.q,
                holder=query.holder,
                limit=query.limit,
                cursor=query.cursor,
            )
        except Refused as refused:
            raise invalid([{"field": "cursor", "message": str(refused)}]) from None
        return answers.listed(page, plain=answers.wants(request.headers, "text/plain"))

    @get("/claims/{task:path}")
    async def show(self, request: Req, project: str, task: str, claims: Claims) -> Answer:
        """Show one task; with `?fence=N` say if that is the current fence."""
        name = in_project(project)
        # The framework's own path parameter has lost doubled and trailing slashes.
        raw = request.scope["raw_path"].split(b"/claims/", 1)[1]
        wanted = bodies.task_in_path(raw)
        query = bodies.ShowQuery.of(bodies.query(request.scope["query_string"]), [])
        shown = await claims.store.show(name, wanted, reader(request))
        return answers.shown(shown, query.fence)

    @get("/events")
    async def events(self, request: Req, project: str, claims: Claims) -> Answer | Stream:
        """Follow a project's transitions as server-sent events, or read a page of them."""
        name = in_project(project)
        given = bodies.query(request.scope["query_string"])
        if "last-event-id" in request.headers:
            given["after"] = request.headers["last-event-id"]
        query = bodies.EventsQuery.of(given, [])
        if answers.wants(request.headers, "text/event-stream"):
            after = query.after or await claims.end_of(name)
            return Stream(
                _stream(claims, name, after),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            )
        try:
            events = await claims.store.events(name, query.after, query.limit)
        except Reset:
            end = await claims.end_of(name)
            return answers.ok({"events": [], "next": end, "reset": True})
        end = events[-1].id if events else query.after or await claims.end_of(name)
        return answers.ok({"events": events, "next": end, "reset": False})


async def _stream(claims: Claims, project: Project, after: str) -> AsyncIterator[bytes]:
    """Server-sent events (WHATWG HTML, 9.2): ids that resume, a comment when all is quiet."""
    yield b"retry: 2000\n" + _sse("open", after, {"seq": after})
    while True:
        try:
            async for events in claims.hub.since(project, after):
                for event in events:
                    after = event.id
                    yield _sse(event.type, event.id, event)
                if not events:
                    yield b": quiet\n\n"
        except Reset:
            after = await claims.end_of(project)
            yield _sse("reset", after, {"seq": after})
        except (Ended, StoreDown):
            return


def _sse(kind: str, event_id: str, data: object) -> bytes:
    return f"id: {event_id}\nevent: {kind}\ndata: ".encode() + wire.encode(data) + b"\n\n"
