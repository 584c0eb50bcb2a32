"""The context that all pages of the board share: templates, and facts about the service."""

import gc
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

from litestar import Request, Response

from dibs import model
from dibs.board.feed import Feeds
from dibs.board.html import template
from dibs.board.overview_cache import OverviewCache
from dibs.claims import Claims
from dibs.model import Project
from dibs.public_url import base_url
from dibs.stream_limit import StreamLimit

Page = Response[bytes]
Req = Request[Any, Any, Any]

_HTML = "text/html"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing from other origins and nothing inline, so that a session's note stays text."""


class ProblemRaised(Protocol):
    """The exception by which the API refuses."""

    body: Mapping[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class BoardContext:
    """The parts of the service that the pages use."""

    feeds: Feeds
    overviews: OverviewCache
    streams: StreamLimit
    claims: Claims
    is_admin: Callable[[str], bool]
    slow_down: Callable[[Any, Exception], Awaitable[None]]
    """Delays the response to an address that has sent several wrong keys."""
    breakable: bool
    """Whether there is an admin key."""
    keyed: bool
    """Whether there is a team key."""
    public_url: str | None

    def base(self, request: Req) -> str:
        """Return the URL that people and sessions use for this service."""
        return base_url(request, self.public_url)


class NoSuchPage(Exception):
    """No page at this path; the message says why."""


def page(file: str, status: int = 200, headers: dict[str, str] | None = None, **v: Any) -> Page:
    """Return the response with a rendered page."""
    html = template(file).render({"attention": None, "status": status, **v})
    # A template's context has a reference cycle and holds all data of the page. Without this it
    # would stay in memory until a full collection, which is rare.
    gc.collect(1)
    return Response(
        html.encode(),
        media_type=_HTML,
        status_code=status,
        headers={"Content-Security-Policy": _POLICY, **(headers or {})},
    )


def in_project(project: str) -> Project:
    """Return the project of a path. Raises NoSuchPage."""
    try:
        return model.project(project)
    except model.Refused as refused:
        raise NoSuchPage(f"“{project[:100]}” is not a project. {refused}") from None


def fields(raw: bytes) -> dict[str, str]:
    """Return the fields of a query or form; of several with one name, the last."""
    try:
        return dict(parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        return {}
