"""Admission control: no number of requests keeps a holder waiting for long.

A process has one thread, so a heartbeat waits for the next step of every request in progress.
Therefore only a few acts start at a time, those of known holders first, and new requests are read
in between. Reads cost more: only a few are in progress at a time, and a bounded number waits. The
service checks the store's health a few times a second for all callers, and computes the metrics
once for all callers that wait for them at the same time.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Any

from litestar.types import ASGIApp

from dibs.api import errors, headers
from dibs.api.access import TURN_OVER
from dibs.metrics import Metrics
from dibs.problems import ProblemError

BEGUN_MOST = 32
"""Acts that begin before the process reads the requests that arrived meanwhile."""
HOLDERS_KNOWN = 20_000
"""Sessions remembered as holders at most; only their hashes are kept."""
READS_AT_ONCE = 4
READS_WAITING = 256
"""Reads that may wait; any further read is refused."""
HEALTH_KEPT_S = 0.2
_HEALTH = ("/livez", "/readyz")
_TOTALS = "/metrics"


class Pace:
    """A limit on how many acts begin in one round of the event loop, with two queues."""

    def __init__(self, a_round: int) -> None:
        self._a_round, self._begun, self._counted = a_round, 0, False
        self._first: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    def count(self) -> bool:
        """Count one more act; return whether it may begin in this round."""
        self._begun += 1
        # The end of a round does not matter until half of its acts have begun.
        if not self._counted and self._begun > self._a_round // 2:
            self._counted = True
            asyncio.get_running_loop().call_soon(self._next_round)
        return self._begun <= self._a_round

    async def wait(self, *, first: bool) -> None:
        """Wait for a later round; with `first`, ahead of all that wait without it."""
        turn = asyncio.get_running_loop().create_future()
        (self._first if first else self._others).append(turn)
        await turn

    def _next_round(self) -> None:
        self._begun = 0
        while self._begun < self._a_round and (queue := self._first or self._others):
            self._begun += 1
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
        self._counted = self._begun > 0
        if self._counted:
            asyncio.get_running_loop().call_soon(self._next_round)


class Holders:
    """Known holders: sessions whose acts succeeded and that are not rate-limited."""

    def __init__(self, most: int = HOLDERS_KNOWN) -> None:
        self._most = most
        self._known: OrderedDict[int, None] = OrderedDict()

    def has(self, session: bytes) -> bool:
        """Return whether a session is a known holder."""
        return hash(session) in self._known

    def heard(self, session: bytes, status: int) -> None:
        """Learn from the status of a response. A session that is rate-limited counts as no holder
        until a call of it succeeds."""
        one = hash(session)
        if status in (200, 201):
            self._known[one] = None
            self._known.move_to_end(one)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        elif status == 429:
            self._known.pop(one, None)


class Admission:
    """A limit on concurrent requests, first come first served; a bounded number waits."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._left = waiting

    async def take(self) -> None:
        """Wait for a turn. Raises `unavailable` if too many wait."""
        if not self._left:
            raise ProblemError(
                "unavailable",
                "Too many clients read from this service at the moment; claims and heartbeats are "
                "not affected. Nothing was changed. Ask again in a second.",
                retry_after=1,
            )
        self._left -= 1
        try:
            await self._free.acquire()
        finally:
            self._left += 1

    def give(self) -> None:
        """End a turn, so that the next request begins."""
        self._free.release()


def in_turn(app: ASGIApp, metrics: Metrics) -> ASGIApp:
    """Wrap `app`: a request begins when its turn comes. The turn ends when its response begins, or
    earlier if the request only waits (`TURN_OVER`)."""
    turns = Admission(READS_AT_ONCE, READS_WAITING)

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] in (*_HEALTH, _TOTALS):  # callers share these: see `shared`
            await app(scope, receive, send)
            return
        try:
            await turns.take()
        except ProblemError as problem:
            metrics.add("dibs_reads_refused_total")
            reply = errors.answer(scope, problem)
            await reply.send(send, headers.of_an_act(scope["headers"]))
            return
        is_over = False

        def over() -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                turns.give()

        async def answer(message: Any) -> None:
            over()
            await send(message)

        scope[TURN_OVER] = over
        try:
            if not has_hung_up(receive):
                await app(scope, receive, answer)
        finally:
            over()

    return wrapped


def has_hung_up(receive: Any) -> bool:
    """Return whether the caller has hung up: `receive` is a method of uvicorn's request, which
    knows."""
    return bool(getattr(getattr(receive, "__self__", None), "disconnected", False))


def shared(app: ASGIApp) -> ASGIApp:
    """Wrap `app`: requests for health share one response for HEALTH_KEPT_S, and concurrent requests
    for the metrics share one."""
    kept: dict[str, tuple[float, asyncio.Future[list[Any]]]] = {}

    async def totals(scope: Any, receive: Any) -> list[Any]:
        await asyncio.sleep(0)
        del kept[_TOTALS]  # requests from now on get newer metrics
        return await _messages(app, scope, receive)

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        path, loop = scope["path"], asyncio.get_running_loop()
        common = path in (*_HEALTH, _TOTALS) and scope["method"] == "GET"
        if not common or scope["query_string"]:
            await app(scope, receive, send)
            return
        scope["path_template"] = path  # as the framework would set it, for telemetry
        asked, answer = kept.get(path, (0.0, None))
        if answer is None or (path in _HEALTH and loop.time() - asked > HEALTH_KEPT_S):
            how = totals(scope, receive) if path == _TOTALS else _messages(app, scope, receive)
            answer = asyncio.ensure_future(how)
            kept[path] = loop.time(), answer
        for message in await asyncio.shield(answer):
            await send(message)

    return wrapped


async def _messages(app: ASGIApp, scope: Any, receive: Any) -> list[Any]:
    messages: list[Any] = []

    async def keep(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, keep)
    return messages
