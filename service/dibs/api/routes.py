"""The reads under /v1: each handler parses, calls an act, and responds. POSTs: fast_path.py."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Stream
from pydantic import Field

from dibs import requests, responses
from dibs.acts import backlog, history, list_, show
from dibs.acts.task import TaskQuery
from dibs.acts.task import answer as answer_task
from dibs.acts.task import look as look_at_task
from dibs.addresses import network_of
from dibs.claims import Claims
from dibs.model import Event, Project, Refused, Session, Task
from dibs.problems import invalid
from dibs.store import StoreDown
from dibs.store.broadcast import ShuttingDown
from dibs.store.events import CursorExpired
from dibs.stream_limit import StreamLimit

BEGINNING = "0-0-0"
"""The cursor before a project's first event, when its epoch is not known yet."""
Req = Request[Any, Any, Any]
TheClaims = NamedDependency[Claims]
TheStreams = NamedDependency[StreamLimit]


class EventsQuery(requests.Request):
    """The query of GET events."""

    after: Annotated[str, Field(pattern=r"^([0-9]{1,17}-[0-9]{1,17}-[0-9]{1,17})?$")] = ""
    limit: int = Field(200, ge=1, le=1000)
    task: requests.Task | None = None


def reader(request: Req) -> Session | None:
    """Return the session of a reader, or None without one; only `mine` depends on it."""
    text = request.headers.get("dibs-session")
    return requests.session(text) if text else None


def in_project(project: str) -> Project:
    """Return the project of a GET, or raise `invalid`."""
    errors: requests.Errors = []
    name = requests.project(project, errors)
    if errors:
        raise invalid(errors)
    return name


class V1(Controller):
    """The reads of a project."""

    path = "/v1/{project:str}"

    @get("/claims")
    async def list_(
        self, request: Req, project: FromPath[str], claims: TheClaims
    ) -> responses.Reply:
        """List claims, as JSON or (`Accept: text/plain`) as a table for people."""
        name = in_project(project)
        query = list_.ListQuery.of(requests.query(request.scope["query_string"]), [])
        who = reader(request)
        if query.mine:
            who = requests.session(request.headers.get("dibs-session"))
        try:
            page = await list_.page(
                claims.store,
                name,
                who,
                states=query.state.split(","),
                text=query.q,
                holder=query.holder,
                mine=query.mine,
                pr=query.pr,
                branch=query.branch,
                limit=query.limit,
                cursor=query.cursor,
            )
        except Refused as refused:
            raise invalid([{"field": "cursor", "message": str(refused)}]) from None
        return list_.answer(page, plain=responses.wants(request.headers, "text/plain"))

    @get("/claims/{task:path}")
    async def show_(
        self, request: Req, project: FromPath[str], task: FromPath[str], claims: TheClaims
    ) -> responses.Reply:
        """Show one task; with `?fence=N`, also whether that is the current fence."""
        name = in_project(project)
        # The framework's own path parameter has lost doubled and trailing slashes.
        raw = request.scope["raw_path"].split(b"/", 4)[4]
        wanted = requests.task_in_path(raw)
        query = show.ShowQuery.of(requests.query(request.scope["query_string"]), [])
        found = await show.look(claims.store, name, wanted, reader(request))
        return show.answer(found, query.fence)

    @get("/tasks")
    async def backlog_(
        self, request: Req, project: FromPath[str], claims: TheClaims
    ) -> responses.Reply:
        """Return the listed tasks, in the order of `next`."""
        name = in_project(project)
        query = backlog.BacklogQuery.of(requests.query(request.scope["query_string"]), [])
        try:
            page = await backlog.page(claims.store, name, reader(request), query)
        except Refused as refused:
            raise invalid([{"field": "cursor", "message": str(refused)}]) from None
        return backlog.answer(page)

    @get("/tasks/{task:path}")
    async def task_(
        self, request: Req, project: FromPath[str], task: FromPath[str], claims: TheClaims
    ) -> responses.Reply:
        """Show one task with its needs and dependents."""
        name = in_project(project)
        wanted = requests.task_in_path(request.scope["raw_path"].split(b"/", 4)[4])
        TaskQuery.of(requests.query(request.scope["query_string"]), [])
        return answer_task(await look_at_task(claims.store, name, wanted, reader(request)))

    @get("/history")
    async def history_(
        self, request: Req, project: FromPath[str], claims: TheClaims
    ) -> responses.Reply:
        """List the tenures that ended in a span of days."""
        name = in_project(project)
        reader(request)  # raises for an invalid session, as on every path
        query = history.HistoryQuery.of(requests.query(request.scope["query_string"]), [])
        try:
            page = await history.page(claims.store, name, query)
        except Refused as refused:
            raise invalid([{"field": "cursor", "message": str(refused)}]) from None
        return history.answer(page)

    @get("/history.csv")
    async def history_csv(
        self, request: Req, project: FromPath[str], claims: TheClaims, streams: TheStreams
    ) -> Stream:
        """Export all tenures that ended in a span of days, as CSV."""
        name = in_project(project)
        query = history.SpanQuery.of(requests.query(request.scope["query_string"]), [])
        address = network_of(request.scope)
        streams.check(name, address)
        rows = streams.counted(name, address, history.export(claims.store, streams, name, query))
        first = await anext(rows)  # before the response begins, so that StoreDown gives a 503
        return Stream(
            _from(first, rows),
            media_type=history.CSV,
            headers={
                "Cache-Control": "no-store",
                "Content-Disposition": f'attachment; filename="{name}-history.csv"',
            },
        )

    @get("/events")
    async def events(
        self, request: Req, project: FromPath[str], claims: TheClaims, streams: TheStreams
    ) -> Response[bytes] | Stream:
        """Follow a project's transitions as server-sent events, or read a page of them."""
        name = in_project(project)
        given = requests.query(request.scope["query_string"])
        if "last-event-id" in request.headers:
            given["after"] = request.headers["last-event-id"]
        query = EventsQuery.of(given, [])
        if responses.wants(request.headers, "text/event-stream"):
            address = network_of(request.scope)
            streams.check(name, address)
            after = query.after or await claims.end_of(name)
            return Stream(
                streams.counted(name, address, _stream(claims, name, after, query.task)),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            )
        log = claims.store.events
        try:
            if query.task:
                events, end = await log.of_task(name, query.task, query.after, query.limit)
            else:
                events = await log.read(name, query.after, query.limit)
                end = events[-1].id if events else query.after
        except CursorExpired:
            return _page([], await claims.end_of(name), reset=True)
        # The current end of the log would skip events that came since the read.
        return _page(events, end or BEGINNING, reset=False)


def _page(events: Sequence[Event], end: str, *, reset: bool) -> Response[bytes]:
    body = responses.encode({"events": events, "next": end, "reset": reset})
    return Response(body, media_type=responses.JSON)


async def _from(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _stream(
    claims: Claims, project: Project, after: str, task: Task | None = None
) -> AsyncIterator[bytes]:
    """Yield server-sent events (WHATWG HTML, 9.2): ids to resume from, a comment when idle."""
    yield b"retry: 2000\n" + _sse("open", after, {"seq": after})
    with contextlib.suppress(ShuttingDown, StoreDown):  # the client reconnects
        while True:
            try:
                async for events in claims.broadcaster.since(project, after):
                    told = [event for event in events if not task or event.task == task]
                    for event in told:
                        after = event.id
                        yield _sse(event.type, event.id, event)
                    if not told:  # idle, or no event of this task among many
                        after = events[-1].id if events else after
                        yield b": quiet\n\n"
            except CursorExpired:
                after = await claims.end_of(project)
                yield _sse("reset", after, {"seq": after})


def _sse(kind: str, event_id: str, data: object) -> bytes:
    return f"id: {event_id}\nevent: {kind}\ndata: ".encode() + responses.encode(data) + b"\n\n"
