"""Blocking reads, each on a connection of its own while it waits."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError

from dibs.store.redis.connection import Connection
from dibs.store.redis.endpoint import Endpoint

READER_S = 20.0
"""For a blocking read: longer than it waits, and an end to it when the server's host is gone."""


class BlockingReader(Protocol):
    """What follows a stream."""

    async def command(self, *parts: str | int) -> Any:
        """Run one command, which may block. Raises StoreDown."""
        ...

    async def close(self) -> None:
        """Drop the connections."""
        ...


class Located(Protocol):
    """A link that knows where keys are."""

    leave: list[Callable[[Endpoint], None]]
    """Hear of each server that is left."""

    async def locate(self, key: str = "") -> Endpoint:
        """Return the server that takes commands on `key` now. Raises StoreDown."""
        ...


class BlockingLink:
    """Commands that wait for something to happen, each on a connection of its own meanwhile.

    `link` says where they go. A connection to a server that is not the right one any more is
    dropped: what waits there would wait for news that come elsewhere.
    """

    def __init__(self, link: Located) -> None:
        self._link = link
        self._idle: dict[Endpoint, list[Connection]] = {}
        self._busy: dict[Connection, Endpoint] = {}
        link.leave.append(self._left)

    async def command(self, *parts: str | int) -> Any:
        """Run one command. Raises StoreDown."""
        where = await self._link.locate(key_of(parts))
        idle = self._idle.setdefault(where, [])
        while idle and idle[-1].lost:
            idle.pop()
        if idle:
            connection = idle.pop()
        else:
            connection = await Connection.open(where, lambda seconds: None, READER_S)
        self._busy[connection] = where
        try:
            reply = await connection.ask(*parts)
        except BaseException:  # cancelled: an answer is still on its way
            connection.end(RedisConnectionError())
            raise
        finally:
            del self._busy[connection]
        self._idle.setdefault(where, []).append(connection)
        return reply

    def _left(self, where: Endpoint) -> None:
        """Drop every connection to a server that has been left."""
        waiting = [connection for connection, at in self._busy.items() if at == where]
        for connection in [*waiting, *self._idle.pop(where, [])]:
            connection.end(RedisConnectionError())

    async def close(self) -> None:
        """Drop the connections."""
        for connection in [*self._busy, *(one for idle in self._idle.values() for one in idle)]:
            connection.end(RedisConnectionError())
        self._idle.clear()


def key_of(parts: Sequence[str | int]) -> str:
    """Return the key that decides where a command goes in a cluster; '' where any node will do."""
    name = str(parts[0]).upper()
    if name in ("EVAL", "EVALSHA"):
        return str(parts[3])
    if name == "XINFO":
        return str(parts[2])
    if name in ("XREAD", "XREADGROUP"):
        return str(parts[list(parts).index("STREAMS") + 1])
    return str(parts[1]) if len(parts) > 1 else ""
