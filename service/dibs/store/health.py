"""How well the store keeps what it is told: asked of the store itself, never assumed."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

from redis.exceptions import ResponseError

from dibs.store.link import Link

Durability = Literal["strict", "relaxed", "unknown"]
_EVICTS_CLAIMS = ("allkeys-lru", "allkeys-lfu", "allkeys-random", "allkeys-lrm")
READY_S = 2.0


@dataclass(frozen=True, slots=True)
class Health:
    """What /readyz shows. `durability` is strict when an acknowledged claim survives a crash."""

    status: str
    durability: Durability
    server: str
    reasons: list[str] = field(default_factory=list)
    """Why durability is not strict, in sentences."""


async def check(link: Link) -> Health:
    """Ask the store for its configuration. Raises StoreDown."""
    try:
        info = _parse(await asyncio.wait_for(link.command("INFO"), READY_S))
    except ResponseError:
        return Health("ready", "relaxed", "in memory", ["Claims are kept in this process only."])
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "")
    reasons = _roles(info)
    durability: Durability = "strict"
    try:
        config = {
            key: (await link.command("CONFIG", "GET", key))[1]
            for key in ("appendonly", "appendfsync", "maxmemory-policy", "maxmemory")
        }
    except (ResponseError, IndexError):
        return Health(
            "ready",
            "unknown",
            f"{name} {version}",
            [*reasons, "The store does not show its configuration."],
        )
    if config["appendonly"] != "yes":
        reasons.append("The store keeps no append-only file: a crash loses claims.")
    elif config["appendfsync"] != "always":
        reasons.append(
            f"appendfsync is {config['appendfsync']}, not always: a crash loses the last seconds."
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        reasons.append("The store could not write its append-only file lately.")
    if config["maxmemory-policy"] != "noeviction" and config["maxmemory"] != "0":
        reasons.append(
            f"maxmemory-policy is {config['maxmemory-policy']}: a full store throws records away."
        )
    if reasons:
        durability = "relaxed"
    return Health("ready", durability, f"{name} {version}", reasons)


async def evicts_claims(link: Link) -> str | None:
    """Return the sentence that refuses a store which may throw live claims away, or None."""
    try:
        policy = (await link.command("CONFIG", "GET", "maxmemory-policy"))[1]
        limit = (await link.command("CONFIG", "GET", "maxmemory"))[1]
    except (ResponseError, IndexError):
        return None
    if policy in _EVICTS_CLAIMS and limit != "0":
        return (
            f"The store evicts any key when it is full (maxmemory-policy {policy}), live claims "
            "among them. Set it to noeviction: CONFIG SET maxmemory-policy noeviction."
        )
    return None


def _roles(info: dict[str, str]) -> list[str]:
    reasons = []
    if info.get("role", "master") not in ("master", "primary"):
        reasons.append("The store is a replica: it takes no claims.")
    if int(info.get("connected_slaves", "0")) > 0:
        reasons.append(
            "The store has replicas: if one of them takes over, the last claims may be lost."
        )
    if info.get("cluster_enabled", "0") == "1":
        reasons.append("The store is a cluster: a failover may lose the last claims.")
    return reasons


def _parse(info: Any) -> dict[str, str]:
    lines = str(info).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
