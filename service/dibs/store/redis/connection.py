"""A connection to one server of the store, which answers commands in the order of sending."""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Self, cast

from hiredis import Reader, pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

from dibs.store.redis.endpoint import Endpoint
from dibs.store.redis.failures import ErrorReply, StoreDown, failure

TIMEOUT_S = 1.0
"""Timeout in seconds for connecting (login included), and for each reply. A caller gets an error
within a few seconds. redis-py's defaults (5 s, ten retries) would block it for most of a minute,
and run a script eleven times."""

TOGETHER = 4
"""Most commands that are sent together. Sending all commands of a turn together would make store
and service wait for one another: each would work while the other is idle."""

Observe = Callable[[float], None]
"""Called with the duration in seconds of each answered batch."""


class Connection(asyncio.Protocol):
    """A logged-in connection, shared by concurrent callers.

    Commands from one turn of the event loop are sent up to TOGETHER at a time in one system call,
    which saves a tenth of a claim's processor time, in the service and in the store. Commands sent
    while the store is busy reach it as one pipeline, so `appendfsync always` costs one fsync for
    all of them.
    """

    def __init__(self, observe: Observe, patience_s: float) -> None:
        """Use `open`. `patience_s`: the longest silence while a reply is due, in seconds."""
        self.lost = False
        self._why: Exception = RedisConnectionError()
        """The error that ended the connection."""
        self._observe, self._patience_s = observe, patience_s
        loop = asyncio.get_running_loop()
        self._now, self._soon = loop.time, loop.call_soon
        self._leaving: list[bytes] = []
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._heard_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._replies = Reader(
            protocolError=InvalidResponse,
            replyError=ErrorReply,
            encoding="utf-8",
            errors="replace",  # one damaged value must not end the connection of all callers
        )
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(
        cls, endpoint: Endpoint, observe: Observe, patience_s: float = TIMEOUT_S
    ) -> Self:
        """Connect to `endpoint` and log in, within TIMEOUT_S. Raises StoreDown."""
        connection = cls(observe, patience_s)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await connection._begin(endpoint)
        except BaseException as error:
            connection.end(RedisConnectionError())
            if not isinstance(error, Exception):
                raise
            raise _not_open(error, endpoint) from error
        return connection

    async def _begin(self, endpoint: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        if endpoint.path:
            await loop.create_unix_connection(lambda: self, endpoint.path)
        else:
            transport, _ = await loop.create_connection(
                lambda: self, endpoint.host, endpoint.port, ssl=endpoint.tls
            )
            with contextlib.suppress(OSError):  # already closed: the login reports that
                beneath = transport.get_extra_info("socket")
                beneath.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.gather(*(self.ask(*command) for command in endpoint.login()))
        if self.lost:  # a server at maxclients sends its error before any command
            raise self._why

    def ask(self, *parts: str | int) -> asyncio.Future[Any]:
        """Send a command; return a future for its reply."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send(packed(parts), answer)
        return answer

    def send(self, command: bytes, answer: asyncio.Future[Any]) -> None:
        """Send a packed command; its reply sets `answer`."""
        if self.lost or self._transport is None:
            answer.set_exception(failure(RedisConnectionError(), sent=False))
            return
        at_s = self._now()
        self._asked.append((answer, at_s))
        if self._timer is None:
            self._wait_until(at_s + self._patience_s)
        self._leaving.append(command)
        if len(self._leaving) == TOGETHER:
            self._leave()
        elif len(self._leaving) == 1:
            self._soon(self._leave)

    def _leave(self) -> None:
        commands, self._leaving = self._leaving, []
        if not commands or self.lost or self._transport is None:
            return
        try:
            self._transport.write(b"".join(commands))
        except Exception:  # noqa: BLE001 - closed, before connection_lost was called
            self.end(RedisConnectionError())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Pass each complete reply to its caller."""
        if self.lost:
            return
        try:
            self._replies.feed(data)
            while (reply := self._replies.gets()) is not False:
                self._answer(reply)
        except Exception as error:  # noqa: BLE001 - passed to every waiting caller
            self.end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the failure to every waiting caller."""
        self.end(exc or RedisConnectionError())

    def _answer(self, reply: Any) -> None:
        if not self._asked:
            if isinstance(reply, ErrorReply):
                raise reply
            raise InvalidResponse("a reply to no command")
        answer, at_s = self._asked.popleft()
        self._heard_s = self._now()
        if not self._asked or self._asked[0][1] != at_s:  # the last reply of its batch
            self._observe(self._heard_s - at_s)
        if answer.done():
            return
        if isinstance(reply, Exception):
            answer.set_exception(failure(reply, sent=False))
        else:
            answer.set_result(reply)

    def _wait_until(self, due_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(due_s, self._look)

    def _look(self) -> None:
        """End the connection if a reply is due and the server was silent for too long."""
        self._timer = None
        if self._asked:
            due_s = max(self._asked[0][1], self._heard_s) + self._patience_s
            if due_s > self._now():
                self._wait_until(due_s)
            else:
                self.end(TimeoutError())

    def end(self, error: Exception) -> None:
        """Close the connection, and fail the unanswered commands, which may have run."""
        if not self.lost:
            self.lost, self._why = True, error
        if self._timer:
            self._timer.cancel()
            self._timer = None
        meant = failure(error, sent=True)
        if not isinstance(meant, StoreDown):
            meant = StoreDown(f"The connection to the store failed: {error}.", sent=True)
        asked, self._asked = self._asked, deque()
        for answer, _ in asked:
            if not answer.done():
                answer.set_exception(StoreDown(meant.reason, sent=True))
        if self._transport:
            self._transport.abort()


def packed(parts: tuple[str | int, ...]) -> bytes:
    """Return a command in the wire format."""
    command: bytes = pack_command(parts)  # type: ignore[arg-type]
    return command


def _not_open(error: Exception, endpoint: Endpoint) -> StoreDown:
    """Return any failure to connect, a defect in dibs included, as a StoreDown."""
    meant = failure(error, sent=False)
    if isinstance(meant, StoreDown):
        return StoreDown(meant.reason, sent=False)
    said = str(error) or type(error).__name__
    return StoreDown(f"No connection to the store at {endpoint.shown}: {said}.", sent=False)
