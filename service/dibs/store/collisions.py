"""Counts avoided collisions: refused claims, once per session and tenure.

A session that polls a task for an hour avoids one collision, not hundreds. So the counter counts
pairs of session and tenure, in one HyperLogLog per project and hour (exact for small numbers,
within a percent for large ones). Pairs stay in memory until the next tick of maintenance: a refused
claim causes no extra call, and a crash loses only a statistic.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Callable

from dibs.model import Claim, Project
from dibs.store.redis.failures import Damaged, StoreFull
from dibs.store.redis.link import Link

HOUR_MS = 3_600_000
HOURS = 24
_KEPT_MS = (HOURS + 2) * HOUR_MS
_WAITING_MOST = 2_000
"""Most pairs of one project between two flushes; further ones are not counted."""
_KNOWN_MOST = 20_000


class CollisionCounter:
    """Avoided collisions of the last 24 hours, per project."""

    def __init__(self, link: Link, keys: Callable[[Project], str]) -> None:
        """`keys` returns the prefix of a project's keys."""
        self._link, self._keys = link, keys
        self._waiting: dict[Project, set[str]] = {}
        self._known: OrderedDict[tuple[Project, str], None] = OrderedDict()

    def avoided(self, project: Project, session: str, claim: Claim) -> None:
        """Count a refusal of `session` (its hash) because of `claim`."""
        pair = f"{session[:16]} {claim.fence} {claim.task}"
        if (project, pair) in self._known:
            return
        waiting = self._waiting.setdefault(project, set())
        if len(waiting) < _WAITING_MOST:
            waiting.add(pair)
            self._known[project, pair] = None
            if len(self._known) > _KNOWN_MOST:
                self._known.popitem(last=False)

    async def flush(self, now_ms: int) -> None:
        """Write the waiting pairs to the store. Raises StoreDown; the pairs are then lost."""
        waiting, self._waiting = self._waiting, {}
        with contextlib.suppress(StoreFull, Damaged):
            for project, pairs in waiting.items():
                key = self._key(project, now_ms // HOUR_MS)
                await self._link.command("PFADD", key, *pairs)
                await self._link.command("PEXPIRE", key, _KEPT_MS)

    async def count(self, project: Project, now_ms: int) -> int:
        """Return the avoided collisions of the last 24 hours, the current one included."""
        hour = now_ms // HOUR_MS
        keys = [self._key(project, hour - ago) for ago in range(HOURS)]
        return int(await self._link.command("PFCOUNT", *keys))

    def _key(self, project: Project, hour: int) -> str:
        return f"{self._keys(project)}:avoided:{hour}"
