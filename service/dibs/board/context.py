"""What all pages of the board share: templates, and facts about the service."""

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
"""Nothing from elsewhere and nothing inline: what a session puts in a note stays text."""


class ProblemRaised(Protocol):
    """What the API raises when it refuses."""

    body: Mapping[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class BoardContext:
    """What the pages need to know of the service."""

    feeds: Feeds
    overviews: OverviewCache
    streams: StreamLimit
    claims: Claims
    is_admin: Callable[[str], bool]
    slow_down: Callable[[Any, Exception], Awaitable[None]]
    """Lets an address wait that has shown several wrong keys."""
    breakable: bool
    """There is an admin key."""
    keyed: bool
    """There is a team key."""
    public_url: str | None

    def base(self, request: Req) -> str:
        """Return the URL that people and sessions use for this service."""
        return base_url(request, self.public_url)


class NoSuchPage(Exception):
    """There is no page here; the message says why."""


def page(file: str, status: int = 200, headers: dict[str, str] | None = None, **v: Any) -> Page:
    """Answer with a page."""
    html = template(file).render({"attention": None, "status": status, **v})
    # A template's context holds itself, and all that was on the page: it would stay until Python
    # looks at everything, which it seldom does.
    gc.collect(1)
    return Response(
        html.encode(),
        media_type=_HTML,
        status_code=status,
        headers={"Content-Security-Policy": _POLICY, **(headers or {})},
    )


def in_project(project: str) -> Project:
    """Return the project of a path."""
    try:
        return model.project(project)
    except model.Refused as refused:
        raise NoSuchPage(f"“{project[:100]}” is no project. {refused}") from None


def fields(raw: bytes) -> dict[str, str]:
    """Return the fields of a query or form; of two with one name the last."""
    try:
        return dict(parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        return {}
