"""A link to a cluster: each command goes to the primary that serves its key.

redis-py's cluster client retries up to sixteen times and follows ASK redirections. This link must
not: while a slot moves, a project's keys are split between two servers, and a script that followed
a redirection would find held tasks free.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.crc import key_slot
from redis.exceptions import ResponseError

from dibs.store.redis.answers import first_answers
from dibs.store.redis.blocking import key_of
from dibs.store.redis.connection import Observe
from dibs.store.redis.endpoint import Endpoint
from dibs.store.redis.failures import SlotMoved, StoreDown
from dibs.store.redis.link import Link, PipelineLink, ServerLink

log = logging.getLogger("dibs.store")

Address = tuple[str, int]
Range = tuple[int, int, int, Address]
"""A range of slots: the owner's configuration epoch, first slot, last slot, owner."""

SLOTS = 16_384
LOOK_S = 0.5
"""Seconds between two reads of the map of slots from every node. The link stops using a replaced
primary that still answers within a second of the other nodes' report."""


class ClusterLink:
    """See Link. The map of slots is merged from all nodes; for each slot, the newest epoch wins."""

    why_relaxed = "A cluster may promote a replica that lacks the last claims."

    def __init__(self, seeds: Sequence[Address], template: Endpoint, replicas: int = 0) -> None:
        """`seeds` are some of the nodes; `template` has the options for connecting to any node."""
        self.observe: Observe = lambda seconds: None
        self.replicas = replicas
        self.leave: list[Callable[[Endpoint], None]] = []
        self._seeds, self._template = tuple(seeds), template
        self._links: dict[Address, PipelineLink] = {}
        self._ranges: list[Range] = []
        self._owners: list[Address | None] = [None] * SLOTS
        self._serving: set[Address] = set()
        self._stale = True
        self._looking: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def command(self, *parts: str | int) -> Any:
        """See Link."""
        return await self.with_key(key_of(parts), lambda link: link.command(*parts))

    async def replicated(self, *parts: str | int) -> tuple[Any, bool]:
        """See Link."""
        reply: tuple[Any, bool]
        reply = await self.with_key(key_of(parts), lambda link: link.replicated(*parts))
        return reply

    async def with_key(self, key: str, run: Callable[[ServerLink], Awaitable[Any]]) -> Any:
        """See Link."""
        for last in (False, True):
            link = self._at(await self._owner(key))
            try:
                return await run(link)
            except StoreDown as down:
                self._stale = True
                if last or not isinstance(down, SlotMoved):
                    raise
        raise AssertionError  # the second round returns or raises

    async def servers(self) -> list[Link]:
        """See Link. Raises StoreDown while some slots of the cluster are not served."""
        self._stale = True
        await self._look()
        links = [self._at(address) for address in sorted(self._serving)]
        states = await asyncio.gather(*(link.command("CLUSTER", "INFO") for link in links))
        if not all("cluster_state:ok" in str(state) for state in states):
            raise StoreDown("A node of the store's cluster is not serving its slots.", sent=False)
        return list(links)

    async def locate(self, key: str = "") -> Endpoint:
        """Return the node that serves `key` now. Raises StoreDown."""
        return self._template.at(*await self._owner(key))

    async def _owner(self, key: str) -> Address:
        await self._look()
        owner = self._owners[key_slot(key.encode())]
        if owner is None:
            self._stale = True
            raise StoreDown("No node of the store's cluster is serving this project.", sent=False)
        return owner

    async def close(self) -> None:
        """See Link."""
        for task in (self._watching, self._looking):
            if task:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        for link in self._links.values():
            await link.close()

    def _at(self, address: Address) -> PipelineLink:
        link = self._links.get(address)
        if link is None:
            link = PipelineLink(self._template.at(*address), self.replicas)
            link.observe = self.observe
            self._links[address] = link
        return link

    async def _look(self) -> None:
        """Read the map of slots if it is stale; concurrent callers share one read.

        Raises StoreDown if no node answers.
        """
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        if not self._stale:
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._read_map())
        await asyncio.shield(self._looking)

    async def _watch(self) -> None:
        """Read the map regularly until closed. While no node answers, the old map stays in use."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._stale = True
            try:
                await self._look()
            except StoreDown:
                continue
            except Exception:
                log.exception("cluster_look_failed")

    async def _read_map(self) -> None:
        """Read the ranges from every known node at once, and merge them."""
        known = dict.fromkeys((*sorted(self._serving), *self._seeds))
        asked = [asyncio.create_task(self._ranges_of(address)) for address in known]
        told = await first_answers(asked)
        self._draw(sorted({found for ranges in told for found in ranges}))  # oldest epoch first

    async def _ranges_of(self, address: Address) -> list[Range]:
        """Return the ranges of slots that a node reports. Raises StoreDown."""
        node = self._at(address)
        slots: Any
        nodes: Any
        slots, nodes = await asyncio.gather(
            node.command("CLUSTER", "SLOTS"),
            node.command("CLUSTER", "NODES"),
            return_exceptions=True,
        )
        if isinstance(slots, ResponseError):
            word = (
                "is not a cluster"
                if "cluster support disabled" in str(slots)
                else "refused CLUSTER SLOTS"
            )
            raise StoreDown(f"The store {word}: {slots}.", sent=False) from slots
        if isinstance(slots, BaseException):
            raise slots
        epochs = _epochs(nodes) if isinstance(nodes, str) else {}
        return [
            (epochs.get(row[2][2], 0), int(row[0]), int(row[1]), _address(row[2], address))
            for row in slots
        ]

    def _draw(self, ranges: list[Range]) -> None:
        """Set each slot's owner by the newest epoch, and drop nodes that no longer serve a slot."""
        self._stale = False
        if ranges == self._ranges:
            return
        self._ranges = ranges
        owners: list[Address | None] = [None] * SLOTS
        for _, start, end, owner in ranges:
            owners[start : end + 1] = [owner] * (end + 1 - start)
        before, self._owners = self._serving, owners
        self._serving = {owner for owner in owners if owner}
        for gone in before - self._serving:
            self._at(gone).drop()
            for hear in self.leave:
                hear(self._template.at(*gone))
        # Forget links to other nodes, which may never come back; seeds stay.
        for gone in set(self._links) - self._serving - set(self._seeds):
            del self._links[gone]


def _epochs(nodes: str) -> dict[str, int]:
    """Return each node's configuration epoch by node id, from the reply of CLUSTER NODES.

    A line has: id, address, flags, primary, ping, pong, epoch, … (redis.io/commands/cluster-nodes).
    """
    words = (line.split() for line in nodes.splitlines())
    return {each[0]: int(each[6]) for each in words if len(each) > 6 and each[6].isdigit()}


def _address(told: Sequence[Any], asked: Address) -> Address:
    return str(told[0] or asked[0]), int(told[1])
