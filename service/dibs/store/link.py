"""The wire to the store: concurrent calls leave together, and every failure says if it was sent.

All calls share one connection. What is asked while the store is busy it finds waiting as one
pipeline, so that `appendfsync always` costs one fsync for all of it.
"""

import asyncio
import contextlib
import hashlib
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol, cast

from hiredis import Reader, pack_command
from redis._parsers import BaseParser
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from dibs.store.failures import LOST, failure
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
CONNECTIONS = 2
"""One carries all; while it is given up another may be made."""

_FOLLOWS = re.compile(r"^-- Follows (.+)\.$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file with those in front that it says it follows, and the rules filled in."""

    name: str
    text: str
    sha: str

    @classmethod
    def load(cls, name: str, rules: Rules | None = None) -> "Script":
        """Read `name`.lua and what it follows."""
        folder = resources.files("dibs.store") / "lua"
        text = (folder / f"{name}.lua").read_text("utf-8")
        if found := _FOLLOWS.search(text):
            parts = [(folder / part).read_text("utf-8") for part in found[1].split(", ")]
            text = "".join([*parts, text])
        if rules:
            text = rules.fill(text)
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


def keepalive(url: str) -> dict[str, bool]:
    """Return the options that only a connection by TCP has."""
    return {} if url.startswith("unix:") else TCP


class _Line(asyncio.Protocol):
    """One connection: commands leave as they come, and are answered in that order.

    The library connects and logs in; then its transport is ours. Its own way of sending is a task
    or two later, by when 30 callers have come together who were answered together, and store and
    service wait for one another; its way of reading wakes a task for each answer. Without them
    there are a fifth more claims a second (docs/performance.md).
    """

    def __init__(self, connection: AbstractConnection, observe: Callable[[float], None]) -> None:
        self.lost = asyncio.Event()
        self._observe = observe
        self._now = asyncio.get_running_loop().time
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._heard_s = 0.0
        self._patience: asyncio.TimerHandle | None = None
        self._replies = Reader(
            protocolError=RedisConnectionError, replyError=BaseParser.parse_error, encoding="utf-8"
        )
        self._transport: Any = connection._writer.transport  # type: ignore[union-attr]
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self.end(RedisConnectionError())

    def send(self, command: bytes, answer: asyncio.Future[Any]) -> None:
        """Send a command at once; its answer comes later."""
        at_s = self._now()
        self._asked.append((answer, at_s))
        if self._patience is None:
            self._wait_until(at_s + TIMEOUT_S)
        try:
            self._transport.write(command)
        except Exception:  # noqa: BLE001 - closed, and nobody was told yet
            self.end(RedisConnectionError())

    def data_received(self, data: bytes) -> None:
        """Hand on each answer that is here whole."""
        self._replies.feed(data)
        try:
            while (reply := self._replies.gets()) is not False:
                self._answer(reply)
        except Exception as error:  # noqa: BLE001 - handed to every caller who waits
            self.end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits."""
        self.end(exc or RedisConnectionError())

    def _answer(self, reply: Any) -> None:
        answer, at_s = self._asked.popleft()
        self._heard_s = self._now()
        if not self._asked or self._asked[0][1] != at_s:  # the last of those that left together
            self._observe(self._heard_s - at_s)
        if answer.done():
            return
        if isinstance(reply, Exception):
            answer.set_exception(failure(reply, sent=False))
        else:
            answer.set_result(reply)

    def _wait_until(self, due_s: float) -> None:
        self._patience = asyncio.get_running_loop().call_at(due_s, self._look)

    def _look(self) -> None:
        """End a connection on which nothing was heard for too long though something was asked."""
        self._patience = None
        if self._asked:
            due_s = max(self._asked[0][1], self._heard_s) + TIMEOUT_S
            if due_s > self._now():
                self._wait_until(due_s)
            else:
                self.end(TimeoutError())

    def end(self, error: Exception) -> None:
        """Give up the connection: what was asked may have been done."""
        self.lost.set()
        if self._patience:
            self._patience.cancel()
        asked, self._asked = self._asked, deque()
        for answer, _ in asked:
            if not answer.done():
                answer.set_exception(failure(error, sent=True))


class PipelineLink:
    """A link to one server: all commands on one connection, made when it is first needed."""

    why_relaxed = ""

    def __init__(self, pool: ConnectionPool) -> None:
        self.observe: Callable[[float], None] = lambda seconds: None
        self._pool = pool
        self._line: _Line | None = None
        self._waiting: deque[tuple[bytes, asyncio.Future[Any]]] = deque()
        self._connected: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def to(cls, url: str) -> "PipelineLink":
        """Return a link to the server at `url`; nothing is connected yet."""
        options: Any = CONNECTION | keepalive(url)
        return cls(BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, **options))

    @classmethod
    def to_host(cls, host: str, port: int, options: Mapping[str, Any]) -> "PipelineLink":
        """Return a link to one of several servers that are connected to alike."""
        given: Any = CONNECTION | TCP | {"host": host, "port": port} | dict(options)
        return cls(BlockingConnectionPool(max_connections=CONNECTIONS, **given))

    async def command(self, *parts: str | int) -> Any:
        """See Link. A caller that is cancelled leaves its command running; nothing is torn."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        packed = pack_command(parts)  # type: ignore[arg-type]
        if self._line and not self._line.lost.is_set():
            self._line.send(packed, answer)
        else:
            self._waiting.append((packed, answer))
            if self._connected is None or self._connected.done():
                self._connected = asyncio.create_task(self._connect())
        return await answer

    async def _connect(self) -> None:
        """Send what waits on a new connection, and hold it until it is lost; while more waits,
        make another."""
        while self._waiting:
            try:
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            except Exception as error:  # noqa: BLE001 - handed to every caller who waits
                while self._waiting:
                    _, answer = self._waiting.popleft()
                    if not answer.done():
                        answer.set_exception(failure(error, sent=False))
                continue
            line = self._line = _Line(connection, self.observe)
            try:
                while self._waiting and not line.lost.is_set():
                    line.send(*self._waiting.popleft())
                await line.lost.wait()
            finally:
                line.end(RedisConnectionError())
                with contextlib.suppress(*LOST):
                    await connection.disconnect(nowait=True)
                await self._pool.release(connection)

    async def servers(self) -> list[Link]:
        """See Link."""
        return [self]

    async def ask(self, question: Awaitable[Any]) -> Any:
        """Await something else that is asked of the store's servers, with the same failures."""
        try:
            return await question
        except (RedisError, *LOST) as error:
            raise failure(error, sent=False) from error

    def drop(self) -> None:
        """Close without waiting for anybody."""
        self._closing = asyncio.create_task(self.close())

    async def close(self) -> None:
        """See Link."""
        if self._connected:
            self._connected.cancel()
            await asyncio.gather(self._connected, return_exceptions=True)
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
            raise failure(error, sent=True) from error

    async def servers(self) -> list[Link]:
        """See Link."""
        return [self]

    async def close(self) -> None:
        """See Link."""
        await self._client.aclose()
