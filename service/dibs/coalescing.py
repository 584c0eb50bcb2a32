"""Sends the head and body of an answer in one write."""

from asyncio import Transport
from collections.abc import Callable
from typing import Any


class CoalescingTransport:
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

    def write_whole(self, data: bytes) -> None:
        """Write a head with its body."""
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
