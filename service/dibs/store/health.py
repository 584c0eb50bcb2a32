"""How well the store keeps what it is told: asked of the store itself, never assumed."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

from redis.exceptions import ResponseError

from dibs.store.failures import StoreDown
from dibs.store.link import Link

Durability = Literal["strict", "relaxed", "unknown"]
_EVICTS_CLAIMS = ("allkeys-lru", "allkeys-lfu", "allkeys-random", "allkeys-lrm")
READY_S = 2.0
_WORSE: list[Durability] = ["strict", "unknown", "relaxed"]


@dataclass(frozen=True, slots=True)
class Health:
    """What /readyz shows. `durability` is strict when an acknowledged claim survives a crash."""

    status: str
    durability: Durability
    server: str
    reasons: list[str] = field(default_factory=list)
    """Why durability is not strict, in sentences."""


async def check(link: Link) -> Health:
    """Ask every server of the store for its configuration. Raises StoreDown if one is unfit."""
    found = await asyncio.gather(*map(_check, await link.servers()))
    reasons = list(dict.fromkeys(reason for health in found for reason in health.reasons))
    if link.why_relaxed:
        reasons.append(link.why_relaxed)
    worst = max((health.durability for health in found), key=_WORSE.index)
    if link.why_relaxed and worst == "strict":
        worst = "relaxed"
    names = list(dict.fromkeys(health.server for health in found))
    count = f"{len(found)} × " if len(found) > 1 else ""
    return Health("ready", worst, count + ", ".join(names), reasons)


async def _check(server: Link) -> Health:
    try:
        info = _parse(await asyncio.wait_for(server.command("INFO"), READY_S))
    except ResponseError:
        return Health("ready", "relaxed", "in memory", ["Claims are kept in this process only."])
    except TimeoutError:
        raise StoreDown("The store does not answer.", sent=False) from None
    if info.get("role", "master") not in ("master", "primary"):
        raise StoreDown("The store is a replica: it takes no claims.", sent=False)
    await _check_clock(server)
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "")
    reasons = _roles(info)
    durability: Durability = "strict"
    try:
        config = {
            key: (await server.command("CONFIG", "GET", key))[1]
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


async def _check_clock(server: Link) -> None:
    """Raise StoreDown where TIME stands still, as it does in Valkey 9.1.0 on some hosts (#4345)."""
    before = await server.command("TIME")
    await asyncio.sleep(0.005)
    if await server.command("TIME") == before:
        raise StoreDown("The store's clock stands still: no claim would ever lapse.", sent=False)


async def memory(link: Link) -> tuple[int, int]:
    """Return how many bytes the store's servers use, and may use together (0: no limit)."""
    used = limit = 0
    for server in await link.servers():
        try:
            info = _parse(await server.command("INFO", "memory"))
        except ResponseError:
            return 0, 0
        used += int(info.get("used_memory", 0))
        limit += int(info.get("maxmemory", 0))
    return used, limit


async def evicts_claims(link: Link) -> str | None:
    """Return the sentence that refuses a store which may throw live claims away, or None."""
    for server in await link.servers():
        if refusal := await _evicts(server):
            return refusal
    return None


async def _evicts(server: Link) -> str | None:
    try:
        policy = (await server.command("CONFIG", "GET", "maxmemory-policy"))[1]
        limit = (await server.command("CONFIG", "GET", "maxmemory"))[1]
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
    if int(info.get("connected_slaves", "0")) > 0:
        reasons.append(
            "The store has replicas: if one of them takes over, the last claims may be lost."
        )
    return reasons


def _parse(info: Any) -> dict[str, str]:
    lines = str(info).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
