"""uvicorn, told to let open streams go when it stops, and what one connection may cost."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from socket import socket
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dibs.app import Service
from dibs.metrics import Metrics
from dibs.settings import BACKLOG, Settings

DRAIN_S = 1.5
"""How long requests that are being answered may take once the service was asked to stop."""
IDLE_S = 75
"""A connection is kept so long between requests: longer than proxies keep theirs (60 s)."""
REQUEST_S = 10.0
"""For a request to arrive whole: a body is at most some KiB."""
HEAD_BYTES = 32_768
"""For a request's line and headers."""


class Server(uvicorn.Server):
    """A server whose long polls and streams end with the first signal (uvicorn would wait)."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._metrics = service.metrics

    async def on_tick(self, counter: int) -> bool:
        """Close what arrives too slowly, about once a second."""
        if counter % 10 == 0:
            late = asyncio.get_running_loop().time() - REQUEST_S
            connections: Any = self.server_state.connections
            for connection in list(connections):
                if 0 < connection.began < late:
                    connection.refuse("slow")
            self._metrics.set("dibs_connections", to=len(connections))
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let listeners go, then stop as uvicorn does."""
        self._service.hub.end()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal, and end as a program that was asked to: uvicorn dies of it instead."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {each: signal.signal(each, self.handle_exit) for each in signals}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


class Joined:
    """A transport that sends the head of an answer together with its body.

    uvicorn writes each by itself, and each is a call into the kernel and a wake-up over there:
    7 % of the claims a second on a store that syncs once a second (docs/performance.md).
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""
        self.is_closing = transport.is_closing  # asked twice a request

    def write(self, data: bytes) -> None:
        """Write; a head whose body has a length waits for it, and no longer than `flush`."""
        if not self._head and data.startswith(b"HTTP/1.1 ") and b"\r\ncontent-length: " in data:
            self._head = data
        else:
            self._head, data = b"", self._head + data
            self._transport.write(data)

    def flush(self) -> None:
        """Write the head of an answer that has no body."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Write what is left, and close."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def protocol(metrics: Metrics, max_connections: int) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with limits: it has none on heads, on slow requests, on numbers."""

    class Limited(HttpToolsProtocol):
        began = 0.0
        """When the request that is not here yet began to arrive; 0 between requests."""
        _head_bytes = 0
        """Of the head that is arriving; -1 while a body is."""
        _heads = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            joined: Any = Joined(transport)
            super().connection_made(joined)
            self.began = self.loop.time()
            if len(self.connections) > max_connections:
                self._head_bytes = 1
                self.refuse("many")

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            self.began = self.began or self.loop.time()
            if self._head_bytes >= 0:
                room = HEAD_BYTES - self._head_bytes
                self._head_bytes += len(data)
                if len(data) > room:
                    heads = self._heads
                    super().data_received(data[:room])
                    if self.transport.is_closing():
                        return
                    if self._heads == heads:
                        self.refuse("large")
                        return
                    data = data[room:]
            super().data_received(data)

        def on_headers_complete(self) -> None:
            self._heads += 1
            self._head_bytes = -1
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._head_bytes = 0
            self.began = 0.0
            super().on_message_complete()

        def on_response_complete(self) -> None:
            self.transport.flush()  # type: ignore[attr-defined]
            super().on_response_complete()

        def refuse(self, why: str) -> None:
            """Say why in a problem, if nothing was answered yet, and close."""
            metrics.add("dibs_connections_refused_total", why)
            answering = self.cycle is not None and not self.cycle.response_complete
            if self._head_bytes and not answering:  # to a connection never used there is no answer
                self.transport.write(_REFUSALS[why])
            self.transport.close()

    return Limited


def _refusal(status: str, code: str, detail: str, retry_after: int | None) -> bytes:
    number, title = status.split(" ", 1)
    problem = {
        "type": f"/problems/{code}",
        "title": title,
        "status": int(number),
        "detail": detail,
        "code": code,
        "outcome": "not-applied",
    }
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
    if retry_after is not None:
        problem["retry_after"] = retry_after
        head += f"Retry-After: {retry_after}\r\n"
    body = json.dumps(problem).encode()
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


_REFUSALS = {
    "many": _refusal(
        "503 Service Unavailable",
        "unavailable",
        "The service has as many connections as it takes (DIBS_MAX_CONNECTIONS). Ask again.",
        1,
    ),
    "slow": _refusal(
        "408 Request Timeout",
        "invalid",
        f"The request did not arrive whole within {REQUEST_S:.0f} s. Nothing was changed.",
        None,
    ),
    "large": _refusal(
        "431 Request Header Fields Too Large",
        "too-large",
        f"The request's line and headers are larger than {HEAD_BYTES} bytes.",
        None,
    ),
}


def config(settings: Settings, service: Service) -> uvicorn.Config:
    """Return how uvicorn serves `service`."""
    drain: Any = DRAIN_S  # uvicorn only ever hands it to wait_for, which takes a fraction
    return uvicorn.Config(
        service.asgi,
        http=protocol(service.metrics, settings.max_connections),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_graceful_shutdown=drain,
        timeout_keep_alive=IDLE_S,
        backlog=BACKLOG,
        lifespan="off",
        ws="none",
    )


async def serve(
    settings: Settings,
    service: Service,
    listener: socket,
    ready: Callable[[Server], Awaitable[None]],
) -> None:
    """Serve until a signal. `ready` hears the server once all is there to answer. Raises
    StoreDown or Unfit."""
    server = Server(config(settings, service), service)
    with server.capture_signals():
        async with service.running():
            await ready(server)
            await server._serve([listener])
