"""The transport of one connection, as uvicorn sees it."""

from asyncio import Transport
from collections.abc import Callable
from typing import Any


class CountingTransport:
    """A transport that counts what is written, and closes in the way that its protocol wants."""

    def __init__(self, transport: Transport, hang_up: Callable[[Transport], None]) -> None:
        self._transport, self._hang_up = transport, hang_up
        self.is_closing = transport.is_closing  # asked twice a request
        self.written = 0
        """Bytes, since the connection began."""

    def write(self, data: bytes) -> None:
        """Write."""
        self.written += len(data)
        self._transport.write(data)

    def close(self) -> None:
        """Hang up."""
        self._hang_up(self._transport)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
