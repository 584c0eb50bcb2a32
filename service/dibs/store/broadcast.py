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
"""Seconds without an event after which a stream sends a sign of life."""
BACKLOG = 1_000
"""Most unread events of a subscription; with more it loses them all and has to start over."""


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
        """Add events. More than BACKLOG unread ones reset the subscription."""
        self._waiting.extend(events)
        if len(self._waiting) > BACKLOG:
            self.reset()
        self._changed.set()

    def reset(self) -> None:
        """Drop the unread events, and let the next get() raise CursorExpired."""
        self._waiting.clear()
        self._reset = True
        self._changed.set()

    def end(self) -> None:
        """End the subscription: get() raises ShuttingDown at once."""
        self._ended = True
        self._changed.set()

    async def get(self, timeout_s: float) -> list[Event]:
        """Return the events since the last call, or [] if none come within `timeout_s`.

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
    """Follows the event stream of every project that has a subscription."""

    def __init__(self, store: Store, reader: BlockingReader) -> None:
        self._store, self._reader = store, reader
        self._subscriptions: dict[Project, set[Subscription]] = {}
        self._followers: dict[Project, asyncio.Task[None]] = {}
        self.streams = 0
        """The number of callers that listen now."""
        self.ended = False

    @contextlib.asynccontextmanager
    async def listen(self, project: Project, *, caller: bool = True) -> AsyncIterator[Subscription]:
        """Yield a subscription to the events of `project` from now on. Raises StoreDown.

        `caller`: it counts in `streams`.
        """
        subscription = Subscription(ended=self.ended)
        subscriptions = self._subscriptions.setdefault(project, set())
        subscriptions.add(subscription)
        self.streams += caller
        try:
            if project not in self._followers:
                # Read before the subscription is yielded, so that it misses no later event.
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
        """Yield the events after the id `after`, then new ones as they come; [] every QUIET_S
        without one.

        There is no gap and no duplicate. Raises CursorExpired where there would be a gap, StoreDown
        from reading the backlog, and ShuttingDown.
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
        """End every subscription: the service is about to stop."""
        self.ended = True
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.end()

    async def close(self) -> None:
        """Stop the followers and close their connections."""
        followers = list(self._followers.values())
        self._followers.clear()
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        await self._reader.close()

    async def _follow(self, project: Project, epoch: str, last: str) -> None:
        """Pass the events after `last` to all subscriptions, as long as the project has one.

        A library that waits with a timeout may swallow a cancellation. So the loop also ends when
        this task is no longer the project's follower, and close() does not wait forever.
        """
        while self._followers.get(project) is asyncio.current_task():
            try:
                epoch, last = await self._tell_next(project, epoch, last)
            except (RedisError, StoreDown, OSError):
                await asyncio.sleep(AGAIN_S)
                # The store may come back with other data: its epoch decides where to continue.
                with contextlib.suppress(RedisError, StoreDown, OSError):
                    now, _ = await self._store.events.end(project)
                    last = last if now == epoch else ""
            except Exception:  # a defect in dibs must not leave subscriptions without events
                log.exception("follower_failed project=%s", project)
                last = ""
                await asyncio.sleep(AGAIN_S)

    async def _tell_next(self, project: Project, epoch: str, last: str) -> tuple[str, str]:
        """Wait for events after `last`, pass them on, and return the epoch and the new `last`.

        A `last` of '' means that events are missing: the next call resets the subscriptions and
        starts at the end of the stream. Raises StoreDown, or an error of XREAD.
        """
        if not last:
            # Read before the reset, so that a subscription that starts over misses no later event.
            epoch, last = await self._store.events.end(project)
            for subscription in self._subscriptions.get(project, ()):
                subscription.reset()
        stream = keys(project) + ":events"
        found = await self._reader.command(
            "XREAD", "COUNT", 500, "BLOCK", BLOCK_MS, "STREAMS", stream, last
        )
        if not found:
            return epoch, last
        # Events that came while the store was unreachable may have been trimmed already.
        now, is_gap = await self._store.events.look(project, last)
        if is_gap or (now != epoch and epoch != "0"):
            return now, ""
        entries, reading = found[0][1], self._store.clock.reading
        events = [event(now, entry, flat, reading) for entry, flat in entries]
        for subscription in self._subscriptions.get(project, ()):
            subscription.put(events)
        return now, entries[-1][0]
