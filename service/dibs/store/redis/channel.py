"""Sends commands over a connection that opens on first use and reopens when it is lost."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from dibs.store.redis.connection import Connection, packed
from dibs.store.redis.failures import StoreDown, failure

WAIT_MS = 900
"""How long replicas are waited for: less than the patience of a connection (TIMEOUT_S)."""

Connect = Callable[[], Awaitable[Connection]]


class Channel:
    """Commands on one connection at a time, made when it is first needed and again when lost."""

    def __init__(self, connect: Connect) -> None:
        """`connect` raises StoreDown, or whatever else; both reach every caller who waits."""
        self._connect = connect
        self._connection: Connection | None = None
        self._waiting: deque[tuple[bytes, asyncio.Future[Any]]] = deque()
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    def ask(self, *parts: str | int) -> asyncio.Future[Any]:
        """Send a command, now or on the next connection; return what its answer will be."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        command = packed(parts)
        if self._closed:
            answer.set_exception(StoreDown("The service is stopping.", sent=False))
        elif self._connection and not self._connection.lost:
            self._connection.send(command, answer)
        else:
            self._waiting.append((command, answer))
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(self._reconnect())
        return answer

    async def _reconnect(self) -> None:
        """Send what waits on a new connection; each who waits is answered or refused."""
        while self._waiting:
            try:
                self._connection = connection = await self._connect()
            except Exception as error:  # noqa: BLE001 - handed to every caller who waits
                self._refuse(error)
                continue
            except BaseException:  # closed meanwhile
                self._refuse(RedisConnectionError())
                raise
            while self._waiting and not connection.lost:
                connection.send(*self._waiting.popleft())

    def _refuse(self, error: Exception) -> None:
        meant = failure(error, sent=False)
        if not isinstance(meant, StoreDown):
            meant = StoreDown(f"The store cannot be connected to: {error}.", sent=False)
        waiting, self._waiting = self._waiting, deque()
        for _, answer in waiting:
            if not answer.done():
                answer.set_exception(StoreDown(meant.reason, sent=False))

    def drop(self) -> None:
        """Give up the connection: what was asked may have been done, what comes uses another."""
        if self._connection:
            self._connection.end(RedisConnectionError())

    async def close(self) -> None:
        """Give up the connection for good; who waits for one is refused."""
        self._closed = True
        if self._connecting:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self._refuse(RedisConnectionError())  # it may not have begun
        self.drop()


class ReplicatedChannel:
    """Commands that are answered once replicas have what they wrote.

    Commands that come while replicas are waited for go together, with one WAIT behind them: WAIT
    holds up its connection for a way to the replicas and back, so one for each command would allow
    only so many a second. It waits for writes of its own connection, hence a connection of its own.
    """

    def __init__(self, channel: Channel, replicas: int) -> None:
        self._channel, self._replicas = channel, replicas
        self._next: list[tuple[tuple[str | int, ...], asyncio.Future[tuple[Any, bool]]]] = []
        self._running: asyncio.Task[None] | None = None

    async def command(self, *parts: str | int) -> tuple[Any, bool]:
        """See Link.replicated."""
        answer: asyncio.Future[tuple[Any, bool]] = asyncio.get_running_loop().create_future()
        self._next.append((parts, answer))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        while self._next:
            group, self._next = self._next, []
            sent = [self._channel.ask(*parts) for parts, _ in group]
            waited = self._channel.ask("WAIT", self._replicas, WAIT_MS)
            replies = await asyncio.gather(*sent, waited, return_exceptions=True)
            reached = replies[-1]
            for (_, answer), reply in zip(group, replies, strict=False):
                if answer.done():
                    continue
                if isinstance(reply, BaseException):
                    answer.set_exception(reply)
                else:
                    enough = isinstance(reached, int) and reached >= self._replicas
                    answer.set_result((reply, enough))

    def drop(self) -> None:
        """See Channel."""
        self._channel.drop()

    async def close(self) -> None:
        """See Channel."""
        await self._channel.close()
