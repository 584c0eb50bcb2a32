"""Responses to requests that a shutdown cancels; uvicorn would answer them with 500.

Acts with POST under /v1 handle cancellation themselves (fast_path.py).
"""

import asyncio
from typing import Any

from litestar.types import ASGIApp

from dibs.api import errors, headers
from dibs.store import StoreDown

_READS = ("GET", "HEAD")


def answered_at_the_end(app: ASGIApp) -> ASGIApp:
    """Wrap `app`: a request that is cancelled before its response began is answered with 503."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        begun = False

        async def answer(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await app(scope, receive, answer)
        except asyncio.CancelledError:
            if begun:
                raise
            stopping = StoreDown("The service is stopping.", sent=scope["method"] not in _READS)
            reply = errors.answer(scope, stopping)
            await reply.send(send, headers.of_an_act(scope["headers"]))

    return wrapped
