"""One connection: uvicorn's HTTP protocol, with bounds on everything a caller can make it keep.

uvicorn does not limit heads, trailers, slow requests, pipelined requests or unread answers, and its
parser loses the body of a request that offers an upgrade. So the bytes are split here at the end of
each head and body, and each part has a limit. A request that follows one that is being answered
waits unread.
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
"""For what a chunked body has beside the body: sizes, extensions, trailers."""
HELD_BYTES = 32_768
"""For what a caller sends behind a request that is being answered."""
UNREAD_S = 20.0
"""An answer of which nobody takes a byte for so long ends its connection."""
LINGER_S, LINGER_BYTES = 2.0, 4 << 20
"""What a caller still sends after the last answer is dropped for so long, so that it reads that
answer: closing at once would take it away (RFC 9112, 9.6)."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may cost."""

    slots: ConnectionSlots
    """Of all connections to this process."""
    body: int
    """Bytes."""
    large_body: int = 0
    """The same for the paths that end with one of these."""
    large_paths: tuple[bytes, ...] = ()


class HttpConnection(HttpToolsProtocol):
    """A connection to this service."""

    # Slots, because beyond 30 attributes a dict makes each look at one slower.
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
        """When the request that is not here yet began to arrive; 0 between requests."""
        self._room = HEAD_BYTES
        """Bytes that the part which is arriving, head or body, may still take."""
        self._in_body = False
        self._left: int | None = None
        """Bytes of the body that are still to come, by its Content-Length."""
        self._tail = b""
        """The last bytes of the part that is arriving: its end may straddle two segments."""
        self._answering = False
        """A request is here, and its answer is not complete."""
        self._held = b""
        """What came behind that request."""
        self._keep_alive = False
        """The connection may go on once the body is here: an answer before that says close."""
        self._host: bytes | None = None
        """The Host that was found right last."""
        self._offered = False
        """The head that was read offers an upgrade: it is read again, without."""
        self._deaf = False
        """What arrives is dropped."""
        self._hung_up_at, self._dropped = 0.0, 0
        self._quiet_at = 0.0
        """When the last answer was complete."""
        self._extensions: Any = {WHOLE: self.answer}
        self._taken, self._taken_at = 0, 0.0
        """How many bytes the caller has taken, and since when no more."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Take the connection, or say that there are too many."""
        counting: Any = CountingTransport(transport, self._hang_up)
        super().connection_made(counting)
        self.began = self.loop.time()
        if not self._slots.enter(self, self.began):
            self._count("many")
            self.transport.write(REFUSALS["many"].answer)
            self._deaf = True
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave."""
        self._slots.leave(self)
        super().connection_lost(exc)

    def make_room(self) -> None:
        """Go, without a word: a new connection needs the place."""
        self._count("quiet")
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read on; what comes behind a request that is being answered waits."""
        if self._deaf:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.abort()
        elif not self.transport.is_closing():
            self._read(self._held + data if self._held else data)

    def _read(self, data: bytes) -> None:
        """Give the parser one head or body after another, as far as it may have them."""
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
        """Give the parser the next bytes of one head or body."""
        in_body = self._in_body
        if self._left is not None:
            self._left -= len(part)
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            self._read_without_offers()
        except httptools.HttpParserError as error:
            self._malformed(error)
        if self.began and in_body == self._in_body:  # its end is not here
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
            raise error  # a mistake of ours
        self.refuse("malformed")

    def _read_without_offers(self) -> None:
        """Read the head again: the parser takes all that follows an offer for the other protocol,
        a declared body too."""
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
        """Keep a header. A field behind a body is none, and none of those that decide."""
        name = name.lower()
        if self._in_body:
            if name in DECIDING:
                self.refuse("trailer")
            return
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start to answer, if the head is one of HTTP/1.1 and says for whom it is."""
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
        """Say if the request names one host, as HTTP/1.1 must and HTTP/1.0 may."""
        if host is None:
            return bool(self.parser.get_http_version() == "1.0")
        return is_host(host) and [name for name, _ in self.headers].count(b"host") == 1

    def on_message_complete(self) -> None:
        """Let the request be answered: all of it is here."""
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
        """Send a whole answer in one write; say if that was possible.

        The same bytes as by uvicorn's `send`, which takes three times as long to look at each part.
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
        """Go on with what waits. In place of uvicorn's, which sets a timer each time."""
        self._answering = False
        self._quiet_at = self.loop.time()
        self._slots.quiet(self, self._quiet_at)
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
        if self._held and not self._deaf:
            self._read(self._held)

    def refuse(self, why: str) -> None:
        """Say why in a problem, unless an answer has begun, and close. The request does nothing."""
        self._count(why)
        if self._in_body:
            silent = self.cycle.response_started
            self.cycle.disconnected = True  # it is told so, if it is still being read
            self.cycle.message_event.set()
        else:
            silent = self._room == HEAD_BYTES  # nobody asks
        if not silent:
            self.transport.write(REFUSALS[why].answer)
        self.transport.close()

    def _count(self, why: str) -> None:
        self._metrics.add("dibs_connections_refused_total", REFUSALS[why].counted)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("connection_refused why=%s by=%s", why, self.client and self.client[0])

    def _hang_up(self, transport: Transport) -> None:
        """Close; where the caller still sends, only after a while in which it can read."""
        sends = self._deaf or self._held or self._in_body or self._room < HEAD_BYTES
        if self._hung_up_at or not sends or transport.is_closing():
            transport.close()
            return
        self._hung_up_at, self._deaf, self._held = self.loop.time(), True, b""
        transport.write_eof()
        self.flow.resume_reading()

    def shutdown(self) -> None:
        """Close once what is being answered is."""
        self._keep_alive = False
        super().shutdown()

    def look(self, now: float) -> None:
        """End what takes too long. Called about once a second."""
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
                self._slots.busy(self)  # it takes something again
            self._taken, self._taken_at = taken, now
        elif now - self._taken_at > UNREAD_S:
            self._count("unread")
            self.transport.abort()
        elif now - self._taken_at > QUIET_S:
            self._slots.quiet(self, now)


def protocol(limits: ConnectionLimits, metrics: Metrics) -> Callable[..., HttpConnection]:
    """Return what makes a connection, as uvicorn calls it."""

    def make(**given: Any) -> HttpConnection:
        return HttpConnection(limits, metrics, **given)

    return make
