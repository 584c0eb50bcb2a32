"""The transport that a connection gives to uvicorn."""

from asyncio import Transport
from collections.abc import Callable
from typing import Any


class CountingTransport:
    """A transport that counts written bytes, and closes by a callback of its protocol."""

    def __init__(self, transport: Transport, hang_up: Callable[[Transport], None]) -> None:
        self._transport, self._hang_up = transport, hang_up
        self.is_closing = transport.is_closing  # called twice per request
        self.written = 0
        """Bytes written since the connection began."""

    def write(self, data: bytes) -> None:
        """Count and write."""
        self.written += len(data)
        self._transport.write(data)

    def close(self) -> None:
        """Close by the callback."""
        self._hang_up(self._transport)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
