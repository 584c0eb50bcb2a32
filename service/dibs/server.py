"""uvicorn, told to let open streams go when it stops and to look after its connections."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from socket import socket
from types import FrameType
from typing import Any

import uvicorn

from dibs import signals
from dibs.app import Service
from dibs.protocol import Limits, protocol
from dibs.settings import BACKLOG, Settings

DRAIN_S = 1.5
"""How long requests that are being answered may take once the service was asked to stop."""


class Server(uvicorn.Server):
    """A server whose long polls and streams end with the first signal (uvicorn would wait)."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._metrics = service.metrics

    async def on_tick(self, counter: int) -> bool:
        """Close what arrives, or is taken, too slowly; about once a second."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            connections: Any = self.server_state.connections
            for connection in list(connections):
                connection.look(now)
            self._metrics.set("dibs_connections", to=len(connections))
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let listeners go, then stop as uvicorn does."""
        self._service.hub.end()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal, and end as a program that was asked to: uvicorn dies of it instead."""
        before = {each: signal.signal(each, self.handle_exit) for each in signals.that_stop()}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def config(settings: Settings, service: Service) -> uvicorn.Config:
    """Return how uvicorn serves `service`."""
    drain: Any = DRAIN_S  # uvicorn only ever hands it to wait_for, which takes a fraction
    connection: Any = protocol(Limits(settings.max_connections, settings.max_body), service.metrics)
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
            await server.serve([listener])
