"""A link to the primary that Sentinels name. It drops a replaced primary even if that answers."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from dibs.store.redis.answers import first_answers
from dibs.store.redis.channel import Channel
from dibs.store.redis.connection import Connection
from dibs.store.redis.endpoint import Endpoint
from dibs.store.redis.failures import StoreDown, Withheld
from dibs.store.redis.link import PipelineLink

log = logging.getLogger("dibs.store")

ASK_S = 0.25
"""Seconds between two queries of the Sentinels. A replaced primary accepts claims that will be lost
until the link drops it. The promise is a second after the Sentinels' report; the interval is a
quarter of that."""


class Sentinels:
    """Several Sentinels, queried together; the answer with the newest configuration counts.

    After a failover the Sentinels learn of it from one another within seconds. The configuration
    epoch shows which of them already know (Redis Sentinel documentation, "Configuration epochs").
    """

    def __init__(self, endpoints: Sequence[Endpoint], service: str) -> None:
        self._service = service
        self._channels = [Channel(_opener(each)) for each in endpoints]

    async def primary(self) -> tuple[str, int]:
        """Return the primary's host and port. Raises StoreDown if no Sentinel names one."""
        asked = [asyncio.create_task(self._ask(channel)) for channel in self._channels]
        _, host, port = max(await first_answers(asked))
        return host, port

    async def _ask(self, channel: Channel) -> tuple[int, str, int]:
        """Return (epoch, host, port) from one Sentinel. Raises StoreDown."""
        # MASTER has the epoch; GET-MASTER-ADDR-BY-NAME names a promoted replica earlier.
        asked = (
            channel.ask("SENTINEL", "MASTER", self._service),
            channel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service),
        )
        told: Any
        address: Any
        told, address = await asyncio.gather(*asked, return_exceptions=True)
        if isinstance(address, StoreDown):
            raise StoreDown(f"No Sentinel answers. {address.reason}", sent=False)
        if isinstance(address, BaseException):
            raise StoreDown(f"The Sentinels refused the query: {address}.", sent=False)
        if not address:
            why = f"The Sentinels do not know the service {self._service!r}."
            raise StoreDown(why, sent=False)
        return _epoch(told), str(address[0]), int(address[1])

    async def close(self) -> None:
        """Drop the connections."""
        for channel in self._channels:
            await channel.close()


def _opener(endpoint: Endpoint) -> Any:
    def connect() -> Any:
        return Connection.open(endpoint, lambda seconds: None)

    return connect


def _epoch(told: Any) -> int:
    """Return the configuration epoch from the reply to MASTER, 0 where it has none."""
    if not isinstance(told, list):
        return 0
    fields = dict(zip(told[::2], told[1::2], strict=False))
    return int(fields.get("config-epoch", 0))


class SentinelLink(PipelineLink):
    """A link to the primary that the Sentinels name."""

    why_relaxed = "Sentinel may promote a replica that lacks the last claims."

    def __init__(self, sentinels: Sentinels, template: Endpoint, replicas: int = 0) -> None:
        """`template` has the options for connecting to a server, without its address."""
        super().__init__(template, replicas)
        self._sentinels, self._template = sentinels, template
        self._known = False
        """Whether the Sentinels have named a primary yet."""
        self._watching: asyncio.Task[None] | None = None

    async def locate(self, key: str = "") -> Endpoint:
        """See PipelineLink."""
        if not self._known:
            await self._look()
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        return await super().locate(key)

    async def _look(self) -> None:
        """Query the Sentinels, and drop a server that is no longer the primary."""
        found = self._template.at(*await self._sentinels.primary())
        left, self._endpoint = self._endpoint, found
        self._known = True
        if left != found:
            self.drop()
            for hear in self.leave:
                hear(left)

    async def _watch(self) -> None:
        """Query regularly until closed. While no Sentinel answers, the known primary stays."""
        while True:
            await asyncio.sleep(ASK_S)
            try:
                await self._look()
            except StoreDown:
                continue
            except Exception:
                log.exception("sentinel_look_failed")

    async def _open(self) -> Connection:
        """Connect to the primary. Raises StoreDown if the server is not yet, or no longer, the
        primary."""
        where = await self.locate()
        self.functions.ask_again()
        connection = await Connection.open(where, self._observed)
        try:
            role = await connection.ask("ROLE")
        except (
            ResponseError,
            Withheld,
        ):  # the user may not call ROLE: rely on the Sentinels alone
            role = None
        if self._endpoint != where or (role and role[0] != "master"):
            connection.end(ConnectionError())
            raise StoreDown("The store's primary is being replaced.", sent=False)
        return connection

    async def close(self) -> None:
        """See Link."""
        if self._watching:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await super().close()
        await self._sentinels.close()
