"""Broadcasts a project's events: one blocking read per project and process, many subscriptions."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from redis.exceptions import RedisError

from dibs.model import Event, Project
from dibs.store.events import CursorExpired, event, is_later
from dibs.store.keys import keys
from dibs.store.redis.blocking import BlockingReader
from dibs.store.redis.failures import StoreDown
from dibs.store.store import Store

log = logging.getLogger("dibs.stream")

BLOCK_MS = 10_000
AGAIN_S = 0.5
QUIET_S = 15.0
"""After so long without an event a stream says that it is still there."""
BACKLOG = 1_000
"""Events that a slow subscription may be behind before it is told to start over."""


class ShuttingDown(Exception):
    """The service is shutting down; there will be no more events from this process."""


class Subscription:
    """The events that one reader has not read yet."""

    def __init__(self, *, ended: bool) -> None:
        self._waiting: list[Event] = []
        self._changed = asyncio.Event()
        self._reset = False
        self._ended = ended

    def put(self, events: Sequence[Event]) -> None:
        """Add events; too many unread ones are dropped, and the subscription told so."""
        self._waiting.extend(events)
        if len(self._waiting) > BACKLOG:
            self.reset()
        self._changed.set()

    def reset(self) -> None:
        """Tell the subscription that events are missing from here on."""
        self._waiting.clear()
        self._reset = True
        self._changed.set()

    def end(self) -> None:
        """Let the subscription go, at once."""
        self._ended = True
        self._changed.set()

    async def get(self, timeout_s: float) -> list[Event]:
        """Return the events since the last call, [] after `timeout_s`.

        Raises CursorExpired or ShuttingDown.
        """
        if not self._ended:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), timeout_s)
        self._changed.clear()
        if self._ended:
            raise ShuttingDown
        if self._reset:
            self._reset = False
            raise CursorExpired
        events, self._waiting = self._waiting, []
        return events


class EventBroadcaster:
    """Follows the projects that somebody listens to."""

    def __init__(self, store: Store, reader: BlockingReader) -> None:
        self._store, self._reader = store, reader
        self._subscriptions: dict[Project, set[Subscription]] = {}
        self._followers: dict[Project, asyncio.Task[None]] = {}
        self.streams = 0
        """How many listen now."""
        self.ended = False

    @contextlib.asynccontextmanager
    async def listen(self, project: Project, *, caller: bool = True) -> AsyncIterator[Subscription]:
        """Hear what happens in `project` from now on. Raises StoreDown."""
        subscription = Subscription(ended=self.ended)
        subscriptions = self._subscriptions.setdefault(project, set())
        subscriptions.add(subscription)
        self.streams += caller
        try:
            if project not in self._followers:
                # Known before anybody goes on: what happens from here on is not missed.
                start = await self._store.events.end(project)
                if project not in self._followers:
                    follower = asyncio.create_task(self._follow(project, *start))
                    self._followers[project] = follower
            yield subscription
        finally:
            self.streams -= caller
            subscriptions.discard(subscription)
            if not subscriptions and self._subscriptions.get(project) is subscriptions:
                del self._subscriptions[project]
                if project in self._followers:
                    self._followers.pop(project).cancel()

    async def since(self, project: Project, after: str) -> AsyncIterator[list[Event]]:
        """Yield the events after the id `after`, then what happens; [] when all is quiet.

        There is no gap and no duplicate. Raises CursorExpired where there would be a gap, StoreDown
        while the backlog is read, and ShuttingDown.
        """
        async with self.listen(project) as subscription:
            while backlog := await self._store.events.read(project, after, 500):
                after = backlog[-1].id
                yield backlog
            while True:
                heard = await subscription.get(QUIET_S)
                events = [one for one in heard if is_later(one.id, after)]
                if events:
                    after = events[-1].id
                yield events

    def end(self) -> None:
        """Let every subscription go: the service is about to stop."""
        self.ended = True
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.end()

    async def close(self) -> None:
        """Stop following."""
        followers = list(self._followers.values())
        self._followers.clear()
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        await self._reader.close()

    async def _follow(self, project: Project, epoch: str, last: str) -> None:
        """Tell all who listen what comes after `last`, for as long as somebody listens.

        A library that waits with a timeout may take a cancellation for the end of that; so this
        looks whether it is still the follower, and nobody waits for it in vain.
        """
        while self._followers.get(project) is asyncio.current_task():
            try:
                epoch, last = await self._tell_next(project, epoch, last)
            except (RedisError, StoreDown, OSError):
                await asyncio.sleep(AGAIN_S)
                # The store may come back with other data: what it holds then decides.
                with contextlib.suppress(RedisError, StoreDown, OSError):
                    now, _ = await self._store.events.end(project)
                    last = last if now == epoch else ""
            except Exception:  # a defect of ours must not leave subscriptions waiting in silence
                log.exception("follower_failed project=%s", project)
                last = ""
                await asyncio.sleep(AGAIN_S)

    async def _tell_next(self, project: Project, epoch: str, last: str) -> tuple[str, str]:
        """Tell the next events after `last`, if some come; return the epoch, and the last one told.

        '' for that one: some are missing, so begin at the end. Raises StoreDown, or as XREAD does.
        """
        if not last:
            # Known before anybody is told to read anew: what comes from here on is not missed.
            epoch, last = await self._store.events.end(project)
            for subscription in self._subscriptions.get(project, ()):
                subscription.reset()
        stream = keys(project) + ":events"
        found = await self._reader.command(
            "XREAD", "COUNT", 500, "BLOCK", BLOCK_MS, "STREAMS", stream, last
        )
        if not found:
            return epoch, last
        # Of what came while nobody could read, some may be gone already.
        now, is_gap = await self._store.events.look(project, last)
        if is_gap or (now != epoch and epoch != "0"):
            return now, ""
        entries, reading = found[0][1], self._store.clock.reading
        events = [event(now, entry, flat, reading) for entry, flat in entries]
        for subscription in self._subscriptions.get(project, ()):
            subscription.put(events)
        return now, entries[-1][0]
