"""The lease clock as one process knows it. The clock itself is in the store: see lua/tick.lua."""

import asyncio
import bisect
import functools
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from dibs.store.redis.failures import StoreDown
from dibs.store.redis.link import Link
from dibs.store.scripts import Script, run_script
from dibs.store.server_info import ServerInfo, look

KEY = "dibs:clock"
SWEEPER_MS = 5_000
RUN_ID_CHARS = 16
TURNS_S = 30.0
"""Seconds after the last `turns` tick for which the servers count as taking turns."""
APART_MOST_US = 2_000_000
"""Greatest difference between the clocks of a cluster's nodes, the time to read them included.
It has to stay below a stall."""


_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class Tick(NamedTuple):
    """The arguments of tick.lua."""

    run_id: str
    gap_ms: str
    process: str
    sweeper_ms: str


@dataclass(frozen=True)
class ClockReading:
    """The lease clock's state at the last tick."""

    observed_us: int
    lost_us: int
    stalls: str

    @functools.cached_property
    def args(self) -> tuple[str, str, str]:
        """The first arguments of every script."""
        return str(self.observed_us), str(self.lost_us), self.stalls

    @property
    def wall_ms(self) -> int:
        """The store's wall clock at the last tick."""
        return self.observed_us // 1000

    @property
    def lease_ms(self) -> int:
        """Lease time at the last tick."""
        return (self.observed_us - self.lost_us) // 1000

    def instant(self, lease_ms: int) -> datetime:
        """Return the wall-clock instant of `lease_ms`, which may be earlier than some stalls."""
        lost_us = self.lost_us
        if self.stalls:
            ends, losses = zip(*map(_stall, self.stalls.split()), strict=True)
            later = bisect.bisect_left(ends, lease_ms)
            if later < len(ends):
                lost_us = losses[later]
        return _second((lease_ms + lost_us // 1000) // 1000)

    def lease_span(self, from_s: int, to_s: int) -> tuple[int, int]:
        """Return a span of lease time, in ms, that covers a span of the wall clock. It may be
        longer: time lost within the span is not taken out exactly."""
        losses = [self.lost_us, *(lost_us for _, lost_us in map(_stall, self.stalls.split()))]
        first = 1000 * from_s - max(losses) // 1000 - 1
        return max(0, first), max(0, 1000 * to_s - min(losses) // 1000 + 1)


@functools.lru_cache(4096)
def _second(unix_s: int) -> datetime:
    """Return a UTC datetime, cached: many claims share the second of their grant or deadline."""
    try:
        return datetime.fromtimestamp(unix_s, UTC)
    except (ValueError, OverflowError, OSError):  # a damaged number, beyond the calendar
        return _LAST


class LeaseClock:
    """Reads the lease clock, and knows when it has to be read again."""

    def __init__(self, link: Link, stall_ms: int) -> None:
        self.process = uuid.uuid4().hex[:12]
        self.reading = ClockReading(0, 0, "")
        self.stale = True
        """A tick is due before the next act: the store may have restarted since the last one."""
        self.turns_s = -TURNS_S
        """When the servers behind the store's address last took turns (time.monotonic)."""
        self.sweeper = False
        """Whether this process is the one that records passed deadlines."""
        self.shown: list[ServerInfo] = []
        """Each server of the store as the last look() read it."""
        self._link = link
        self._stall_ms = stall_ms
        self._tick = Script.load("tick", arguments=Tick._fields)

    @property
    def taking_turns(self) -> bool:
        """Whether several servers recently answered in turn, so that a failover goes unnoticed."""
        return time.monotonic() - self.turns_s < TURNS_S

    async def look(self) -> None:
        """Read the information of each server of the store into `shown`. Raises StoreDown."""
        self.shown = await asyncio.gather(*map(look, await self._link.servers()))

    async def tick(self) -> str:
        """Tick the clock with the run ids in `shown`, and store the reading.

        Return why time was lost (restart, gap, back, damaged). If no time was lost, return 'first'
        for a new clock, 'turns' if several servers answer in turn, or ''. Raises StoreDown.
        """
        run_id = " ".join(sorted(server.run_id[:RUN_ID_CHARS] for server in self.shown))
        reply = await run_script(
            self._link,
            self._tick,
            KEY,
            Tick(run_id, str(self._stall_ms), self.process, str(SWEEPER_MS)),
        )
        observed_us, lost_us, stalls, sweeper, why = map(str, reply)
        if why == "turns":
            self.turns_s = time.monotonic()
        self.reading = ClockReading(int(observed_us), int(lost_us), stalls.strip())
        self.sweeper = sweeper == "1"
        times_us = [server.time_us for server in self.shown if server.time_us]
        apart_us = max(times_us) - min(times_us) if times_us else 0
        if apart_us > APART_MOST_US:
            raise StoreDown(
                f"The clocks of the store's nodes are {apart_us / 1e6:.1f} s apart, which is "
                "too much for deadlines: synchronize them with NTP.",
                sent=False,
            )
        self.stale = False
        return why


def _stall(text: str) -> tuple[int, int]:
    """Return the end of a stall in lease ms, and lost_us before it."""
    span, _, lost_us = text.partition(":")
    return int(span.split("-")[1]), int(lost_us)
