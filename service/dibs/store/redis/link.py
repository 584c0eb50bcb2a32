"""Links: they send commands to the store and return the replies.

All calls share one connection (see connection.py). Every failure reports whether the command was
sent.
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
    """Sends commands to the store and returns the replies."""

    observe: Observe
    """Called with the duration in seconds of each answered batch."""
    why_relaxed: str
    """The reason why this kind of store may lose an acknowledged claim, in a sentence; or ''."""
    replicas: int
    """Replicas that must have a command's writes for `replicated` to report success."""

    async def command(self, *parts: str | int) -> Any:
        """Run one command. Raises StoreDown, StoreFull, or ResponseError for a defect in dibs."""
        ...

    async def replicated(self, *parts: str | int) -> tuple[Any, bool]:
        """Run one command; return its reply, and whether `replicas` replicas have its writes.

        Raises the same errors as `command`.
        """
        ...

    async def servers(self) -> "Sequence[Link]":
        """Return a link to each server that takes claims: one, or the primaries of a cluster."""
        ...

    def with_key(self, key: str, run: "Callable[[ServerLink], Awaitable[Any]]") -> Awaitable[Any]:
        """Call `run` with the server that has `key`, and once more if the key has moved."""
        ...

    async def close(self) -> None:
        """Drop the connections."""
        ...


class ServerLink(Link, Protocol):
    """A link to one server."""

    functions: Functions
    """Records whether the server accepts functions."""


class PipelineLink:
    """A link to one server: all commands on one connection, opened on first use."""

    why_relaxed = ""

    def __init__(self, endpoint: Endpoint, replicas: int = 0) -> None:
        """Store the endpoint; the first command connects."""
        self.observe: Observe = lambda seconds: None
        self.replicas = replicas
        self.functions = Functions()
        self.leave: list[Callable[[Endpoint], None]] = []
        """Called with a server that this link stops using."""
        self._endpoint = endpoint
        self._plain = Channel(self._open)
        self._replicated = ReplicatedChannel(Channel(self._open), replicas)

    @classmethod
    def to(cls, url: str) -> "PipelineLink":
        """Return a link to the server at `url` (redis://, rediss:// or unix://)."""
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
        """See Link. The command of a cancelled caller still runs; the connection stays usable."""
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
        """Close the connections: the server is no longer the right one."""
        self._plain.drop()
        self._replicated.drop()

    async def close(self) -> None:
        """See Link."""
        await self._plain.close()
        await self._replicated.close()


class ClientLink:
    """A link through a redis-py client, one command at a time, for the in-memory fake store."""

    why_relaxed = "Claims are kept only in this process and are lost when it ends."
    replicas = 0

    def __init__(self, client: Redis) -> None:
        self.observe: Observe = lambda seconds: None
        self.functions = Functions()
        self._client = client
        # The client would turn some replies into dicts; a link returns them as the server sent.
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
