"""Responses to connections that sent no valid request: problems, built once.

Each has the HTTP status of its case, which may differ from the status in the table of problems.
"""

from dataclasses import dataclass
from http import HTTPStatus

from dibs import responses
from dibs.problems import ProblemError

REQUEST_S = 10.0
"""Seconds in which a request must arrive completely."""
HEAD_BYTES = 32_768
"""Bytes of a request line with its headers at most."""


@dataclass(frozen=True, slots=True)
class ConnectionProblem:
    """A reason to end a connection."""

    counted: str
    """The value of `why` in the metrics."""
    answer: bytes = b""
    """A complete response; empty if there is nobody to receive it."""


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
        "The service has reached its limit of connections (DIBS_MAX_CONNECTIONS). Ask again in a "
        "second.",
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
        f"The request line and headers are larger than {HEAD_BYTES} bytes.",
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
        "A request must be HTTP/1.1 or HTTP/1.0, and HTTP/1.1 needs exactly one Host: a name or "
        "an address, and optionally a port up to 65535.",
    ),
    "trailer": _refusal(
        "malformed",
        HTTPStatus.BAD_REQUEST,
        "invalid",
        "A header that dibs acts on was sent after the body, as a trailer. Send it before the "
        "body.",
    ),
    "pipelined": ConnectionProblem("pipelined"),
    "quiet": ConnectionProblem("quiet"),
    "unread": ConnectionProblem("unread"),
}
