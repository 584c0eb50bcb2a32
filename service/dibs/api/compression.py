"""Gzip compression of responses, for clients that accept it.

The size of compressed data depends on its content. A caller who can repeatedly put a chosen text
next to a secret, and sees the size of the responses, learns the secret although the responses are
encrypted (BREACH, CVE-2013-3587). So these are sent uncompressed:

- responses to POST, which never get here: they alone belong to a session;
- pages that repeat a text of their URL (a search, a holder, the task of a break);
- requests that a browser makes for another site's page, which could repeat them.

The remaining responses contain no key, no session and no text that the caller chose. Streams are
sent uncompressed as well, so that no data waits in a compressor.
"""

import asyncio
import re
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from litestar.types import ASGIApp

LEAST = 1_000
"""Bytes of the smallest response worth compressing."""
SLICE = 1 << 16
"""Bytes compressed in one go, in a millisecond; other requests run in between."""
LEVEL = 6
TYPES = frozenset(
    b"text/html text/plain text/css text/javascript image/svg+xml application/json".split()
)
FILES = ("/board/", "/client/", "/skill/")
"""Paths of files that are the same for all callers, so each is compressed once."""
FILES_KEPT = 32
NOT_REPEATED = frozenset(("page", "state", "sort"))
"""Query parameters of a page that a caller cannot fill with chosen text: they are numbers or have
few values."""
_GZIP = re.compile(rb"(?:^|,)\s*(?:gzip|x-gzip|\*)\s*(?:;\s*q=([0-9.]+))?\s*(?=,|$)", re.IGNORECASE)
_OURS = (b"same-origin", b"none")
_VARY = (b"vary", b"Accept-Encoding")


def reads_gzip(accept: bytes) -> bool:
    """Return whether an Accept-Encoding header accepts gzip."""
    found = _GZIP.search(accept)
    return found is not None and (found[1] is None or found[1].strip(b"0.") != b"")


def is_safe(scope: Any, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether the length of the response may depend on its content; see above."""
    if headers.get(b"sec-fetch-site", b"none") not in _OURS:
        return False
    if scope["path"].startswith(("/v1/", *FILES)):
        return True  # these responses do not repeat the query
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return all(name in NOT_REPEATED for name, _ in query)


def compressed(app: ASGIApp) -> ASGIApp:
    """Wrap `app`: compress complete responses if the client accepts it, and it is safe and worth
    it."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] != "GET":
            await app(scope, receive, send)
            return
        asked = dict(scope["headers"])
        wanted = reads_gzip(asked.get(b"accept-encoding", b"")) and is_safe(scope, asked)
        started: Any = None

        async def answer(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start" and _is_for_all(message):
                started = message
                return
            if started is None:
                await send(message)
                return
            start, started = started, None
            body = message.get("body", b"")
            start = {**start, "headers": [*start["headers"], _VARY]}
            if wanted and len(body) >= LEAST and not message.get("more_body", False):
                body = await _compressed(scope["path"], body)
                start["headers"] = _resized(start["headers"], len(body))
                message = {**message, "body": body}
            await send(start)
            await send(message)

        await app(scope, receive, answer)

    return wrapped


def _is_for_all(start: Any) -> bool:
    """Return whether a response may be compressed for some clients."""
    headers = dict(start["headers"])
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip()
    return start["status"] == 200 and kind in TYPES and b"content-encoding" not in headers


def _resized(headers: list[tuple[bytes, bytes]], size: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return [*kept, (b"content-length", b"%d" % size), (b"content-encoding", b"gzip")]


async def _compressed(path: str, body: bytes) -> bytes:
    if path.startswith(FILES):
        return _file(body)
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    parts = []
    for first in range(0, len(body), SLICE):
        parts.append(packer.compress(body[first : first + SLICE]))
        await asyncio.sleep(0)
    return b"".join((*parts, packer.flush()))


@lru_cache(FILES_KEPT)
def _file(body: bytes) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()
