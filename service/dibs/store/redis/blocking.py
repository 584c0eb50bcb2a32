"""Blocking reads, each on a separate connection while it waits."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError

from dibs.store.redis.connection import Connection
from dibs.store.redis.endpoint import Endpoint

READER_S = 20.0
"""Longest silence during a blocking read, in seconds: longer than the read blocks, so that it only
ends a read whose server's host is gone."""


class BlockingReader(Protocol):
    """A reader of streams, by commands that may block."""

    async def command(self, *parts: str | int) -> Any:
        """Run one command, which may block. Raises StoreDown."""
        ...

    async def close(self) -> None:
        """Drop the connections."""
        ...


class Located(Protocol):
    """A link that knows which server has a key."""

    leave: list[Callable[[Endpoint], None]]
    """Called with each server that the link stops using."""

    async def locate(self, key: str = "") -> Endpoint:
        """Return the server that takes commands on `key` now. Raises StoreDown."""
        ...


class BlockingLink:
    """Runs blocking commands, each on a separate connection while it waits.

    `link` decides which server a command goes to. When `link` stops using a server, the connections
    to it are dropped: a read there would wait for events that now come from another server.
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
        except BaseException:  # cancelled: the reply would reach the next command
            connection.end(RedisConnectionError())
            raise
        finally:
            del self._busy[connection]
        self._idle.setdefault(where, []).append(connection)
        return reply

    def _left(self, where: Endpoint) -> None:
        """Drop every connection to a server that the link no longer uses."""
        waiting = [connection for connection, at in self._busy.items() if at == where]
        for connection in [*waiting, *self._idle.pop(where, [])]:
            connection.end(RedisConnectionError())

    async def close(self) -> None:
        """Drop the connections."""
        for connection in [*self._busy, *(one for idle in self._idle.values() for one in idle)]:
            connection.end(RedisConnectionError())
        self._idle.clear()


def key_of(parts: Sequence[str | int]) -> str:
    """Return the key that selects a command's node in a cluster; '' where any node will do."""
    name = str(parts[0]).upper()
    if name in ("EVAL", "EVALSHA"):
        return str(parts[3])
    if name == "XINFO":
        return str(parts[2])
    if name in ("XREAD", "XREADGROUP"):
        return str(parts[list(parts).index("STREAMS") + 1])
    return str(parts[1]) if len(parts) > 1 else ""
