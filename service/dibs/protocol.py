"""One connection: uvicorn's HTTP protocol, with bounds on everything a caller can make it keep.

uvicorn does not limit heads, trailers, slow requests, pipelined requests or unread responses, and
its parser loses the body of a request that offers an upgrade. So this class splits the bytes at the
end of each head and body, and limits each part. A pipelined request waits unparsed until the
response before it is complete.
"""

import logging
from asyncio import AbstractEventLoop, Transport
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from dibs.api.connection_problems import HEAD_BYTES, REFUSALS, REQUEST_S
from dibs.api.headers import DECIDING, Header, is_host
from dibs.connection_slots import QUIET_S, ConnectionSlots, is_kept_for
from dibs.framing import end_of_part, whole, without_offers
from dibs.metrics import Metrics
from dibs.responses import WHOLE
from dibs.transport import CountingTransport

log = logging.getLogger("dibs.protocol")

FRAMING_BYTES = 65_536
"""Bytes of chunked framing besides the body: sizes, extensions, trailers."""
HELD_BYTES = 32_768
"""Bytes that a caller may send behind a request in progress."""
UNREAD_S = 20.0
"""Seconds without a byte of the response read, after which the connection is closed."""
LINGER_S, LINGER_BYTES = 2.0, 4 << 20
"""Seconds and bytes for which a caller's data is dropped after the last response, so that the
caller reads that response: closing at once could destroy it (RFC 9112, 9.6)."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of one connection."""

    slots: ConnectionSlots
    """The slots of all connections to this process."""
    body: int
    """Bytes of a request body."""
    large_body: int = 0
    """Bytes of a request body for paths that end with one of `large_paths`."""
    large_paths: tuple[bytes, ...] = ()


class HttpConnection(HttpToolsProtocol):
    """A connection to this service."""

    # Slots, because with more than 30 attributes each access through a dict is slower.
    __slots__ = (
        *("_answering", "_limits", "_deaf", "_dropped", "_extensions", "_held", "_host"),
        *("_hung_up_at", "_in_body", "_keep_alive", "_left", "_metrics", "_offered", "_quiet_at"),
        *("_room", "_slots", "_tail", "_taken", "_taken_at", "began"),
    )
    transport: Any  # a CountingTransport

    def __init__(
        self,
        limits: ConnectionLimits,
        metrics: Metrics,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._slots, self._metrics = limits.slots, metrics
        self._limits = limits
        self.began = 0.0
        """When the incomplete request began to arrive; 0 between requests."""
        self._room = HEAD_BYTES
        """Bytes that the arriving head or body may still have."""
        self._in_body = False
        self._left: int | None = None
        """Bytes of the body still to arrive, by its Content-Length."""
        self._tail = b""
        """The last bytes of the arriving part: its end may straddle two segments."""
        self._answering = False
        """Whether a request is complete and its response is not."""
        self._held = b""
        """Bytes that arrived behind that request."""
        self._keep_alive = False
        """Whether the connection is kept once the body is here; an earlier response closes it."""
        self._host: bytes | None = None
        """The last valid Host."""
        self._offered = False
        """Whether the head offers an upgrade; then it is parsed again without the offer."""
        self._deaf = False
        """Whether arriving bytes are dropped."""
        self._hung_up_at, self._dropped = 0.0, 0
        self._quiet_at = 0.0
        """When the last response was complete."""
        self._extensions: Any = {WHOLE: self.answer}
        self._taken, self._taken_at = 0, 0.0
        """The bytes that the caller has read, and when that number last grew."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it if there are too many."""
        counting: Any = CountingTransport(transport, self._hang_up)
        super().connection_made(counting)
        self.began = self.loop.time()
        if not self._slots.enter(self, self.began):
            self._count("many")
            self.transport.write(REFUSALS["many"].answer)
            self._deaf = True
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the slot."""
        self._slots.leave(self)
        super().connection_lost(exc)

    def make_room(self) -> None:
        """Abort without a response: a new connection needs the slot."""
        self._count("quiet")
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse the data; data behind a request in progress waits."""
        if self._deaf:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.abort()
        elif not self.transport.is_closing():
            self._read(self._held + data if self._held else data)

    def _read(self, data: bytes) -> None:
        """Feed the parser one head or body at a time, within the limits."""
        at, size = 0, len(data)
        while at < size and not self._deaf:
            if self._answering:
                self._hold(data[at:])
                return
            if not self.began:
                if data[at] in b"\r\n":  # empty lines between requests (RFC 9112, 2.2)
                    at += 1
                    continue
                self.began = self.loop.time()
            end = end_of_part(data, at, self._left, self._tail)
            self._room -= end - at
            if self._room < 0:
                self.refuse("body" if self._in_body else "large")
                return
            self._feed(data[at:end])
            at = end
        self._held = b""

    def _feed(self, part: bytes) -> None:
        """Feed the parser the next bytes of one head or body."""
        in_body = self._in_body
        if self._left is not None:
            self._left -= len(part)
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            self._read_without_offers()
        except httptools.HttpParserError as error:
            self._malformed(error)
        if self.began and in_body == self._in_body:  # the part has not ended yet
            self._tail = (self._tail + part)[-3:]
        elif self._tail:
            self._tail = b""

    def _hold(self, data: bytes) -> None:
        self._held = data
        self.flow.pause_reading()
        if len(data) > HELD_BYTES:
            self._count("pipelined")
            self._held, self._deaf = b"", True
            self.cycle.keep_alive = False

    def _malformed(self, error: httptools.HttpParserError) -> None:
        by_us = isinstance(error, httptools.HttpParserCallbackError)
        if by_us and not isinstance(error.__context__, httptools.HttpParserInvalidURLError):
            raise error  # a bug in a callback
        self.refuse("malformed")

    def _read_without_offers(self) -> None:
        """Parse the head again without the offer of an upgrade: after one, the parser treats all
        further bytes, even a declared body, as the other protocol."""
        if self.parser.get_method() == b"CONNECT":
            self.refuse("malformed")
            return
        version = self.parser.get_http_version().encode()
        head = without_offers(self.parser.get_method(), self.url, version, self.headers)
        self._offered = False
        self.parser = httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserError as error:
            self._malformed(error)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. A trailer is ignored, or refused if it is a deciding header."""
        name = name.lower()
        if self._in_body:
            if name in DECIDING:
                self.refuse("trailer")
            return
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start the request if its head is valid and names one host, and a slot is kept for it."""
        if self.parser.should_upgrade():
            self._offered = True
            return
        given = dict(self.headers)
        host = given.get(b"host")
        if host is None or host != self._host or len(given) < len(self.headers):
            if not self._has_host(host):
                self.refuse("host")
                return
            self._host = host
        scarce = self._slots.scarce
        if scarce and not is_kept_for(self.parser.get_method(), self.url):
            self.refuse("many")
            return
        super().on_headers_complete()
        if self.scope["method"] == "POST":
            self.scope["extensions"] = self._extensions
        if scarce:
            self.cycle.keep_alive = False
        length = given.get(b"content-length")
        if length is not None:
            self._left = int(length)
        if self._left or b"transfer-encoding" in given:
            self._keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False
        is_large = self.url.endswith(self._limits.large_paths)
        body = self._limits.large_body if is_large else self._limits.body
        self._room, self._in_body = body + FRAMING_BYTES, True

    def _has_host(self, host: bytes | None) -> bool:
        """Return whether the request names one host, as HTTP/1.1 must and HTTP/1.0 may."""
        if host is None:
            return bool(self.parser.get_http_version() == "1.0")
        return is_host(host) and [name for name, _ in self.headers].count(b"host") == 1

    def on_message_complete(self) -> None:
        """Mark the request as complete, so that it is answered."""
        if self._offered or self._deaf:
            return
        if self._keep_alive and not self.cycle.response_started:
            self.cycle.keep_alive = True
        self._keep_alive = False
        self._room, self._in_body, self._left, self.began = HEAD_BYTES, False, None, 0.0
        self._answering = True
        self._slots.busy(self)
        super().on_message_complete()

    def answer(self, status: int, headers: Sequence[Header], body: bytes) -> bool:
        """Send a complete response in one write; return whether that was possible.

        The bytes are those of uvicorn's `send`, which takes three times as long to check each part.
        """
        if self.cycle.response_started or self.cycle.disconnected or self.flow.write_paused:
            return False
        keep_alive = self.cycle.keep_alive
        head = whole(status, self.server_state.default_headers, headers, keep_alive=keep_alive)
        self.cycle.response_started = self.cycle.response_complete = True
        self.transport.write(head + body)
        self.cycle.message_event.set()
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()
        return True

    def on_response_complete(self) -> None:
        """Continue with waiting data. Replaces uvicorn's method, which sets a timer each time."""
        self._answering = False
        self._quiet_at = self.loop.time()
        self._slots.quiet(self, self._quiet_at)
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
        if self._held and not self._deaf:
            self._read(self._held)

    def refuse(self, why: str) -> None:
        """Send a problem, unless a response has begun, and close. The request has no effect."""
        self._count(why)
        if self._in_body:
            silent = self.cycle.response_started
            self.cycle.disconnected = True  # ends an application that still reads the body
            self.cycle.message_event.set()
        else:
            silent = self._room == HEAD_BYTES  # no request has begun
        if not silent:
            self.transport.write(REFUSALS[why].answer)
        self.transport.close()

    def _count(self, why: str) -> None:
        self._metrics.add("dibs_connections_refused_total", REFUSALS[why].counted)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("connection_refused why=%s by=%s", why, self.client and self.client[0])

    def _hang_up(self, transport: Transport) -> None:
        """Close; if the caller still sends, only after LINGER_S, so that it can read."""
        sends = self._deaf or self._held or self._in_body or self._room < HEAD_BYTES
        if self._hung_up_at or not sends or transport.is_closing():
            transport.close()
            return
        self._hung_up_at, self._deaf, self._held = self.loop.time(), True, b""
        transport.write_eof()
        self.flow.resume_reading()

    def shutdown(self) -> None:
        """Close after the response in progress."""
        self._keep_alive = False
        super().shutdown()

    def look(self, now: float) -> None:
        """Close the connection if it is too slow or idle too long. Called about once a second."""
        if self._hung_up_at and now - self._hung_up_at > LINGER_S:
            self.transport.abort()
        elif 0 < self.began < now - REQUEST_S and not self._deaf:
            self.refuse("slow")
        elif not (self.began or self._answering) and now - self._quiet_at > self.timeout_keep_alive:
            self.transport.close()
        unread = self.transport.get_write_buffer_size()
        taken = self.transport.written - unread
        if not unread or taken != self._taken:
            if self._taken_at and self._answering:
                self._slots.busy(self)  # the caller reads again
            self._taken, self._taken_at = taken, now
        elif now - self._taken_at > UNREAD_S:
            self._count("unread")
            self.transport.abort()
        elif now - self._taken_at > QUIET_S:
            self._slots.quiet(self, now)


def protocol(limits: ConnectionLimits, metrics: Metrics) -> Callable[..., HttpConnection]:
    """Return the factory of connections that uvicorn calls."""

    def make(**given: Any) -> HttpConnection:
        return HttpConnection(limits, metrics, **given)

    return make
