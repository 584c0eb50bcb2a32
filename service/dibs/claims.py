"""The service's own rules around the store: bounds, defaults, and waiting for a task to free."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from dibs import outcomes as o
from dibs.store import Store
from dibs.store.store import Reset
from dibs.store.stream import Ended, Hub, Listener
from dibs.words import Fence, Project, Session, Task

WAIT_MOST_S = 25
"""Longer than this a request looks dead to proxies on the way."""
_NO_USE = ("claimed", "queued", "parked", "resumed", "revived")
"""Events after which a task that was not free is still not free."""


class OutOfBounds(ValueError):
    """A ttl or wait that the service does not grant; the message says what it does."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a caller may ask for, in seconds."""

    min_ttl_s: int = 10
    max_ttl_s: int = 86_400


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody asks for when they claim."""

    tasks: tuple[Task, ...]
    mode: str = "one"
    ttl_s: int | None = None
    reopen: bool = False
    queue: bool = False
    wait_s: int = 0
    label: str = ""
    branch: str = ""
    url: str = ""
    note: str = ""


class Claimant(NamedTuple):
    """Whom a claim counts for, besides its session."""

    address: str = ""
    """Where it comes from, when that is counted; else ''."""
    wait_s: int = 0
    """How long nothing new is granted to that address; what a session holds it may renew."""


KNOWN = Claimant()
"""Somebody with a key, or at an address that says nothing."""


class Claims:
    """The acts of dibs, as HTTP and the board ask for them."""

    def __init__(self, store: Store, hub: Hub, bounds: Bounds) -> None:
        self.store, self.hub, self.bounds = store, hub, bounds

    def _check_ttl(self, ttl_s: int | None) -> None:
        least, most = self.bounds.min_ttl_s, self.bounds.max_ttl_s
        if ttl_s is not None and not least <= ttl_s <= most:
            raise OutOfBounds("ttl", f"A ttl is {least} to {most} seconds; this is {ttl_s}.")

    async def claim(
        self,
        project: Project,
        session: Session,
        wish: Wish,
        request: str = "",
        claimant: Claimant = KNOWN,
    ) -> o.Granted | o.Contended | o.OverQuota | o.NoRoom | o.RateLimited:
        """Claim; while refused and `wait_s` is not over, ask again when something happens."""
        self._check_ttl(wish.ttl_s)
        if wish.wait_s > WAIT_MOST_S:
            raise OutOfBounds("wait", f"The service waits up to {WAIT_MOST_S} seconds; ask again.")
        if not wish.wait_s:
            return await self._claim(project, session, wish, request, claimant)
        # One name for all its tries: what an earlier one told of losses, the last one repeats.
        request = request or self.store.new_request()
        until = asyncio.get_running_loop().time() + wish.wait_s
        async with self.hub.listen(project) as listener:
            while True:
                outcome = await self._claim(project, session, wish, request, claimant)
                left_s = until - asyncio.get_running_loop().time()
                if not isinstance(outcome, o.Contended) or left_s <= 0 or self.hub.ended:
                    return outcome
                waits = [r.retry_after_s for r in outcome.refusals if r.retry_after_s]
                if not waits:
                    return outcome  # every task is done: waiting does not help
                await self._something_happens(listener, wish.tasks, min(left_s, *waits))

    async def _claim(
        self, project: Project, session: Session, wish: Wish, request: str, claimant: Claimant
    ) -> o.Granted | o.Contended | o.OverQuota | o.NoRoom | o.RateLimited:
        return await self.store.claim(
            project,
            session,
            wish.tasks,
            mode=wish.mode,
            ttl_s=wish.ttl_s,
            reopen=wish.reopen,
            queue=wish.queue,
            label=wish.label,
            branch=wish.branch,
            url=wish.url,
            note=wish.note,
            request=request,
            address=claimant.address,
            address_waits_s=claimant.wait_s,
        )

    async def _something_happens(
        self, listener: Listener, tasks: Sequence[Task], most_s: float
    ) -> None:
        """Wait for an event about one of `tasks`, a shutdown, or for `most_s`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + most_s
        while (left_s := until - loop.time()) > 0:
            try:
                events = await listener.get(left_s)
            except (Reset, Ended):
                return
            if any(event.task in tasks and event.type not in _NO_USE for event in events):
                return

    async def heartbeat(
        self,
        project: Project,
        session: Session,
        task: Task | None,
        fence: Fence | None,
        *,
        ttl_s: int | None,
        state: str,
        note: str,
        request: str = "",
    ) -> o.Kept | o.NotMine | o.RateLimited:
        """Extend one claim, or all of the session's."""
        self._check_ttl(ttl_s)
        return await self.store.heartbeat(
            project, session, task, fence, ttl_s=ttl_s, state=state, note=note, request=request
        )

    async def end_of(self, project: Project) -> str:
        """Return the id of a project's last event, where a follower may start."""
        epoch, last = await self.store.stream_end(project)
        return f"{epoch}-{last}"
