"""A cluster as one link: each command goes to the primary that serves its key.

The library's own cluster client retries up to sixteen times and follows ASK redirections. Ours
must not: during a move of a slot one half of a project's keys is on either side, and a script that
is sent after them would find tasks free that are held.
"""

import asyncio
import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from dibs.store.failures import Moved, StoreDown
from dibs.store.link import Link, PipelineLink

Address = tuple[str, int]


class ClusterLink:
    """See Link. The map of slots is read from any node that answers, and again when it is wrong."""

    why_relaxed = "A cluster may promote a replica that lacks the last claims."

    def __init__(self, seeds: Sequence[Address], options: Mapping[str, Any]) -> None:
        """`seeds` are some of the nodes; `options` is how to connect to each of them."""
        self.observe: Callable[[float], None] = lambda seconds: None
        self._seeds = tuple(seeds)
        self._options = dict(options)
        self._links: dict[Address, PipelineLink] = {}
        self._starts: list[int] = []
        self._ranges: list[tuple[int, Address]] = []
        self._stale = True
        self._looking: asyncio.Task[None] | None = None

    async def command(self, *parts: str | int) -> Any:
        """See Link."""
        for last in (False, True):
            link = self._at(await self.owner(_key(parts)))
            try:
                return await link.command(*parts)
            except StoreDown as down:
                self._stale = True
                if last or not isinstance(down, Moved):
                    raise
        raise AssertionError  # the second round returns or raises

    async def servers(self) -> list[Link]:
        """See Link. Asked with every look at the clock, so the map is never older than a second."""
        self._stale = True
        await self._look()
        links = [self._at(address) for address in sorted({node for _, node in self._ranges})]
        states = await asyncio.gather(*(link.command("CLUSTER", "INFO") for link in links))
        if not all("cluster_state:ok" in str(state) for state in states):
            raise StoreDown("A node of the store does not serve its part now.", sent=False)
        return list(links)

    async def owner(self, key: str) -> Address:
        """Return the primary that serves `key`."""
        await self._look()
        slot = key_slot(key.encode())
        place = bisect.bisect_right(self._starts, slot) - 1
        if place < 0 or self._ranges[place][0] < slot:
            self._stale = True
            raise StoreDown("No node of the store serves this project now.", sent=False)
        return self._ranges[place][1]

    async def close(self) -> None:
        """See Link."""
        for link in self._links.values():
            await link.close()

    def _at(self, address: Address) -> PipelineLink:
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = PipelineLink.to_host(*address, self._options)
            link.observe = self.observe
        return link

    async def _look(self) -> None:
        """Read the map of slots if it is stale, once for all who ask meanwhile.

        Raises StoreDown when no node answers.
        """
        if not self._stale:
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._read_map())
        await asyncio.shield(self._looking)

    async def _read_map(self) -> None:
        """Ask every node that we know of at once; the first answer will do."""
        known = dict.fromkeys((*(node for _, node in self._ranges), *self._seeds))
        asked = [asyncio.create_task(self._slots(address)) for address in known]
        down = StoreDown("No node of the store answers.", sent=False)
        try:
            for answer in asyncio.as_completed(asked):
                address, slots = await answer
                if isinstance(slots, StoreDown):
                    down = slots
                    continue
                self._read(slots, address)
                return
        finally:
            for task in asked:
                task.cancel()
        raise StoreDown(down.reason, sent=False)

    async def _slots(self, address: Address) -> tuple[Address, Any]:
        """Return what a node says of the slots, or why it does not."""
        try:
            return address, await self._at(address).command("CLUSTER", "SLOTS")
        except StoreDown as down:
            return address, down
        except ResponseError:
            return address, StoreDown("The store is no cluster.", sent=False)

    def _read(self, slots: Sequence[Any], asked: Address) -> None:
        ranges = sorted((int(row[0]), int(row[1]), _address(row[2], asked)) for row in slots)
        self._starts = [start for start, _, _ in ranges]
        self._ranges = [(end, node) for _, end, node in ranges]
        # A node that is gone for good would be kept for ever otherwise; seeds stay.
        for gone in set(self._links) - {node for _, node in self._ranges} - set(self._seeds):
            self._links.pop(gone).drop()
        self._stale = False


class ClusterReader:
    """What the hub needs of a client: blocking reads, each from the node that has the stream."""

    def __init__(self, link: ClusterLink, options: Mapping[str, Any]) -> None:
        self._link, self._options = link, dict(options)
        self._clients: dict[Address, Redis] = {}
        self.response_callbacks: dict[str, Any] = {}

    async def execute_command(self, *parts: Any) -> Any:
        """Run one command."""
        try:
            address = await self._link.owner(_key(parts))
        except StoreDown as down:
            raise RedisError(down.reason) from down
        client = self._clients.get(address)
        if client is None:
            host, port = address
            pool = ConnectionPool(host=host, port=port, **self._options)
            client = self._clients[address] = Redis(connection_pool=pool)
            client.set_retry(Retry(NoBackoff(), 0))
            client.response_callbacks.clear()
        return await client.execute_command(*parts)  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        """Drop the connections."""
        for client in self._clients.values():
            await client.aclose()
            await client.connection_pool.disconnect()


def _key(parts: Sequence[str | int]) -> str:
    """Return the key that decides where a command goes; '' where any node will do."""
    name = str(parts[0]).upper()
    if name in ("EVAL", "EVALSHA"):
        return str(parts[3])
    if name == "XINFO":
        return str(parts[2])
    if name in ("XREAD", "XREADGROUP"):
        return str(parts[list(parts).index("STREAMS") + 1])
    return str(parts[1]) if len(parts) > 1 else ""


def _address(told: Sequence[Any], asked: Address) -> Address:
    return str(told[0] or asked[0]), int(told[1])
