"""Telemetry of requests: a count, a duration, and a log line for each refused request."""

import logging
from time import perf_counter
from typing import Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from dibs import __version__
from dibs.acts import ACTS
from dibs.forge.handler import RESULTS
from dibs.metrics import CONTENT_TYPE, Metrics, families
from dibs.problems import TABLE

log = logging.getLogger("dibs.api")

CODES = tuple(problem.code for problem in TABLE)
CODE = "dibs_code"
"""The scope key for the code of a response's problem."""
WHOSE = "dibs_whose"
_V1 = "/v1/{project}/"
_ROUTES = {
    **{_V1 + act.path: act.name for act in ACTS if act.method == "GET"},
    _V1 + "events": "events",
    _V1 + "history.csv": "history",
    "/livez": "health",
    "/readyz": "health",
    "/metrics": "health",
    "/openapi.json": "file",
    "/client/{name}": "file",
    "/skill/{name}": "file",
    "/problems/{code}": "file",
    "/": "board",
}
FORGE_EVENTS = ("pull_request", "issues", "ping")
"""Event types of a forge that the metrics count by name."""
_ACTS = tuple(act.name for act in ACTS)
ROUTES = (*dict.fromkeys((*_ACTS, *_ROUTES.values(), "hook")), "other")
FORGE = (*FORGE_EVENTS, "other"), RESULTS
FAMILIES = families(CODES, ROUTES, _ACTS, FORGE, __version__)


def observed(app: ASGIApp, metrics: Metrics) -> ASGIApp:
    """Wrap `app`: count and time every request."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        status, streamed = 0, False

        async def answer(message: Any) -> None:
            nonlocal status, streamed
            if message["type"] == "http.response.start":
                status = message["status"]
                kind = dict(message["headers"]).get(b"content-type", b"")
                streamed = kind.startswith(b"text/event-stream")
            await send(message)

        began = perf_counter()
        try:
            await app(scope, receive, answer)
        finally:
            took_s = None if streamed else perf_counter() - began
            count(scope, metrics, _route(scope), status, took_s)

    return wrapped


def count(scope: Any, metrics: Metrics, route: str, status: int, took_s: float | None) -> None:
    """Count a request, answered or abandoned; a stream (`took_s` None) is not timed."""
    if took_s is not None:
        metrics.observe("dibs_request_seconds", route, value=took_s)
    code = scope.get(CODE)
    if route in _ACTS:
        metrics.add("dibs_acts_total", route, code or ("granted" if status == 201 else "ok"))
    if code:
        _note_refusal(scope, metrics, route, code)


def _route(scope: Any) -> str:
    template = scope.get("path_template") or ""
    found = _ROUTES.get(template)
    return found or ("board" if template.startswith("/p/") else "other")


def _note_refusal(scope: Any, metrics: Metrics, route: str, code: str) -> None:
    if code == "rate-limited":
        metrics.add("dibs_rate_refusals_total", scope.get(WHOSE, "project"))
    if log.isEnabledFor(logging.DEBUG):
        headers = dict(scope["headers"])
        request = headers.get(b"x-request-id", b"").decode("latin-1")[:200]
        # The path contains no session and no key; the query is not part of it.
        log.debug(
            "request_refused route=%s code=%s path=%s request=%s",
            route,
            code,
            ascii(scope["path"]),
            ascii(request),
        )


def handler(metrics: Metrics) -> HTTPRouteHandler:
    """Return the route of the metrics."""

    def read() -> Response[bytes]:
        """Return all metrics of this service in Prometheus' format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return get("/metrics", sync_to_thread=False, signature_types=[Response])(read)
