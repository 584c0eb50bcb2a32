"""What goes on while nobody asks: looking at the lease clock, and writing down what has passed."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from dibs.store import Store, StoreDown
from dibs.words import Project

log = logging.getLogger("dibs.keeper")

TICK_S = 1.0
SWEEPS_PER_TICK = 500
"""Projects swept in one second at most; with more of them each has its turn less often."""


class Keeper:
    """Ticks once a second, and sweeps where this process is the one chosen to."""

    def __init__(self, store: Store, observe: Callable[[Project, int, int, int], None]) -> None:
        """`observe` hears how many claims of a project are live, lapsed and done."""
        self._store, self._observe = store, observe
        self._turn: list[Project] = []
        self.up = True
        """The store answered when last asked."""

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            try:
                why = await self._store.tick()
                self._note_up(why)
                if self._store.clock.sweeper:
                    await self._sweep()
                await self._store.write_tally()
            except StoreDown as down:
                if self.up:
                    log.error("store_unreachable reason=%r", down.reason)
                self.up = False
            except Exception:
                log.exception("keeper_failed")

    def _note_up(self, why: str) -> None:
        if not self.up:
            log.warning("store_back")
            self.up = True
        if why in ("gap", "restart", "back"):
            log.warning("time_lost why=%s: every live claim has at least one more ttl", why)

    async def _sweep(self) -> None:
        if not self._turn:
            self._turn = await self._store.projects()
        batch, self._turn = self._turn[:SWEEPS_PER_TICK], self._turn[SWEEPS_PER_TICK:]
        for start in range(0, len(batch), 50):
            await asyncio.gather(*map(self._sweep_one, batch[start : start + 50]))

    async def _sweep_one(self, project: Project) -> None:
        more = True
        while more:
            more, *counts = await self._store.sweep(project)
        self._observe(project, *counts)


@contextlib.asynccontextmanager
async def keeping(keeper: Keeper) -> AsyncIterator[None]:
    """Run `keeper` while the block runs."""
    task = asyncio.create_task(keeper.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
