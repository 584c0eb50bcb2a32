"""From whatever went wrong to a problem, in one place for every route."""

import logging
from collections.abc import Callable
from typing import Any

from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)

from dibs.api import wire
from dibs.api.keys import Keys
from dibs.api.problems import ProblemError, invalid
from dibs.store import StoreDown, StoreFull

log = logging.getLogger("dibs.api")
Req = Request[Any, Any, Any]

PUBLIC = ("/livez", "/readyz", "/metrics", "/client/", "/skill/", "/problems/", "/openapi.json")
"""Paths that need no team key: they tell nothing of claims, and a session must get the client."""
_POSTS = ("/claim", "/heartbeat", "/release", "/break")


def gate(keys: Keys) -> Callable[[Req], None]:
    """Return the check that every request passes first."""

    def check(request: Req) -> None:
        if not request.scope["path"].startswith(PUBLIC):
            keys.check_team(request.headers.get("authorization"))

    return check


def _answer(problem: ProblemError) -> Response[bytes]:
    return Response(
        wire.encode(problem.body),
        media_type=wire.PROBLEM,
        status_code=problem.problem.status,
        headers=problem.headers,
    )


def _problem(_: Req, problem: ProblemError) -> Response[bytes]:
    return _answer(problem)


def _store_down(_: Req, down: StoreDown) -> Response[bytes]:
    detail = (
        "Whether the call took effect is unknown: make the same call again, it takes effect once."
        if down.sent
        else "Nothing was changed, and no deadline passes meanwhile. Ask again in a second."
    )
    return _answer(
        ProblemError(
            "unavailable",
            f"{down.reason} {detail}",
            outcome="unknown" if down.sent else "not-applied",
            retry_after=1,
        )
    )


def _store_full(_: Req, __: StoreFull) -> Response[bytes]:
    return _answer(ProblemError("full", "The store is full. Tell whoever runs this service."))


def _http(request: Req, error: HTTPException) -> Response[bytes]:
    if isinstance(error, NotFoundException):
        return _answer(
            ProblemError("not-found", "There is nothing at this path; /openapi.json lists them.")
        )
    if isinstance(error, MethodNotAllowedException):
        allow = "POST" if request.scope["path"].endswith(_POSTS) else "GET, HEAD"
        return _answer(
            ProblemError(
                "wrong-method",
                f"{request.method} is not for this path; it takes {allow}.",
                headers={"Allow": allow},
            )
        )
    if error.status_code == 413:
        return _answer(ProblemError("too-large", "The body is larger than this service takes."))
    if isinstance(error, ValidationException) or 400 <= error.status_code < 500:
        return _answer(invalid([{"field": "request", "message": f"{error.detail}."}]))
    return _internal(request, error)


def _internal(request: Req, error: Exception) -> Response[bytes]:
    log.error(
        "request_failed method=%s path=%s", request.method, request.scope["path"], exc_info=error
    )
    return _answer(
        ProblemError(
            "internal",
            "The service made a mistake, and has written down which. Ask again: every call is "
            "safe to repeat.",
            outcome="unknown",
        )
    )


HANDLERS: dict[int | type[Exception], Any] = {
    ProblemError: _problem,
    StoreDown: _store_down,
    StoreFull: _store_full,
    HTTPException: _http,
    Exception: _internal,
}
