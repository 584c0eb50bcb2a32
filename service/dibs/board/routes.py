"""The routes of the board's pages. Without scripts everything works except live updates."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from litestar import Controller, Response, Router, get, post
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from litestar.response import Stream
from markupsafe import Markup

from dibs.addresses import network_of
from dibs.board import assets, forms, relative_time, rows, task_page
from dibs.board.board_query import EVERYTHING, FILTERS, MARKS, SORTS, BoardQuery
from dibs.board.context import (
    BoardContext,
    NoSuchPage,
    Page,
    ProblemRaised,
    Req,
    fields,
    in_project,
    page,
)
from dibs.board.feed import Crowded
from dibs.board.live_pages import ALL, CHANGE_ID, Key, Snapshot, pager
from dibs.board.rows import SECTIONS
from dibs.model import Project
from dibs.store import StoreDown
from dibs.stream_limit import TooMany


class Board(Controller):
    """The routes of the board."""

    path = "/"

    @get("/")
    async def projects(self, request: Req, context: NamedDependency[BoardContext]) -> Page:
        """List the projects."""
        shown, total = await context.overviews.look()
        return page(
            "projects.html",
            projects=shown,
            more=total - len(shown),
            attention=sum(one.parked + one.lapsed + one.failed for one in shown),
            now=context.claims.store.clock.reading.observed_us // 1000,
            **_first_steps(request, context),
        )

    @get("/p/{project:str}")
    async def project(
        self, request: Req, project: FromPath[str], context: NamedDependency[BoardContext]
    ) -> Page:
        """Show a page of a project's current state."""
        name = in_project(project)
        query = fields(request.scope["query_string"])
        look = BoardQuery.of(query)
        snapshot = await context.feeds.of(name).snapshot(Key(look, _number(query)))
        return page(
            "project.html",
            project=name,
            look=look,
            did=task_page.confirmed_of_all(query.get("did", ""), snapshot.hold),
            **_shown(name, snapshot, look),
            **_first_steps(request, context),
        )

    @get("/p/{project:str}/stream")
    async def stream(
        self, request: Req, project: FromPath[str], context: NamedDependency[BoardContext]
    ) -> Stream:
        """Stream the changes since the page, or since the last change that the browser has."""
        name = in_project(project)
        address = network_of(request.scope)
        context.streams.check(name, address)
        query = fields(request.scope["query_string"])
        after = request.headers.get("last-event-id") or query.get("after", "")
        if after and not CHANGE_ID.fullmatch(after):
            raise HTTPException("The id of the last change is not one of a board", status_code=422)
        key = Key(BoardQuery.of(query), _number(query))
        feed = await context.feeds.to_follow(name, key)
        return Stream(
            context.streams.counted(name, address, feed.follow(after, key)),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @get("/p/{project:str}/{act:str}")
    async def ask(
        self,
        request: Req,
        project: FromPath[str],
        act: FromPath[str],
        context: NamedDependency[BoardContext],
    ) -> Page:
        """Show what an act will do, and the form for its reason and key."""
        name, given = _act(project, act), fields(request.scope["query_string"])
        return await forms.ask(request, context, name, act, given)

    @post("/p/{project:str}/{act:str}")
    async def do(
        self,
        request: Req,
        project: FromPath[str],
        act: FromPath[str],
        context: NamedDependency[BoardContext],
    ) -> Page:
        """Run an act for a person who typed an admin key into its form."""
        name, given = _act(project, act), fields(await request.body())
        return await forms.do(request, context, name, act, given)

    @get("/p/{project:str}/t/{task:path}")
    async def task(
        self, request: Req, project: FromPath[str], context: NamedDependency[BoardContext]
    ) -> Page:
        """Show a task's own page."""
        # The framework's own path parameter has lost doubled and trailing slashes.
        raw = request.scope["raw_path"].split(b"/", 4)[4]
        return await task_page.show(request, context, in_project(project), unquote_to_bytes(raw))

    @get("/p/{project:str}/t")
    async def task_by_name(
        self, request: Req, project: FromPath[str], context: NamedDependency[BoardContext]
    ) -> Page:
        """Show the page of a task whose name cannot be part of a path."""
        raw = fields(request.scope["query_string"]).get("task", "").encode()
        return await task_page.show(request, context, in_project(project), raw)

    @get("/board/{name:str}", sync_to_thread=False)
    def asset(self, name: FromPath[str]) -> Page:
        """Serve a script, a style or an icon of the board. Its URL changes with its content."""
        if name not in assets.ASSETS:
            raise NoSuchPage("There is no such file here.")
        return Response(
            assets.ASSETS[name],
            media_type=assets.media_type(name),
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
        )


def _act(project: str, act: str) -> Project:
    """Return the project of a form. Raises NoSuchPage for an act without a form."""
    if act not in forms.FORMS:
        raise NoSuchPage("There is no such page here.")
    return in_project(project)


def _first_steps(request: Req, context: BoardContext) -> dict[str, Any]:
    base = context.base(request)
    place = urlsplit(base)
    return {"base": base, "host": place.hostname, "place": place.netloc, "keyed": context.keyed}


def _number(query: Mapping[str, str]) -> int:
    """Return the number of the requested page; 1 if it is not a number."""
    text = query.get("page", "")
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 5 else 1


def _shown(project: Project, snapshot: Snapshot, look: BoardQuery) -> dict[str, Any]:
    """Return the template variables for a snapshot."""
    now, extent = snapshot.now_ms, snapshot.extent
    part = snapshot.key != ALL or extent.pages > 1
    order = {one.task: look.order(one) for one, _ in snapshot.rows}
    wanted = {one.task for one, _ in snapshot.rows if part or look.wants(one)}
    sections = []
    for key, (title, _) in SECTIONS.items():
        there = [(one, html) for one, html in snapshot.rows if one.section == key]
        there.sort(key=lambda row: order[row[0].task])
        painted = "\n".join(
            rows.paint(html, now, hidden=one.task not in wanted) for one, html in there
        )
        here = sum(one.task in wanted for one, _ in there)
        number, beyond = extent.numbers[key] if part else here, snapshot.beyond.get(key, "")
        painted_rows = Markup(painted)  # noqa: S704 - rendered by a template
        sections.append((key, title, number, beyond, here, painted_rows))
    holders = snapshot.holders | {look.holder}
    return {
        "after": snapshot.id,
        "view": snapshot.key.query(),
        "pages": Markup(pager(project, snapshot.key, extent)),  # noqa: S704 - by a template
        "part": part,
        "now": now,
        "at": relative_time.utc(now),
        "attention": snapshot.counts.attention,
        "counts": asdict(snapshot.counts),
        "sections": sections,
        "shown": len(wanted),
        "total": snapshot.total,
        "cut": snapshot.cut,
        "hold": Markup(snapshot.hold),  # noqa: S704 - rendered by a template
        "holders": sorted(holders - {""}, key=str.lower),
        "recent": Markup("\n".join(snapshot.recent)),  # noqa: S704 - rendered by a template
        "filters": FILTERS,
        "marks": MARKS,
        "sorts": SORTS,
        "everything": EVERYTHING,
    }


def _again(status: int, title: str, detail: str, *, after_s: int) -> Page:
    """Return a page about a temporary problem, which reloads automatically."""
    headers = {"Retry-After": str(after_s)}
    return page("problem.html", status, headers, title=title, detail=detail, again=True)


def _no_page(_: Req, error: NoSuchPage) -> Page:
    title = "There is no page here"
    return page("problem.html", 404, title=title, detail=str(error), again=False)


def _refused(_: Req, error: Any) -> Page:
    problem: ProblemRaised = error
    body = problem.body
    return page(
        "problem.html",
        body["status"],
        problem.headers,
        title=body["title"],
        detail=body["detail"],
        again=False,
    )


def _down(request: Req, down: StoreDown) -> Page:
    title, what = "The store cannot answer", "no deadline passes meanwhile."
    if request.method != "POST":
        return _again(503, title, f"{down.reason} Claims are safe, and {what}", after_s=5)
    if down.sent:
        did = "Whether it was done is unknown. Check the task, and do it again if it was not"
    else:
        did = "Nothing was changed. Go back, and do it again in a moment"
    return page(
        "problem.html", 503, title=title, detail=f"{down.reason} {did}; {what}", again=False
    )


def _too_many(_: Req, many: TooMany) -> Page:
    detail = (
        f"The {many.whose} has reached its limit of {many.limit} live boards and event streams. "
        "Close one, or load the page when you need it."
    )
    return _again(429, "Too many boards are open", detail, after_s=30)


def _crowded(_: Req, crowded: Crowded) -> Page:
    detail = f"This board cannot update live now: {crowded}. Load the page when you need it."
    return _again(429, "Too many live boards", detail, after_s=30)


def router(context: BoardContext, problem: type[Exception]) -> Router:
    """Return the board's routes. `problem` is the exception by which the API refuses."""

    def provide_context() -> BoardContext:
        return context

    return Router(
        "/",
        route_handlers=[Board],
        dependencies={"context": Provide(provide_context, sync_to_thread=False)},
        exception_handlers={
            problem: _refused,
            NoSuchPage: _no_page,
            StoreDown: _down,
            TooMany: _too_many,
            Crowded: _crowded,
            HTTPException: _http,
        },
    )


def _http(_: Req, error: HTTPException) -> Page:
    return page(
        "problem.html",
        error.status_code,
        title="That did not work",
        detail=f"{error.detail}.",
        again=False,
    )
