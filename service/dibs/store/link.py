"""The wire to the store: concurrent calls leave together, and every failure says if it was sent.

Calls that are made while a batch is on its way wait for the next one. So a busy service talks to
its store in few, large pipelines, and `appendfsync always` costs one fsync for a whole batch.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from math import inf
from time import perf_counter
from typing import Any, Protocol, cast

from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.exceptions import (
    AskError,
    AuthenticationError,
    MovedError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from dibs.store.rules import Rules

TIMEOUT_S = 1.0
"""For connecting and for each answer. The library's defaults (5 s, ten retries) would hang a caller
for the better part of a minute and run a script eleven times."""
CONNECTION = {
    "protocol": 2,
    "decode_responses": True,
    "socket_timeout": TIMEOUT_S,
    "socket_connect_timeout": TIMEOUT_S,
    "retry": None,
}
TCP = {"socket_keepalive": True}
BATCH = 128
"""Calls that leave together at most, so that the first of them does not wait for thousands."""
FLIGHTS = 2
"""Batches on their way at once: one being answered, one being written."""

_AWAY = (
    "READONLY",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "MISCONF",
    "BUSY",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
)
_LOST = (RedisConnectionError, RedisTimeoutError, OSError, asyncio.TimeoutError)


class StoreDown(Exception):
    """The store cannot answer. `sent`: the call may have taken effect all the same."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class Moved(StoreDown):
    """Another node of the cluster serves this key now."""


class StoreFull(Exception):
    """The store is at its memory limit and refused to grow; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file with the rules and the common part in front."""

    name: str
    text: str
    sha: str

    @classmethod
    def load(cls, name: str, rules: Rules | None = None) -> "Script":
        """Read `name`.lua; with `rules`, put them and common.lua in front of it."""
        folder = resources.files("dibs.store") / "lua"
        text = (folder / f"{name}.lua").read_text("utf-8")
        if rules is not None:
            text = rules.lua() + (folder / "common.lua").read_text("utf-8") + text
        return cls(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Link(Protocol):
    """Something that carries one command to the store and brings back its answer."""

    observe: Callable[[float], None]
    """Hears how many seconds each batch took that was answered."""
    why_relaxed: str
    """Why this kind of store may lose an acknowledged claim, in a sentence; or ''."""

    async def command(self, *parts: str | int) -> Any:
        """Run one command. Raises StoreDown, StoreFull, or ResponseError for a bug of ours."""
        ...

    async def servers(self) -> "Sequence[Link]":
        """Return a link to each server that takes claims: one, or the primaries of a cluster."""
        ...

    async def close(self) -> None:
        """Drop the connections."""
        ...


async def run_script(link: Link, script: Script, key: str, args: Sequence[str]) -> list[Any]:
    """Run `script` on `key`, loading it where the store does not know it (a restart, a flush)."""
    try:
        reply = await link.command("EVALSHA", script.sha, 1, key, *args)
    except NoScriptError:
        reply = await link.command("EVAL", script.text, 1, key, *args)
    return cast(list[Any], reply)


def _failure(error: Exception, *, sent: bool) -> Exception:
    """Name what a failed command means to the caller."""
    if isinstance(error, NoScriptError):
        return error
    if isinstance(error, MovedError):
        return Moved("The store serves this project elsewhere now.", sent=False)
    if isinstance(error, AskError):
        # Never followed: half of the project's keys are here and half there, so that a script
        # there would find tasks free that are held.
        return StoreDown("The store is moving this project to another node.", sent=False)
    if isinstance(error, ResponseError | AuthenticationError):
        # The client takes the code off the sentences of some errors and not of others.
        code = getattr(error, "status_code", None) or str(error).split(" ", 1)[0]
        if code == "OOM":
            return StoreFull(str(error))
        if code == "LOADING":
            return StoreDown("The store is loading its data.", sent=False)
        if code in _AWAY:
            return StoreDown(f"The store refuses for now: {code}.", sent=False)
    if isinstance(error, _LOST):
        late = isinstance(error, RedisTimeoutError | TimeoutError)
        word = "does not answer" if late else "cannot be reached"
        return StoreDown(f"The store {word}.", sent=sent)
    return error


def keepalive(url: str) -> dict[str, bool]:
    """Return the options that only a connection by TCP has."""
    return {} if url.startswith("unix:") else TCP


class PipelineLink:
    """A link to one server, with coalesced batches."""

    why_relaxed = ""

    def __init__(self, pool: ConnectionPool) -> None:
        self.observe: Callable[[float], None] = lambda seconds: None
        self._pool = pool
        self._waiting: deque[tuple[bytes, asyncio.Future[Any]]] = deque()
        self._flights: set[asyncio.Task[None]] = set()
        self._flying = 0

    @classmethod
    def to(cls, url: str) -> "PipelineLink":
        """Return a link to the server at `url`; nothing is connected yet."""
        options: Any = CONNECTION | keepalive(url)
        return cls(BlockingConnectionPool.from_url(url, max_connections=FLIGHTS + 1, **options))

    @classmethod
    def to_host(cls, host: str, port: int, options: Mapping[str, Any]) -> "PipelineLink":
        """Return a link to one of several servers that are connected to alike."""
        given: Any = CONNECTION | TCP | {"host": host, "port": port} | dict(options)
        return cls(BlockingConnectionPool(max_connections=FLIGHTS + 1, **given))

    async def command(self, *parts: str | int) -> Any:
        """See Link. A caller that is cancelled leaves its command running; nothing is torn."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((pack_command(parts), answer))  # type: ignore[arg-type]
        if self._flying < FLIGHTS:
            self._flying += 1
            flight = asyncio.create_task(self._fly())
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)
        return await answer

    async def _fly(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                try:
                    replies = await self._carry([command for command, _ in batch])
                except Exception as error:  # noqa: BLE001 - handed to every caller of the batch
                    replies = [error] * len(batch)
                for (_, answer), reply in zip(batch, replies, strict=True):
                    if answer.done():
                        continue
                    if isinstance(reply, Exception):
                        answer.set_exception(_failure(reply, sent=False))
                    else:
                        answer.set_result(reply)
        finally:
            # Here, and not when the task is seen to be done: a command that came in between would
            # wait for a flight that takes nobody any more.
            self._flying -= 1

    async def _carry(self, commands: list[bytes]) -> list[Any]:
        try:
            connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        except (RedisError, *_LOST) as error:
            raise _failure(error, sent=False) from error
        try:
            began = perf_counter()
            await connection.send_packed_command(b"".join(commands), check_health=False)
            replies: list[Any] = []
            now = asyncio.get_running_loop().time
            async with asyncio.timeout(TIMEOUT_S) as patience:  # one, moved on; not one for each
                for _ in commands:
                    try:
                        replies.append(await connection.read_response(timeout=inf))
                    except ResponseError as error:
                        replies.append(error)
                    patience.reschedule(now() + TIMEOUT_S)
            self.observe(perf_counter() - began)
            return replies
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, _LOST):
                raise _failure(error, sent=True) from error
            raise
        finally:
            await self._pool.release(connection)

    async def servers(self) -> list[Link]:
        """See Link."""
        return [self]

    async def ask(self, question: Awaitable[Any]) -> Any:
        """Await something else that is asked of the store's servers, with the same failures."""
        try:
            return await question
        except (RedisError, *_LOST) as error:
            raise _failure(error, sent=False) from error

    def drop(self) -> None:
        """Close without waiting for anybody."""
        closing = asyncio.create_task(self.close())
        self._flights.add(closing)
        closing.add_done_callback(self._flights.discard)

    async def close(self) -> None:
        """See Link."""
        await self._pool.aclose()


class ClientLink:
    """A link through a whole redis-py client, a command at a time: for the fake."""

    why_relaxed = ""

    def __init__(self, client: Redis) -> None:
        self.observe: Callable[[float], None] = lambda seconds: None
        self._client = client
        # The client would turn some replies into dicts; both links give what the server said.
        client.response_callbacks.clear()

    async def command(self, *parts: str | int) -> Any:
        """See Link."""
        try:
            return await self._client.execute_command(*parts)  # type: ignore[no-untyped-call]
        except RedisError as error:
            raise _failure(error, sent=True) from error

    async def servers(self) -> list[Link]:
        """See Link."""
        return [self]

    async def close(self) -> None:
        """See Link."""
        await self._client.aclose()
