"""Collects the answers of several servers to one request, without waiting for silent ones."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

STRAGGLERS_S = 0.2
"""Seconds to wait for further answers after the first: a slower server may be more up to date."""


async def first_answers(asked: Sequence[asyncio.Task[T]]) -> list[T]:
    """Return the first answer and those that follow within STRAGGLERS_S; cancel the other tasks.

    If every task fails, raise the error of the first one.
    """
    pending: set[asyncio.Task[Any]] = set(asked)
    try:
        while pending and not any(map(_answered, asked)):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending, timeout=STRAGGLERS_S)
        found = [task.result() for task in asked if _answered(task)]
        return found or [asked[0].result()]  # raises its error
    finally:
        for task in asked:
            task.cancel()


def _answered(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
