"""One connection: uvicorn's protocol, with a bound on all that a caller can make it keep.

uvicorn has none on heads, trailers, requests that arrive slowly, requests behind one another, or
answers that nobody reads, and its parser loses the body of a request that offers an upgrade. So the
bytes are cut here at the end of each head and body, and each part may take so many of them. What
comes behind a request that is being answered waits unread.
"""

import logging
import re
from asyncio import AbstractEventLoop, Transport
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from dibs.api.headers import DECIDING
from dibs.api.refusals import HEAD_BYTES, REFUSALS, REQUEST_S
from dibs.metrics import Metrics

log = logging.getLogger("dibs.protocol")

FRAMING_BYTES = 65_536
"""For what a chunked body has beside the body: sizes, extensions, trailers."""
HELD_BYTES = 65_536
"""For what a caller sends behind a request that is being answered."""
QUIET_S = 1.0
"""With as many connections as there may be, one that nothing was asked on for so long makes room
for a new one, the longest first: a stranger who only holds connections keeps nobody out."""
UNREAD_S = 20.0
"""An answer of which nobody takes a byte for so long ends its connection."""
LINGER_S, LINGER_BYTES = 2.0, 4 << 20
"""What a caller still sends after the last answer is dropped for so long, so that it reads that
answer: closing at once would take it away (RFC 9112, 9.6)."""
_END = b"\r\n\r\n"
_HOST = re.compile(rb"([A-Za-z0-9_.~-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")
"""A name, an IPv4 or an IPv6 address; a port. It becomes part of the client that is served."""
_OFFERS = (b"upgrade", b"http2-settings")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost."""

    connections: int
    """To this process."""
    body: int
    """Bytes."""


class Joined:
    """A transport that sends the head of an answer together with its body.

    uvicorn writes each by itself, and each is a call into the kernel and a wake-up over there:
    7 % of the claims a second on a store that syncs once a second (docs/performance.md).
    """

    def __init__(self, transport: Transport, hang_up: Callable[[Transport], None]) -> None:
        """`hang_up` closes the transport in the way that its protocol wants."""
        self._transport, self._head, self._hang_up = transport, b"", hang_up
        self.is_closing = transport.is_closing  # asked twice a request
        self.written = 0
        """Bytes, since the connection began."""

    def write(self, data: bytes) -> None:
        """Write; a head whose body has a length waits for it, and no longer than `flush`."""
        if not self._head and data.startswith(b"HTTP/1.1 ") and b"\r\ncontent-length: " in data:
            self._head = data
        else:
            self._head, data = b"", self._head + data
            self.written += len(data)
            self._transport.write(data)

    def flush(self) -> None:
        """Write the head of an answer that has no body."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Write what is left, and close."""
        self.flush()
        self._hang_up(self._transport)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(HttpToolsProtocol):
    """A connection to this service."""

    transport: Any  # a Joined
    began = 0.0
    """When the request that is not here yet began to arrive; 0 between requests."""
    _room = HEAD_BYTES
    """Bytes that the part which is arriving, head or body, may still take."""
    _in_body = False
    _left: int | None = None
    """Bytes of the body that are still to come, by its Content-Length."""
    _tail = b""
    """The last bytes of the part that is arriving: its end may straddle two segments."""
    _answering = False
    """A request is here, and its answer is not complete."""
    _held = b""
    """What came behind that request."""
    _keep_alive = False
    """The connection may go on once the body is here: an answer that overtakes it says close."""
    _host: bytes | None = None
    """The Host that was found right last."""
    _offered = False
    """The head that was read offers an upgrade: it is read again, without."""
    _deaf = False
    """What arrives is dropped."""
    _hung_up_at = 0.0
    _quiet_at = 0.0
    """Since when nothing was asked here."""
    _dropped = 0
    _taken, _taken_at = 0, 0.0
    """How many bytes the caller has taken, and since when no more."""

    def __init__(
        self,
        limits: Limits,
        metrics: Metrics,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits, self._metrics = limits, metrics

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Take the connection, or say that there are too many."""
        joined: Any = Joined(transport, self._hang_up)
        super().connection_made(joined)
        self.began = self.loop.time()
        self._quiet_at = self.began
        if len(self.connections) > self._limits.connections and not self._make_room():
            self._count("many")
            self.transport.write(REFUSALS["many"].answer)
            self._deaf = True
            transport.close()

    def _make_room(self) -> bool:
        """Close the connection that was quiet for longest, if there is one; say if there was."""
        others: Any = self.connections
        quiet = [one for one in others if one._is_quiet(self.began)]
        if not quiet:
            return False
        least = min(quiet, key=lambda one: one._quiet_at)
        least._count("quiet")
        least.transport.abort()
        return True

    def _is_quiet(self, now: float) -> bool:
        """Say if nothing is being answered here, and no request came for a while."""
        return (
            not (self._answering or self.transport.is_closing()) and now - self._quiet_at > QUIET_S
        )

    def data_received(self, data: bytes) -> None:
        """Read on; what comes behind a request that is being answered waits."""
        if self._deaf:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.abort()
        elif not self.transport.is_closing():
            self._read(self._held + data if self._held else data)

    def _read(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self._deaf:
            if self._answering:
                self._hold(data[at:])
                return
            if not self.began:
                if data[at] in b"\r\n":  # empty lines between requests (RFC 9112, 2.2)
                    at += 1
                    continue
                self._unset_keepalive_if_required()
                self.began = self.loop.time()
            at = self._read_part(data, at)
        self._held = b""

    def _hold(self, data: bytes) -> None:
        self._held = data
        self.flow.pause_reading()
        if len(data) > HELD_BYTES:
            self._count("pipelined")
            self._held, self._deaf = b"", True
            self.cycle.keep_alive = False

    def _read_part(self, data: bytes, at: int) -> int:
        """Give the parser what belongs to one head or body; return where that ends."""
        end = self._end(data, at)
        self._room -= end - at
        if self._room < 0:
            self.refuse("body" if self._in_body else "large")
            return end
        part = data[at:end]
        in_body = self._in_body
        if self._left is not None:
            self._left -= len(part)
        try:
            self._parse(part)
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, httptools.HttpParserInvalidURLError):
                raise  # a mistake of ours
            self.refuse("malformed")
        except httptools.HttpParserError:
            self.refuse("malformed")
        more = self.began and in_body == self._in_body
        self._tail = (self._tail + part)[-3:] if more else b""
        return end

    def _end(self, data: bytes, at: int) -> int:
        """Return where the part that is arriving ends, if it does here: a head and a chunked body
        end with an empty line."""
        if self._left is not None:
            return min(at + self._left, len(data))
        if self._tail:
            straddling = (self._tail + data[at : at + 3]).find(_END)
            if straddling >= 0:
                return at + straddling + len(_END) - len(self._tail)
        found = data.find(_END, at)
        return len(data) if found < 0 else found + len(_END)

    def _parse(self, part: bytes) -> None:
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            # The parser takes what follows for another protocol, a declared body, too.
            if self.parser.get_method() == b"CONNECT":
                self.refuse("malformed")
                return
            head = self._head_without_offers()
            self._offered = False
            self.parser = httptools.HttpRequestParser(self)
            self.parser.feed_data(head)

    def _head_without_offers(self) -> bytes:
        """Return the head that was read, without what asks for another protocol: a server may
        ignore that (RFC 9110, 7.8)."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                words = [word.strip() for word in value.split(b",")]
                value = b", ".join(word for word in words if word.lower() not in _OFFERS)
            if name not in _OFFERS:
                lines.append(name + b": " + value)
        return b"\r\n".join(lines) + _END

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
        if not self._has_host(given):
            self.refuse("host")
            return
        super().on_headers_complete()
        length = given.get(b"content-length")
        if length is not None:
            self._left = int(length)
        if self._left or b"transfer-encoding" in given:
            self._keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False
        self._room = self._limits.body + FRAMING_BYTES
        self._in_body = True

    def _has_host(self, given: dict[bytes, bytes]) -> bool:
        """Say if the request names one host, as HTTP/1.1 must and HTTP/1.0 may."""
        host, version = given.get(b"host"), self.parser.get_http_version()
        if host is None:
            return version == "1.0"
        if version not in ("1.1", "1.0"):
            return False
        if len(given) < len(self.headers) and [n for n, _ in self.headers].count(b"host") > 1:
            return False
        if host != self._host:
            if not _is_host(host):
                return False
            self._host = host
        return True

    def on_message_complete(self) -> None:
        """Let the request be answered: all of it is here."""
        if self._offered or self._deaf:
            return
        if self._keep_alive and not self.cycle.response_started:
            self.cycle.keep_alive = True
        self._keep_alive = False
        self._room, self._in_body, self._left, self.began = HEAD_BYTES, False, None, 0.0
        self._answering = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Send what there is of the answer, and go on with what waits."""
        self.transport.flush()
        self._answering = False
        self._quiet_at = self.loop.time()
        super().on_response_complete()
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
        unread = self.transport.get_write_buffer_size()
        taken = self.transport.written - unread
        if not unread or taken != self._taken:
            self._taken, self._taken_at = taken, now
        elif now - self._taken_at > UNREAD_S:
            self._count("unread")
            self.transport.abort()


def _is_host(host: bytes) -> bool:
    found = _HOST.fullmatch(host)
    if found is None or int(found[2] or 0) > 65_535:
        return False
    if host.startswith(b"["):
        try:
            IPv6Address(found[1][1:-1].decode())
        except ValueError:
            return False
    return True


def protocol(limits: Limits, metrics: Metrics) -> Callable[..., Connection]:
    """Return what makes a connection, as uvicorn calls it."""

    def make(**given: Any) -> Connection:
        return Connection(limits, metrics, **given)

    return make
