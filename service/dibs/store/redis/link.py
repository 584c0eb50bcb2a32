"""A link carries commands to the store and brings back their answers.

All calls share one connection (see connection.py); every failure says if the command was sent.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.exceptions import RedisError

from dibs.store.redis.channel import Channel, ReplicatedChannel
from dibs.store.redis.connection import Connection, Observe
from dibs.store.redis.endpoint import Endpoint, endpoint
from dibs.store.redis.failures import failure
from dibs.store.redis.functions import Functions


class Link(Protocol):
    """Something that carries one command to the store and brings back its answer."""

    observe: Observe
    """Hears how many seconds each batch took that was answered."""
    why_relaxed: str
    """Why this kind of store may lose an acknowledged claim, in a sentence; or ''."""
    replicas: int
    """How many replicas have a command's writes before `replicated` answers."""

    async def command(self, *parts: str | int) -> Any:
        """Run one command. Raises StoreDown, StoreFull, or ResponseError for a bug of ours."""
        ...

    async def replicated(self, *parts: str | int) -> tuple[Any, bool]:
        """Run one command; return its answer, and if `replicas` replicas have what it wrote.

        Raises as `command` does.
        """
        ...

    async def servers(self) -> "Sequence[Link]":
        """Return a link to each server that takes claims: one, or the primaries of a cluster."""
        ...

    def with_key(self, key: str, run: "Callable[[ServerLink], Awaitable[Any]]") -> Awaitable[Any]:
        """Run something at the server that has `key`; once more if another has it meanwhile."""
        ...

    async def close(self) -> None:
        """Drop the connections."""
        ...


class ServerLink(Link, Protocol):
    """A link to one server."""

    functions: Functions
    """Whether it keeps functions for us."""


class PipelineLink:
    """A link to one server: all commands on one connection, made when it is first needed."""

    why_relaxed = ""

    def __init__(self, endpoint: Endpoint, replicas: int = 0) -> None:
        """Nothing is connected yet."""
        self.observe: Observe = lambda seconds: None
        self.replicas = replicas
        self.functions = Functions()
        self.leave: list[Callable[[Endpoint], None]] = []
        """Hear of a server that is not the right one any more."""
        self._endpoint = endpoint
        self._plain = Channel(self._open)
        self._replicated = ReplicatedChannel(Channel(self._open), replicas)

    @classmethod
    def to(cls, url: str) -> "PipelineLink":
        """Return a link to the server at `url`, a redis://, rediss:// or unix:// one."""
        return cls(endpoint(parse_url(url), tls=url.startswith("rediss:")))

    async def locate(self, key: str = "") -> Endpoint:
        """Return the server that takes commands on `key` now. Raises StoreDown."""
        return self._endpoint

    async def _open(self) -> Connection:
        self.functions.ask_again()
        return await Connection.open(await self.locate(), self._observed)

    def _observed(self, seconds: float) -> None:
        self.observe(seconds)

    async def command(self, *parts: str | int) -> Any:
        """See Link. A caller that is cancelled leaves its command running; nothing is torn."""
        return await self._plain.ask(*parts)

    async def replicated(self, *parts: str | int) -> tuple[Any, bool]:
        """See Link."""
        if not self.replicas:
            return await self._plain.ask(*parts), True
        return await self._replicated.command(*parts)

    async def servers(self) -> list[Link]:
        """See Link."""
        return [self]

    def with_key(self, key: str, run: Callable[[ServerLink], Awaitable[Any]]) -> Awaitable[Any]:
        """See Link."""
        return run(self)

    def drop(self) -> None:
        """Give up the connections: the server is not the right one any more."""
        self._plain.drop()
        self._replicated.drop()

    async def close(self) -> None:
        """See Link."""
        await self._plain.close()
        await self._replicated.close()


class ClientLink:
    """A link through a whole redis-py client, a command at a time: for the fake."""

    why_relaxed = "Claims are kept in this process only."
    replicas = 0

    def __init__(self, client: Redis) -> None:
        self.observe: Observe = lambda seconds: None
        self.functions = Functions()
        self._client = client
        # The client would turn some replies into dicts; both links give what the server said.
        client.response_callbacks.clear()

    async def command(self, *parts: str | int) -> Any:
        """See Link."""
        try:
            return await self._client.execute_command(*parts)
        except RedisError as error:
            raise failure(error, sent=True) from error

    async def replicated(self, *parts: str | int) -> tuple[Any, bool]:
        """See Link."""
        return await self.command(*parts), True

    async def servers(self) -> list[Link]:
        """See Link."""
        return [self]

    def with_key(self, key: str, run: Callable[[ServerLink], Awaitable[Any]]) -> Awaitable[Any]:
        """See Link."""
        return run(self)

    async def close(self) -> None:
        """See Link."""
        await self._client.aclose()
