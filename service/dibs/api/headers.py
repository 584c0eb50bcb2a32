"""Headers of all responses, and of responses to acts."""

import asyncio
import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Any

from litestar.types import ASGIApp

DECIDING = frozenset(
    b"authorization content-length content-type dibs-session host idempotency-key last-event-id "
    b"origin sec-fetch-site transfer-encoding "
    b"x-github-delivery x-github-event x-hub-signature-256".split()
)
"""Deciding headers: those that determine what a request does and for whom. A request may have each
of them once, before the body."""
_HOST = re.compile(rb"([A-Za-z0-9_.~-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")
"""A name, an IPv4 or an IPv6 address; a port. The client that the service serves contains it."""
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
_ALWAYS = [
    _NO_SNIFF,
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
_NO_STORE = (b"cache-control", b"no-store")
_ECHOED = {b"idempotency-key", b"x-request-id", b"traceparent"}
_ECHO_BYTES = 200

Header = tuple[bytes, bytes]


def doubled(request: Iterable[Header]) -> list[str]:
    """Return the deciding headers that occur more than once in a request, in title case."""
    names = [name for name, _ in request if name in DECIDING]
    return sorted(name.decode().title() for name in set(names) if names.count(name) > 1)


def is_host(host: bytes) -> bool:
    """Return whether a Host header is valid."""
    found = _HOST.fullmatch(host)
    if found is None or int(found[2] or 0) > 65_535:
        return False
    if host.startswith(b"["):
        try:
            IPv6Address(found[1][1:-1].decode())
        except ValueError:
            return False
    return True


def of_an_act(request: Iterable[Header]) -> list[Header]:
    """Return the additional headers of the response to an act. It is not a page, so it needs no
    framing or referrer policy."""
    return [_NO_STORE, _NO_SNIFF, *_echoed(request)]


def _echoed(request: Iterable[Header]) -> list[Header]:
    return [
        (name, value)
        for name, value in request
        if name in _ECHOED and len(value) <= _ECHO_BYTES and value.isascii()
    ]


def with_headers(app: ASGIApp) -> ASGIApp:
    """Wrap `app`: responses are not cached unless they allow it and never framed; request ids are
    echoed."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        if head:  # the response to GET without its body (RFC 9110, 9.3.2)
            scope = {**scope, "method": "GET"}
            receive, send = _until_started(send)
        extra = _ALWAYS + _echoed(scope["headers"])

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(_NO_STORE)
                message = {**message, "headers": headers + extra}
            await send(message)

        await app(scope, receive, answer)

    return wrapped


def _until_started(send: Any) -> tuple[Any, Any]:
    """Return a receive and a send that end a response, even a stream, after its head."""
    started = asyncio.Event()

    async def receive() -> dict[str, str]:
        await started.wait()
        return {"type": "http.disconnect"}

    async def head_only(message: Any) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            started.set()

    return receive, head_only
