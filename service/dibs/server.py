"""uvicorn, told to let open streams go when it stops."""

from collections.abc import Callable
from socket import socket
from types import FrameType
from typing import Any

import uvicorn

from dibs.app import Service
from dibs.settings import Settings

DRAIN_S = 2
"""How long requests that are being answered may take once the service was asked to stop."""


class Server(uvicorn.Server):
    """A server whose long polls and streams end with the first signal (uvicorn would wait)."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self.say: Callable[[str], None] = lambda base: None
        """Hears the base URL once the service listens."""

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen, then say where."""
        await super().startup(sockets)
        if self.started and self.servers:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self.say(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let listeners go, then stop as uvicorn does."""
        self._service.hub.end()
        super().handle_exit(sig, frame)


def config(settings: Settings, service: Service, **extra: Any) -> uvicorn.Config:
    """Return how uvicorn serves `service`."""
    return uvicorn.Config(
        service.asgi,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_S,
        timeout_keep_alive=75,
        lifespan="off",
        ws="none",
        **extra,
    )
