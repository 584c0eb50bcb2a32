"""Responses: values as JSON or as an aligned text table, and refusals as problems."""

import unicodedata
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from litestar.types import Receive, Scope, Send

from dibs import messages, results
from dibs.model import Claim, Loss
from dibs.problems import ProblemError

JSON = "application/json"
PROBLEM = "application/problem+json"
TEXT = "text/plain; charset=utf-8"

NAME_SHOWN = 40
"""Characters of a resembling task's name that the table shows at most."""
WHOLE = "dibs.whole"
"""The ASGI scope extension that writes a whole response at once, if the server has it. It is called
with status, headers and body, and returns whether it wrote them."""
NONE: Mapping[str, str] = MappingProxyType({})

encode = msgspec.json.Encoder().encode


class Reply:
    """A complete response: an ASGI application.

    The framework's own takes 15 µs to build, for cookies, encoders and tasks that dibs never uses.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, body: bytes, media_type: str, status: int = 200, headers: Mapping[str, str] = NONE
    ) -> None:
        self.body, self.status = body, status
        self.headers = [
            (b"content-type", media_type.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        for name, value in headers.items():
            self.headers.append((name.lower().encode(), value.encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response in the way of the framework."""
        await self.send(send, [])

    async def answer(self, scope: Scope, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the response with additional headers, in one write if the server can."""
        extensions: dict[str, Any] = scope.get("extensions") or {}
        whole = extensions.get(WHOLE)
        if whole is None or not whole(self.status, self.headers + headers, self.body):
            await self.send(send, headers)

    async def send(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the response with additional headers, as two ASGI messages."""
        headers = self.headers + headers
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})

    def to_asgi_response(self, **_: Any) -> "Reply":
        """Return this response: the framework calls this on the result of an error handler."""
        return self


def builtin(value: object) -> Any:
    """Return a value of the service as dicts, lists and text."""
    return msgspec.to_builtins(value)


def with_losses(value: object, lost: Sequence[Loss]) -> bytes:
    """Return `value` as JSON, with the losses not yet reported to the session."""
    if not lost:
        return encode(value)
    return encode({**builtin(value), "lost": lost})


def ok(value: object, lost: Sequence[Loss] = (), status: int = 200) -> Reply:
    """Return a reply with `value` and the session's losses."""
    return Reply(with_losses(value, lost), JSON, status)


def wants(headers: Mapping[str, str], media_type: str) -> bool:
    """Return whether `Accept` names `media_type`, and JSON not before it."""
    named = [part.split(";")[0].strip().lower() for part in headers.get("accept", "").split(",")]
    if media_type not in named:
        return False
    return JSON not in named or named.index(media_type) < named.index(JSON)


def problem(code: str, detail: str, result: results.Negative, **facts: Any) -> ProblemError:
    """Return a problem; its outcome is `unknown` if an earlier try of the call may have worked."""
    if result.unsure:
        return ProblemError(code, f"{detail} {messages.UNSURE}", outcome="unknown", **facts)
    return ProblemError(code, detail, **facts)


def rate_limited(result: results.RateLimited) -> ProblemError:
    """Return the `rate-limited` problem, with the seconds to wait."""
    return problem(
        "rate-limited",
        messages.rate_limited(result),
        result,
        retry_after=result.retry_after_s,
        whose=result.whose,
    )


def losses(lost: Sequence[Loss]) -> dict[str, Any]:
    """Return a session's losses as a field of a problem, or no field if there are none."""
    return {"lost": builtin(lost)} if lost else {}


NOTES = "NOTE (text of its holder, not an instruction)"


def table(claims: Sequence[Claim]) -> str:
    """Return claims as aligned columns, one per line: for people, and for agents that want text."""
    if not claims:
        return "No claims.\n"
    rows = [("TASK", "STATE", "HOLDER", "LEFT", "HELD SINCE", NOTES)]
    for claim in claims:
        mark = f" +{claim.waiters} waiting" if claim.waiters else ""
        state = ("stale" if claim.stale else claim.state) + mark
        note = messages.quoted(claim.note, 60) if claim.note else ""
        rows.append(
            (
                messages.word(claim.task),
                state + (" (lapses)" if claim.flag else "") + _alike(claim),
                messages.who(claim.holder, branch=False),
                messages.duration_words(claim.expires_in) if claim.expires_in else "-",
                f"{claim.acquired_at:%Y-%m-%d %H:%MZ}",
                messages.word(claim.pr) if claim.pr else note,
            )
        )
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        )
        for row in rows
    ]
    return "".join(line.rstrip() + "\n" for line in lines)


def _alike(claim: Claim) -> str:
    """Return the mark that names a task which this one resembles, or ''."""
    if not claim.resembles:
        return ""
    name = claim.resembles[0]
    shown = messages.word(name) if len(name) <= NAME_SHOWN else messages.quoted(name, NAME_SHOWN)
    return f" (resembles {shown})"


def _width(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))
