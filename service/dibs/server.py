"""uvicorn, configured to end open streams when it stops and to limit its connections."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from socket import socket
from types import FrameType
from typing import Any

import uvicorn

from dibs import signals
from dibs.acceptor import Acceptor
from dibs.acts import POSTS
from dibs.api import webhooks
from dibs.app import Service
from dibs.connection_slots import ConnectionSlots
from dibs.protocol import ConnectionLimits, protocol
from dibs.settings import Settings

DRAIN_S = 1.5
"""Seconds that requests in progress may take after the service was asked to stop."""


class Server(uvicorn.Server):
    """A server whose long polls and streams end at the first signal (uvicorn would wait)."""

    def __init__(self, config: uvicorn.Config, service: Service, acceptor: Acceptor) -> None:
        super().__init__(config)
        self._service, self._acceptor = service, acceptor
        self._metrics = service.metrics

    def connection(self) -> asyncio.Protocol:
        """Return a new connection, made as uvicorn would."""
        make: Any = self.config.http_protocol_class
        made: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start uvicorn without sockets, and let the acceptor accept."""
        await super().startup([])
        self._acceptor.open(self.connection)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop accepting, then shut uvicorn down."""
        self._acceptor.close()
        await super().shutdown()

    async def on_tick(self, counter: int) -> bool:
        """Close connections that send or read too slowly; about once a second."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            connections: Any = self.server_state.connections
            for connection in list(connections):
                connection.look(now)
            self._metrics.set("dibs_connections", to=len(connections))
        return await super().on_tick(counter)

    def stop(self) -> None:
        """End streams and long polls, finish the requests in progress, and end."""
        self._service.broadcaster.end()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at a signal."""
        super().handle_exit(sig, frame)
        self.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal and exit normally; uvicorn would re-raise the signal and die of it."""
        before = {each: signal.signal(each, self.handle_exit) for each in signals.that_stop()}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _limits(settings: Settings, slots: ConnectionSlots) -> ConnectionLimits:
    large = [act for act in POSTS.values() if act.body_most > settings.max_body]
    paths = tuple(b"/" + act.path.encode() for act in large)
    most = max((act.body_most for act in large), default=0)
    if settings.github_secret and settings.max_body < webhooks.BODY_MOST:
        paths, most = (*paths, webhooks.PATH.encode()), max(most, webhooks.BODY_MOST)
    return ConnectionLimits(slots, settings.max_body, most, paths)


def config(settings: Settings, service: Service, slots: ConnectionSlots) -> uvicorn.Config:
    """Return uvicorn's configuration for `service`, with connections limited by `slots`."""
    drain: Any = DRAIN_S  # uvicorn only passes it to wait_for, which accepts a float
    connection: Any = protocol(_limits(settings, slots), service.metrics)
    return uvicorn.Config(
        service.asgi,
        http=connection,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_graceful_shutdown=drain,
        timeout_keep_alive=settings.keep_alive,
        lifespan="off",
        ws="none",
    )


async def serve(
    settings: Settings,
    service: Service,
    listener: socket,
    ready: Callable[[Server], Awaitable[None]],
) -> None:
    """Serve until a signal. Call `ready` with the server when it is about to serve. Raises
    StoreDown or UnsupportedStore."""
    slots = ConnectionSlots(settings.max_connections)
    acceptor = Acceptor(listener, slots)
    server = Server(config(settings, service, slots), service, acceptor)
    with server.capture_signals(), contextlib.closing(acceptor):
        async with service.running():
            await ready(server)
            await server.serve()
