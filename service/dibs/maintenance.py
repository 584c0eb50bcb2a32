"""Background maintenance: ticks the lease clock once a second and records lapsed claims."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from itertools import islice

from dibs.metrics import TIME_LOST, Metrics
from dibs.model import Project
from dibs.store import Counts, Damaged, Store, StoreDown

log = logging.getLogger("dibs.maintenance")

TICK_S = 1.0
SWEEPS_PER_TICK = 250
"""Projects swept in one second at most; with more projects, each is swept less often."""
PRESSED = 7 / 8
"""The used share of the store's memory above which history is dropped."""
_STATES = ("held", "parked", "review", "lapsed", "done")


class Maintenance:
    """The task that ticks once a second, and sweeps if this process is the chosen sweeper."""

    def __init__(
        self, store: Store, metrics: Metrics, streams: Callable[[], int] = lambda: 0
    ) -> None:
        """`streams` returns the number of open streams in this process."""
        self._store, self._metrics, self._streams = store, metrics, streams
        self._turn: list[Project] = []
        self._counts: dict[Project, Counts] = {}
        self._swept_before = False
        self._used, self._limit = 0, 0
        """Bytes of memory that the store uses, and its limit (0: none)."""
        self.down = ""
        """Why the last tick failed, a sentence; '' if it succeeded."""
        self._unsafe = ""
        self._turns = False
        self._damaged: set[Project] = set()
        self._pressed = False
        """Whether the store has little memory left."""

    async def run(self) -> None:
        """Run until cancelled."""
        self._metrics.set("dibs_store_up", to=1)
        while True:
            self._metrics.set("dibs_streams", to=self._streams())
            self._metrics.set("dibs_store_full", to=1 if self._store.room() else 0)
            await asyncio.sleep(TICK_S)
            try:
                self._note_up(await self._store.tick())
                self._note_unsafe()
                if self._store.clock.sweeper:
                    await self._sweep()
                elif self._swept_before:
                    self._hand_over()
                await self._store.write_collisions()
            except StoreDown as down:
                self._note_down(down.reason)
            except Exception as error:  # a bug, or a reply that no store should give
                why = f"The service has a bug: {type(error).__name__}. Its log has the cause."
                if self.down != why:
                    log.exception("maintenance_failed")
                self._note_down(why)

    def _note_up(self, why: str) -> None:
        if self.down:
            log.warning("store_back")
            self.down = ""
            self._metrics.set("dibs_store_up", to=1)
        if why in TIME_LOST:
            self._metrics.add("dibs_time_lost_total", why)
            log.warning("time_lost why=%s", why)
        if self._turns != self._store.clock.taking_turns:
            self._turns = not self._turns
            if self._turns:
                log.warning("servers_take_turns: a restart of one is noticed, a failover is not")

    def _note_unsafe(self) -> None:
        """Log one line when the store becomes unsafe for new claims, one when it is safe again."""
        if self._store.unsafe and not self._unsafe:
            log.error("store_unsafe reason=%r", self._store.unsafe)
        elif self._unsafe and not self._store.unsafe:
            log.warning("store_safe_again")
        self._unsafe = self._store.unsafe
        self._metrics.set("dibs_store_unsafe", to=1 if self._unsafe else 0)

    def _note_pressed(self, pressed: bool) -> None:
        """Log one line when memory becomes short and history is dropped, one when it is enough."""
        if pressed != self._pressed:
            self._pressed = pressed
            log.warning("store_memory_short" if pressed else "store_memory_enough")

    def _note_down(self, why: str) -> None:
        if not self.down:  # one line per outage
            log.error("store_unreachable reason=%r", why)
            self._metrics.add("dibs_store_outages_total")
        self.down = why
        self._metrics.set("dibs_store_up", to=0)

    async def _sweep(self) -> None:
        if not self._turn:
            self._turn = await self._store.projects()
            for gone in set(self._counts) - set(self._turn):
                del self._counts[gone]
        batch, self._turn = self._turn[:SWEEPS_PER_TICK], self._turn[SWEEPS_PER_TICK:]
        self._used, self._limit = await self._store.memory()
        self._note_pressed(bool(self._limit) and self._used > self._limit * PRESSED)
        batch += self._busy(batch)
        for start in range(0, len(batch), 50):
            await asyncio.gather(*map(self._sweep_one, batch[start : start + 50]))
        if not self._turn:
            self._swept_before = True
            self._show()

    def _busy(self, batch: list[Project]) -> list[Project]:
        """Return projects outside `batch` with claims that will lapse. With so many projects that
        one round takes seconds, these need not wait for projects with only history."""
        if len(self._counts) <= SWEEPS_PER_TICK:
            return []
        named = frozenset(batch)
        busy = (name for name, counts in self._counts.items() if counts.busy and name not in named)
        return list(islice(busy, SWEEPS_PER_TICK))

    async def _sweep_one(self, project: Project) -> None:
        more, pressed = True, self._pressed
        while more:
            try:
                more, counts = await self._store.sweep(project, pressed=pressed)
                pressed = False  # drop one part, then read the store's memory again
            except Damaged as damaged:  # the other projects must still be swept
                if project not in self._damaged:
                    self._damaged.add(project)
                    log.error("project_damaged project=%s reason=%r", project, damaged.reason)
                return
        self._damaged.discard(project)
        before = self._counts.get(project)
        # Another process has counted the past of a project that this process sweeps for the first
        # time, but not that of a project which appeared since this process began to sweep.
        if before is None and self._swept_before:
            before = Counts(0, 0, 0, 0, 0, 0, 0, 0)
        if before is not None:
            self._metrics.add("dibs_lapses_total", by=max(0, counts.lapses - before.lapses))
            self._metrics.add("dibs_breaks_total", by=max(0, counts.breaks - before.breaks))
        self._counts[project] = counts

    def _show(self) -> None:
        each = self._counts.values()
        for state in _STATES:
            total = sum(getattr(counts, state) for counts in each)
            self._metrics.set("dibs_claims", state, to=total)
        self._metrics.set("dibs_queue_tickets", to=sum(counts.tickets for counts in each))
        self._metrics.set("dibs_projects", to=len(self._counts))
        self._metrics.set("dibs_store_memory_bytes", "used", to=self._used)
        self._metrics.set("dibs_store_memory_bytes", "limit", to=self._limit)

    def _hand_over(self) -> None:
        """Zero the gauges: another process sweeps now, and shows them."""
        self._swept_before = False
        self._turn.clear()
        self._counts.clear()
        for state in _STATES:
            self._metrics.set("dibs_claims", state, to=0)
        for name in ("dibs_queue_tickets", "dibs_projects"):
            self._metrics.set(name, to=0)
        for what in ("used", "limit"):
            self._metrics.set("dibs_store_memory_bytes", what, to=0)


@contextlib.asynccontextmanager
async def maintained(maintenance: Maintenance) -> AsyncIterator[None]:
    """Run `maintenance` while the block runs."""
    task = asyncio.create_task(maintenance.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
