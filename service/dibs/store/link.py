"""A link carries commands to the store and brings back their answers.

All calls share one connection (see connection.py); every failure says if the command was sent.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.exceptions import NoScriptError, RedisError

from dibs.store.channel import Channel, ReplicatedChannel
from dibs.store.connection import Connection, Observe
from dibs.store.endpoint import Endpoint, endpoint
from dibs.store.failures import failure
from dibs.store.rules import Rules

_FOR_DRAGONFLY = "--!df flags=allow-undeclared-keys\n"
"""Elsewhere a comment. Dragonfly lets a script that begins with it build keys of its own."""
_INSIDE = "INSIDE()"
"""Each file is a function in the one that it follows: where that says so, else at its end. A run
makes all functions anew. One that captures a local of the chunk around it searches all that are
captured there; one that captures what that chunk has captured itself does not. So a claim costs a
tenth less."""
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
            for part in reversed(found[1].split(", ")):
                text = _around((folder / part).read_text("utf-8"), text)
        if rules:
            text = rules.fill(text)
        text = _FOR_DRAGONFLY + text
        return cls(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _around(outer: str, inner: str) -> str:
    """Return `outer` with the file that follows it in its place."""
    function = f"(function()\n{inner}\nend)()"
    if _INSIDE in outer:
        return outer.replace(_INSIDE, function)
    return f"{outer}\nreturn {function}"


class Link(Protocol):
    """Something that carries one command to the store and brings back its answer."""

    observe: Observe
    """Hears how many seconds each batch took that was answered."""
    why_relaxed: str
    """Why this kind of store may lose an acknowledged claim, in a sentence; or ''."""
    replicas: int
    """How many replicas have a command's writes before `replicated` answers."""

    async def command(self, *parts: str | int) -> Any:
        """Run one command. Raises StoreDown, StoreFull, or ResponseError for a bug of ours."""
        ...

    async def replicated(self, *parts: str | int) -> tuple[Any, bool]:
        """Run one command; return its answer, and if `replicas` replicas have what it wrote.

        Raises as `command` does.
        """
        ...

    async def servers(self) -> "Sequence[Link]":
        """Return a link to each server that takes claims: one, or the primaries of a cluster."""
        ...

    async def close(self) -> None:
        """Drop the connections."""
        ...


async def run_script(link: Link, script: Script, key: str, args: Sequence[str]) -> list[Any]:
    """Run `script` on `key`, loading it where the store does not know it (a restart, a flush)."""
    reply: list[Any]
    try:
        reply = await link.command("EVALSHA", script.sha, 1, key, *args)
    except NoScriptError:
        reply = await link.command("EVAL", script.text, 1, key, *args)
    return reply


async def run_replicated(
    link: Link, script: Script, key: str, args: Sequence[str]
) -> tuple[list[Any], bool]:
    """Run `script` on `key`; return its reply, and if enough replicas have what it wrote."""
    reply: list[Any]
    try:
        reply, enough = await link.replicated("EVALSHA", script.sha, 1, key, *args)
    except NoScriptError:
        reply, enough = await link.replicated("EVAL", script.text, 1, key, *args)
    return reply, enough


class PipelineLink:
    """A link to one server: all commands on one connection, made when it is first needed."""

    why_relaxed = ""

    def __init__(self, endpoint: Endpoint, replicas: int = 0) -> None:
        """Nothing is connected yet."""
        self.observe: Observe = lambda seconds: None
        self.replicas = replicas
        self.leave: list[Callable[[Endpoint], None]] = []
        """Hear of a server that is not the right one any more."""
        self._endpoint = endpoint
        self._plain = Channel(self._open)
        self._replicated = ReplicatedChannel(Channel(self._open), replicas)

    @classmethod
    def to(cls, url: str) -> "PipelineLink":
        """Return a link to the server at `url`, a redis://, rediss:// or unix:// one."""
        return cls(endpoint(parse_url(url), tls=url.startswith("rediss:")))

    async def locate(self, key: str = "") -> Endpoint:
        """Return the server that takes commands on `key` now. Raises StoreDown."""
        return self._endpoint

    async def _open(self) -> Connection:
        return await Connection.open(await self.locate(), self._observed)

    def _observed(self, seconds: float) -> None:
        self.observe(seconds)

    async def command(self, *parts: str | int) -> Any:
        """See Link. A caller that is cancelled leaves its command running; nothing is torn."""
        return await self._plain.ask(*parts)

    async def replicated(self, *parts: str | int) -> tuple[Any, bool]:
        """See Link."""
        if not self.replicas:
            return await self._plain.ask(*parts), True
        return await self._replicated.command(*parts)

    async def servers(self) -> list[Link]:
        """See Link."""
        return [self]

    def drop(self) -> None:
        """Give up the connections: the server is not the right one any more."""
        self._plain.drop()
        self._replicated.drop()

    async def close(self) -> None:
        """See Link."""
        await self._plain.close()
        await self._replicated.close()


class ClientLink:
    """A link through a whole redis-py client, a command at a time: for the fake."""

    why_relaxed = "Claims are kept in this process only."
    replicas = 0

    def __init__(self, client: Redis) -> None:
        self.observe: Observe = lambda seconds: None
        self._client = client
        # The client would turn some replies into dicts; both links give what the server said.
        client.response_callbacks.clear()

    async def command(self, *parts: str | int) -> Any:
        """See Link."""
        try:
            return await self._client.execute_command(*parts)  # type: ignore[no-untyped-call]
        except RedisError as error:
            raise failure(error, sent=True) from error

    async def replicated(self, *parts: str | int) -> tuple[Any, bool]:
        """See Link."""
        return await self.command(*parts), True

    async def servers(self) -> list[Link]:
        """See Link."""
        return [self]

    async def close(self) -> None:
        """See Link."""
        await self._client.aclose()
