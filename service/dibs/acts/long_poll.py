"""The wait of a claim: it tries again after each event that may free a task."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from dibs import results
from dibs.claims import Claims
from dibs.model import Project, Task
from dibs.store import StoreDown
from dibs.store.broadcast import ShuttingDown, Subscription
from dibs.store.events import CursorExpired

T = TypeVar("T")
_NO_USE = ("claimed", "queued", "parked", "review", "resumed", "revived")
"""Events after which a task that was not free is still not free."""


async def until_granted(
    claims: Claims,
    project: Project,
    tasks: Collection[Task],
    most_s: float,
    ask: Callable[[], Awaitable[T]],
    has_hung_up: Callable[[], bool],
) -> T:
    """Call `ask` until its result is final, `most_s` seconds are over, or the caller `has_hung_up`,
    and return the last result. A claim granted after a hang-up would keep others out for its ttl.

    Only events about one of `tasks` count; without `tasks` all events do. After the first call a
    ticket may stay and a loss may have been reported, so a later failure has an unknown outcome.
    Raises StoreDown.
    """
    until = asyncio.get_running_loop().time() + most_s
    asked = False
    async with claims.broadcaster.listen(project) as subscription:
        while True:
            try:
                result = await ask()
            except StoreDown as down:
                down.sent = down.sent or asked
                raise
            asked = True
            left_s = until - asyncio.get_running_loop().time()
            wait_s = _wait_of(result)
            if wait_s is None or left_s <= 0 or claims.broadcaster.ended:
                return result
            await _something_happens(subscription, tasks, min(left_s, wait_s))
            if has_hung_up():
                return result


def _wait_of(result: object) -> float | None:
    """Return the seconds to the next try at the latest, None if waiting does not help."""
    match result:
        case results.Conflict(refusals):
            waits = [refusal.retry_after_s for refusal in refusals if refusal.retry_after_s]
            if any(refusal.reason == "blocked" for refusal in refusals):
                waits.append(60)
            return min(waits, default=None)  # None: no task frees with time
        case results.NothingReady(retry_after_s=wait_s):
            return wait_s or 60
        case _:
            return None


async def _something_happens(
    subscription: Subscription, tasks: Collection[Task], most_s: float
) -> None:
    """Wait until an event about one of `tasks` or a shutdown, for at most `most_s` seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + most_s
    while (left_s := until - loop.time()) > 0:
        try:
            events = await subscription.get(left_s)
        except (CursorExpired, ShuttingDown):
            return
        if any((not tasks or e.task in tasks) and e.type not in _NO_USE for e in events):
            return
