"""From whatever went wrong to a problem, in one place for every route."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)

from dibs.api import observe, wire
from dibs.api.keys import Keys
from dibs.api.problems import ProblemError, invalid
from dibs.store import StoreDown, StoreFull

log = logging.getLogger("dibs.api")
_SECRETS = frozenset(
    b"key team_key admin_key api_key apikey token access_token session dibs_session dibs_key "
    b"authorization password secret".split()
)
Req = Request[Any, Any, Any]

PUBLIC = (
    *("/livez", "/readyz", "/metrics", "/openapi.json"),
    *("/client/", "/skill/", "/problems/", "/board/"),
)
"""Paths that need no team key: they tell nothing of claims, and a session must get the client."""
_POSTS = ("/claim", "/heartbeat", "/release", "/break")


def gate(keys: Keys) -> Callable[[Req], Awaitable[None]]:
    """Return the check that every request passes first."""

    # It awaits nothing, but the framework would run a plain function in a thread.
    async def check(request: Req) -> None:
        if query := request.scope["query_string"]:
            _refuse_secrets(query)
        if not request.scope["path"].startswith(PUBLIC):
            keys.check_team(request.headers.get("authorization"))

    return check


def _refuse_secrets(query: bytes) -> None:
    """Refuse a key or session in a URL: those are logged by every proxy on the way."""
    names = (pair.partition(b"=")[0].lower().replace(b"-", b"_") for pair in query.split(b"&"))
    if found := _SECRETS.intersection(names):
        raise invalid(
            [
                {
                    "field": name.decode(),
                    "message": "A URL carries no key and no session, because URLs are written "
                    "down on the way: use the headers, and take this one for known to others.",
                }
                for name in sorted(found)
            ]
        )


def _answer(request: Req, problem: ProblemError) -> Response[bytes]:
    request.scope[observe.CODE] = problem.problem.code  # type: ignore[literal-required]
    if "whose" in problem.body:
        request.scope[observe.WHOSE] = problem.body["whose"]  # type: ignore[literal-required]
    return Response(
        wire.encode(problem.body),
        media_type=wire.PROBLEM,
        status_code=problem.problem.status,
        headers=problem.headers,
    )


def _problem(request: Req, problem: ProblemError) -> Response[bytes]:
    return _answer(request, problem)


def _store_down(request: Req, down: StoreDown) -> Response[bytes]:
    detail = (
        "Whether the call took effect is unknown: make the same call again, it takes effect once."
        if down.sent
        else "Nothing was changed, and no deadline passes meanwhile. Ask again in a second."
    )
    return _answer(
        request,
        ProblemError(
            "unavailable",
            f"{down.reason} {detail}",
            outcome="unknown" if down.sent else "not-applied",
            retry_after=1,
        ),
    )


def _store_full(request: Req, _: StoreFull) -> Response[bytes]:
    return _answer(
        request, ProblemError("full", "The store is full. Tell whoever runs this service.")
    )


def _http(request: Req, error: HTTPException) -> Response[bytes]:
    if isinstance(error, NotFoundException):
        return _answer(
            request,
            ProblemError("not-found", "There is nothing at this path; /openapi.json lists them."),
        )
    if isinstance(error, MethodNotAllowedException):
        allow = "POST" if request.scope["path"].endswith(_POSTS) else "GET, HEAD"
        return _answer(
            request,
            ProblemError(
                "wrong-method",
                f"{request.method} is not for this path; it takes {allow}.",
                headers={"Allow": allow},
            ),
        )
    if error.status_code == 413:
        return _answer(
            request, ProblemError("too-large", "The body is larger than this service takes.")
        )
    if isinstance(error, ValidationException) or 400 <= error.status_code < 500:
        return _answer(request, invalid([{"field": "request", "message": f"{error.detail}."}]))
    return _internal(request, error)


def _internal(request: Req, error: Exception) -> Response[bytes]:
    log.error(
        "request_failed method=%s path=%s", request.method, request.scope["path"], exc_info=error
    )
    return _answer(
        request,
        ProblemError(
            "internal",
            "The service made a mistake, and has written down which. Ask again: every call is "
            "safe to repeat.",
            outcome="unknown",
        ),
    )


HANDLERS: dict[int | type[Exception], Any] = {
    ProblemError: _problem,
    StoreDown: _store_down,
    StoreFull: _store_full,
    HTTPException: _http,
    Exception: _internal,
}
