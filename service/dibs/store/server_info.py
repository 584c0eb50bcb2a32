"""The settings and state that a server of the store reports.

Managed stores hide CONFIG, and a user with few rights may be refused INFO as well. So dibs takes
each fact from any source that has it. A fact without a source is '': unknown, never guessed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis.exceptions import ResponseError

from dibs.store.redis.failures import Withheld
from dibs.store.redis.link import Link

_SPARES_CLAIMS = re.compile(r"noeviction|volatile-.+")
"""Policies that never evict a key without a TTL; a held claim has none. Any other policy counts as
unsafe, future ones included."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The information that one server reports about itself."""

    info: Mapping[str, str]
    """The fields of INFO; empty where INFO is withheld."""
    policy: str
    """maxmemory-policy; '' where the server does not show it."""
    time_us: int
    """The server's wall clock; 0 where the server does not show it."""

    @property
    def run_id(self) -> str:
        """The id of this run of the server; '' where the server does not show it."""
        return self.info.get("run_id", "")


async def look(server: Link) -> ServerInfo:
    """Read a server's information. Raises StoreDown."""
    info = await info_of(server)
    policy = info.get("maxmemory_policy") or await config_of(server, "maxmemory-policy")
    return ServerInfo(info, policy, number(info, "server_time_usec") or await _time_us(server))


async def info_of(server: Link) -> dict[str, str]:
    """Return the fields of INFO, or {} where INFO is withheld. Raises StoreDown."""
    try:
        # Without sections, because some versions accept only one.
        text = str(await server.command("INFO"))
    except (Withheld, ResponseError):
        return {}
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in lines if colon}


def number(info: Mapping[str, str], name: str) -> int:
    """Return a field of INFO as a number, 0 where it is missing or not a number."""
    text = info.get(name, "")
    return int(text) if text.isdecimal() else 0


async def _time_us(server: Link) -> int:
    try:
        seconds, micros = await server.command("TIME")
        return int(seconds) * 1_000_000 + int(micros)
    except (Withheld, ResponseError, TypeError, ValueError):  # selftest.py reports it
        return 0


async def config_of(server: Link, name: str) -> str:
    """Return one setting of the server, '' where it is withheld. Raises StoreDown."""
    try:
        flat = await server.command("CONFIG", "GET", name)
    except (Withheld, ResponseError):
        return ""
    return str(flat[1]) if isinstance(flat, list) and len(flat) > 1 else ""


def may_evict_claims(policy: str) -> bool:
    """Return whether a store with this policy may evict a live claim; '' is an unknown policy."""
    return bool(policy) and not _SPARES_CLAIMS.fullmatch(policy.lower())


def unsafe(servers: Sequence[ServerInfo]) -> str:
    """Return the reason to refuse a store that may evict live claims, in a sentence, or ''.

    maxmemory does not matter: an operator can lower it at any time, and the store then evicts at
    once. A managed store may also show 0 although it has a limit.
    """
    for server in servers:
        if may_evict_claims(server.policy):
            return (
                "The store may evict live claims to free memory: its maxmemory-policy is "
                f"{server.policy}. Set it to noeviction (CONFIG SET maxmemory-policy noeviction, "
                "or in the provider's settings)."
            )
    return ""


def unfit(servers: Sequence[ServerInfo]) -> str:
    """Return the reason to refuse a store at start, in a sentence, or ''."""
    if any(server.info.get("redis_mode") == "sentinel" for server in servers):
        return "This is a Sentinel, not the store: use redis+sentinel://host:26379/SERVICE."
    return unsafe(servers)
