"""A faulty network between a client and the service.

    with FaultProxy(("127.0.0.1", port), seed=7, odds={"drop_reply": 0.2, "delay": 0.1}) as proxy:
        ...  # talk to proxy.url
    proxy.assert_every_fault_met_traffic()

It handles one HTTP/1.1 request per connection, with a Content-Length or no body; no streams. The
fault of a request depends on the seed, the request, and how often it was sent before, not on the
order in which requests arrive, so that a run with concurrent clients can be repeated.
"""

import asyncio
import hashlib
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

# The faults that can replace a normal exchange with the service.
T = TypeVar("T")
FAULTS = {
    "drop_request": "the connection closes and the service never hears of it",
    "drop_reply": "the service acts, and its reply is lost",
    "reset": "the service acts, and the connection is reset in the middle of its reply",
    "delay": "it arrives late",
    "duplicate": "it arrives twice, and one of the two replies comes back",
}


class FaultProxy:
    """A proxy in its own thread. `odds` may be replaced while it runs."""

    def __init__(
        self,
        upstream: tuple[str, int],
        *,
        seed: int,
        odds: Mapping[str, float],
        max_delay_s: float = 0.5,
    ) -> None:
        assert set(odds) <= set(FAULTS), f"no such fault: {set(odds) - set(FAULTS)}"
        assert sum(odds.values()) <= 1, "the odds add up to more than one"
        self.seed = seed
        self.odds = dict(odds)
        self.met: Counter[str] = Counter()  # "pass", each fault, and "no_service"
        self._upstream = upstream
        self._max_delay_s = max_delay_s
        self._sent: Counter[str] = Counter()
        self._connections: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_exception: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def assert_every_fault_met_traffic(self, times: int = 1) -> None:
        """Assert that each fault happened; otherwise the run proves nothing about it."""
        unmet = [fault for fault, odd in self.odds.items() if odd and self.met[fault] < times]
        assert not unmet, f"seed {self.seed}: {unmet} met traffic less than {times}×: {self.met}"

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _close(self) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection
        self._connections.add(connection)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._carry(await _read_request(reader), writer)
        finally:
            self._connections.discard(connection)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _carry(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        fault, die = self._decide(request)
        self.met[fault] += 1
        if fault == "drop_request":
            return
        if fault == "delay":
            await asyncio.sleep(die.uniform(0, self._max_delay_s))
        replies = [await self._ask(request) for _ in range(2 if fault == "duplicate" else 1)]
        reply = die.choice(replies)
        if fault == "drop_reply":
            return
        if fault == "reset":
            head = reply.find(b"\r\n\r\n") + 4
            writer.write(reply[: (head + len(reply)) // 2])
            await writer.drain()
            _close_with_reset(writer)
            return
        writer.write(reply)
        await writer.drain()

    def _decide(self, request: bytes) -> tuple[str, random.Random]:
        head, _, body = request.partition(b"\r\n\r\n")
        line = head.split(b"\r\n")[0]  # headers differ between runs: a session, a request id
        what = hashlib.sha256(line + body).hexdigest()
        self._sent[what] += 1
        die = random.Random(f"{self.seed} {what} {self._sent[what]}")
        faults = [*self.odds, "pass"]
        weights = [*self.odds.values(), 1 - sum(self.odds.values())]
        return die.choices(faults, weights)[0], die

    async def _ask(self, request: bytes) -> bytes:
        """Return the service's whole reply, or nothing if there is no service."""
        try:
            reader, writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            self.met["no_service"] += 1
            return b""
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """Read a whole request; make it close its connection and drop its Expect header."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    head = re.sub(rb"(?i)\r\n(connection|expect):[^\r]*", b"", head)
    return head[:-2] + b"Connection: close\r\n\r\n" + body


def _close_with_reset(writer: asyncio.StreamWriter) -> None:
    lingering = struct.pack("ii", 1, 0)  # on, with a timeout of zero: closing sends RST
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
    writer.transport.abort()
