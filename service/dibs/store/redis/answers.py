"""Several are asked the same at once, and one that says nothing holds nobody up."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

STRAGGLERS_S = 0.2
"""After the first answer the others are waited for so long: one of them may know more."""


async def first_answers(asked: Sequence[asyncio.Task[T]]) -> list[T]:
    """Return what those say that answer first, or soon after the first; the others are let go of.

    Raises what one of them did where none answers.
    """
    pending: set[asyncio.Task[Any]] = set(asked)
    try:
        while pending and not any(map(_answered, asked)):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending, timeout=STRAGGLERS_S)
        found = [task.result() for task in asked if _answered(task)]
        return found or [asked[0].result()]  # raises why
    finally:
        for task in asked:
            task.cancel()


def _answered(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
