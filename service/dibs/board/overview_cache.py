"""The overview of all projects, read once for callers that ask at about the same time."""

import asyncio
from time import monotonic

from dibs.model import Project
from dibs.store import Damaged, Store
from dibs.store.counts import Overview

PROJECTS = 200
"""Projects that the overview shows: those with the latest claims."""
FRESH_S = 1.0
"""Seconds for which a read is served again, so that the store's load does not grow with viewers."""


class OverviewCache:
    """The projects of a store, as this process last read them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: tuple[list[Overview], int] = ([], 0)
        self._at_s = -FRESH_S
        self._reading: asyncio.Task[None] | None = None

    async def look(self) -> tuple[list[Overview], int]:
        """Return the projects, latest change first, and the total number. Raises StoreDown."""
        if monotonic() - self._at_s >= FRESH_S:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read())
            await asyncio.shield(self._reading)
        return self._seen

    async def _read(self) -> None:
        names, total = await self._store.latest_projects(PROJECTS)
        found = [one for one in await asyncio.gather(*map(self._overview, names)) if one]
        shown = sorted(filter(_is_known, found), key=_changed, reverse=True)
        self._seen = shown, total - (len(found) - len(shown))
        self._at_s = monotonic()

    async def _overview(self, project: Project) -> Overview | None:
        """Return the overview of a project, None if its data in the store is damaged."""
        try:
            return await self._store.overview(project)
        except Damaged:
            return None


def _is_known(one: Overview) -> bool:
    """Return whether the store has data of a project: it has none of a purged one."""
    counts = (one.held, one.parked, one.review, one.lapsed, one.done, one.failed, one.ready)
    return any(counts) or bool(one.blocked) or one.on_hold or one.changed_at is not None


def _changed(one: Overview) -> float:
    return one.changed_at.timestamp() if one.changed_at else 0.0
