"""Answers to connections that sent no valid request: problems, built once.

The statuses are HTTP's for the case, so some differ from the one in the table of problems.
"""

from dataclasses import dataclass
from http import HTTPStatus

from dibs import responses
from dibs.problems import ProblemError

REQUEST_S = 10.0
"""For a request to arrive whole: a body is at most some KiB."""
HEAD_BYTES = 32_768
"""For a request's line and headers."""


@dataclass(frozen=True, slots=True)
class ConnectionProblem:
    """Why a connection ends."""

    counted: str
    """The value of `why` in the metrics."""
    answer: bytes = b""
    """A whole response, where there is somebody to hear it."""


def _refusal(
    counted: str, status: HTTPStatus, code: str, detail: str, retry_after: int | None = None
) -> ConnectionProblem:
    problem = ProblemError(code, f"{detail} Nothing was changed.", retry_after=retry_after)
    body = responses.encode({**problem.body, "title": status.phrase, "status": status.value})
    headers = {
        "Content-Type": responses.PROBLEM,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        **problem.headers,
    }
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return ConnectionProblem(counted, f"{head}\r\n".encode() + body)


REFUSALS = {
    "many": _refusal(
        "many",
        HTTPStatus.SERVICE_UNAVAILABLE,
        "unavailable",
        "The service has reached its limit of connections (DIBS_MAX_CONNECTIONS). Ask again.",
        retry_after=1,
    ),
    "slow": _refusal(
        "slow",
        HTTPStatus.REQUEST_TIMEOUT,
        "invalid",
        f"The request did not arrive completely within {REQUEST_S:.0f} s. Send it again.",
    ),
    "large": _refusal(
        "large",
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "too-large",
        f"The request's line and headers are larger than {HEAD_BYTES} bytes.",
    ),
    "body": _refusal(
        "large",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too-large",
        "The body, or the framing of a chunked body, is larger than this service accepts.",
    ),
    "malformed": _refusal(
        "malformed",
        HTTPStatus.BAD_REQUEST,
        "invalid",
        "This is not a valid HTTP/1.1 request (RFC 9112).",
    ),
    "host": _refusal(
        "malformed",
        HTTPStatus.BAD_REQUEST,
        "invalid",
        "A request is HTTP/1.1 or HTTP/1.0, and HTTP/1.1 has exactly one Host: a name or an "
        "address, and optionally a port up to 65535.",
    ),
    "trailer": _refusal(
        "malformed",
        HTTPStatus.BAD_REQUEST,
        "invalid",
        "A header that decides was sent after the body, as a trailer. Send it before the body.",
    ),
    "pipelined": ConnectionProblem("pipelined"),
    "quiet": ConnectionProblem("quiet"),
    "unread": ConnectionProblem("unread"),
}
