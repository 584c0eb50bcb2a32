"""Sends commands over a connection that opens on first use and reopens when it is lost."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from dibs.store.redis.connection import Connection, packed
from dibs.store.redis.failures import StoreDown, failure

WAIT_MS = 900
"""Longest wait for replicas, in ms: less than a connection waits for a reply (TIMEOUT_S)."""

Connect = Callable[[], Awaitable[Connection]]


class Channel:
    """Sends commands on one connection at a time, opened on first use and again when lost."""

    def __init__(self, connect: Connect) -> None:
        """`connect` may raise any exception; every waiting caller then gets a StoreDown."""
        self._connect = connect
        self._connection: Connection | None = None
        self._waiting: deque[tuple[bytes, asyncio.Future[Any]]] = deque()
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    def ask(self, *parts: str | int) -> asyncio.Future[Any]:
        """Send a command, now or on the next connection; return a future for its reply."""
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
        """Send the waiting commands on a new connection, or refuse them if it cannot be opened."""
        while self._waiting:
            try:
                self._connection = connection = await self._connect()
            except Exception as error:  # noqa: BLE001 - passed to every waiting caller
                self._refuse(error)
                continue
            except BaseException:  # cancelled by close()
                self._refuse(RedisConnectionError())
                raise
            while self._waiting and not connection.lost:
                connection.send(*self._waiting.popleft())

    def _refuse(self, error: Exception) -> None:
        meant = failure(error, sent=False)
        if not isinstance(meant, StoreDown):
            meant = StoreDown(f"No connection to the store: {error}.", sent=False)
        waiting, self._waiting = self._waiting, deque()
        for _, answer in waiting:
            if not answer.done():
                answer.set_exception(StoreDown(meant.reason, sent=False))

    def drop(self) -> None:
        """Close the connection. Unanswered commands may have run; later ones use a new one."""
        if self._connection:
            self._connection.end(RedisConnectionError())

    async def close(self) -> None:
        """Close the connection for good, and refuse the waiting commands."""
        self._closed = True
        if self._connecting:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self._refuse(RedisConnectionError())  # the cancelled task may not have started
        self.drop()


class ReplicatedChannel:
    """Sends commands, and returns their replies once the replicas have their writes.

    Commands that arrive during a WAIT are sent together afterwards, with one WAIT behind them. WAIT
    blocks its connection for one round trip to the replicas, so a WAIT per command would limit the
    rate of commands. WAIT covers only the writes of its own connection, so `channel` carries no
    other commands.
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
