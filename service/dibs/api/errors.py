"""The conversion of exceptions to problems, for all routes."""

import logging
from typing import Any

from litestar import Request
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)

from dibs import messages, responses
from dibs.acts import POSTS, READS
from dibs.api import telemetry
from dibs.claims import OutOfBounds
from dibs.problems import Applied, ProblemError, invalid
from dibs.responses import Reply
from dibs.store import Damaged, StoreDown, StoreFull, Unwilling
from dibs.stream_limit import TooMany

log = logging.getLogger("dibs.api")
Req = Request[Any, Any, Any]


def answer(scope: Any, error: Exception) -> Reply:
    """Return the response to an exception; leave the problem's code in the scope."""
    problem = _problem(scope, error)
    scope[telemetry.CODE] = problem.problem.code
    if "whose" in problem.body:
        scope[telemetry.WHOSE] = problem.body["whose"]
    body = responses.encode(problem.body)
    return Reply(body, responses.PROBLEM, problem.problem.status, problem.headers)


def _problem(scope: Any, error: Exception) -> ProblemError:
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, StoreDown):
        return _store_down(error)
    if isinstance(error, StoreFull):
        return ProblemError("full", "The store is full. Tell the operator of this service.")
    if isinstance(error, OutOfBounds):
        return invalid([{"field": error.field, "message": str(error)}])
    if isinstance(error, TooMany):
        return ProblemError(
            "quota",
            f"The {error.whose} has reached its limit of {error.limit} event streams and exports. "
            "Read pages (of events without Accept: text/event-stream, of the history without "
            ".csv), or try again later.",
            retry_after=30,
            whose="streams",
            limit=error.limit,
        )
    if isinstance(error, HTTPException):
        return _http(scope, error)
    return _internal(scope, error)


def _store_down(down: StoreDown) -> ProblemError:
    outcome: Applied = "unknown" if down.sent else "not-applied"
    if isinstance(down, Unwilling):
        detail = (
            f"{down.reason} Until then new claims are refused; heartbeats and releases work. "
            f"{messages.UNSURE if down.sent else 'Nothing was changed.'} "
            "Tell the operator of this service."
        )
        return ProblemError("unavailable", detail, outcome=outcome, retry_after=10)
    if isinstance(down, Damaged):
        facts = {"lost": responses.builtin(down.lost)} if down.lost else {}
        detail = messages.damaged(down.task) if down.task else down.reason
        return ProblemError("unavailable", detail, outcome=outcome, **facts)
    detail = (
        "Whether the call took effect is unknown: repeat the same call; it takes effect once."
        if down.sent
        else "Nothing was changed, and no deadline passes meanwhile. Ask again in a second."
    )
    return ProblemError("unavailable", f"{down.reason} {detail}", outcome=outcome, retry_after=1)


def wrong_method(scope: Any) -> ProblemError:
    """Return the `wrong-method` problem, with the methods that the path accepts."""
    parts = scope["path"].split("/")
    act = POSTS.get(parts[3]) if len(parts) == 4 else None
    if parts[1:2] == ["p"]:  # a page; those with a form accept POST
        reads, posts = True, act is not None and act.caller == "admin"
    else:
        reads, posts = act is None or act.path in READS, act is not None
    allow = ", ".join(filter(None, ("GET, HEAD" if reads else "", "POST" if posts else "")))
    return ProblemError(
        "wrong-method",
        f"This path does not accept {scope['method']}; it accepts {allow}.",
        headers={"Allow": allow},
    )


def post_only(scope: Any) -> ProblemError:
    """Return the `wrong-method` problem of a path that accepts only POST."""
    return ProblemError(
        "wrong-method",
        f"This path does not accept {scope['method']}; it accepts POST.",
        headers={"Allow": "POST"},
    )


def _http(scope: Any, error: HTTPException) -> ProblemError:
    if isinstance(error, NotFoundException):
        return ProblemError("not-found", "This path does not exist; /openapi.json lists all paths.")
    if isinstance(error, MethodNotAllowedException):
        return wrong_method(scope)
    if error.status_code == 413:
        return ProblemError("too-large", "The body is larger than this service accepts.")
    if isinstance(error, ValidationException) or 400 <= error.status_code < 500:
        return invalid([{"field": "request", "message": f"{error.detail}."}])
    return _internal(scope, error)


def _internal(scope: Any, error: Exception) -> ProblemError:
    # As ASCII: a line break in a path would start a new log line.
    path = ascii(scope["path"])
    log.error("request_failed method=%s path=%s", scope["method"], path, exc_info=error)
    return ProblemError(
        "internal",
        "The service failed and logged the cause. Repeat the call: every call is safe to repeat.",
        outcome="unknown",
    )


def _handle(request: Req, error: Exception) -> Reply:
    return answer(request.scope, error)


HANDLERS: dict[int | type[Exception], Any] = {HTTPException: _handle, Exception: _handle}
