"""The settings and state that a server of the store reports.

Managed stores hide CONFIG, and users with few rights may be refused INFO as well. So each fact is
taken from any source that has it; a fact without a source is '' here: unknown, and never guessed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis.exceptions import ResponseError

from dibs.store.redis.failures import Withheld
from dibs.store.redis.link import Link

_SPARES_CLAIMS = re.compile(r"noeviction|volatile-.+")
"""Policies under which no key without a TTL is thrown away; a claim that is held has none. What
another policy does, one that nobody has thought of yet included, dibs does not wait to see."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """One server, as it shows itself."""

    info: Mapping[str, str]
    """The fields of INFO; none where it is withheld."""
    policy: str
    """maxmemory-policy, '' where nothing shows it."""
    time_us: int
    """The server's wall clock, 0 where nothing shows it."""

    @property
    def run_id(self) -> str:
        """Which run of which server this is; '' where it is not shown."""
        return self.info.get("run_id", "")


async def look(server: Link) -> ServerInfo:
    """Ask a server about itself. Raises StoreDown."""
    info = await info_of(server)
    policy = info.get("maxmemory_policy") or await config_of(server, "maxmemory-policy")
    return ServerInfo(info, policy, number(info, "server_time_usec") or await _time_us(server))


async def info_of(server: Link) -> dict[str, str]:
    """Return the fields of INFO, none where it is withheld. Raises StoreDown."""
    try:
        # Without a section, because not every version takes several.
        text = str(await server.command("INFO"))
    except (Withheld, ResponseError):
        return {}
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in lines if colon}


def number(info: Mapping[str, str], name: str) -> int:
    """Return a field of INFO as a number, 0 where it is not shown as one."""
    text = info.get(name, "")
    return int(text) if text.isdecimal() else 0


async def _time_us(server: Link) -> int:
    try:
        seconds, micros = await server.command("TIME")
        return int(seconds) * 1_000_000 + int(micros)
    except (Withheld, ResponseError, TypeError, ValueError):  # what it lacks is told elsewhere
        return 0


async def config_of(server: Link, name: str) -> str:
    """Return one setting of the server, '' where it is not shown. Raises StoreDown."""
    try:
        flat = await server.command("CONFIG", "GET", name)
    except (Withheld, ResponseError):
        return ""
    return str(flat[1]) if isinstance(flat, list) and len(flat) > 1 else ""


def may_evict_claims(policy: str) -> bool:
    """Return if a store with this policy may throw a live claim away; '' is no policy."""
    return bool(policy) and not _SPARES_CLAIMS.fullmatch(policy.lower())


def unsafe(servers: Sequence[ServerInfo]) -> str:
    """Return the sentence that refuses a store which may throw live claims away, or ''.

    The limit does not matter: another one can be set at any time and evicts at once, and a managed
    store may show 0 for a limit that is its own.
    """
    for server in servers:
        if may_evict_claims(server.policy):
            return (
                "The store may throw live claims away to make room: its maxmemory-policy is "
                f"{server.policy}. Set it to noeviction (CONFIG SET maxmemory-policy noeviction, "
                "or in the provider's settings)."
            )
    return ""


def unfit(servers: Sequence[ServerInfo]) -> str:
    """Return the sentence that refuses a store to begin with, or ''."""
    if any(server.info.get("redis_mode") == "sentinel" for server in servers):
        return "This is a Sentinel, not the store: redis+sentinel://host:26379/SERVICE."
    return unsafe(servers)
