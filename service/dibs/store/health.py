"""Checks the durability of the store: the store itself reports it, dibs never assumes it."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dibs.store.redis.failures import Moving, SlotMoved, StoreDown, Unwilling
from dibs.store.redis.link import ClientLink, Link
from dibs.store.server_info import ServerInfo, config_of, info_of, look, number, unsafe

Durability = Literal["strict", "replicated", "relaxed", "unknown"]
READY_S = 2.0
_KEYS_TRIED = 100
_WORSE: list[Durability] = ["strict", "replicated", "unknown", "relaxed"]
LAG_S = 2
"""Greatest lag, in seconds, of a replica that counts. A replica that follows acknowledges once a
second; one that was silent for longer would confirm nothing."""


@dataclass(frozen=True, slots=True)
class Health:
    """The state of the store that /readyz shows.

    `durability` is strict when an acknowledged claim survives a crash, replicated when it survives
    a failover.
    """

    status: Literal["ready", "full"]
    """full: new claims are refused for lack of memory or disk; existing claims continue."""
    durability: Durability
    server: str
    reasons: list[str] = field(default_factory=list)
    """The reasons why the store is full, and why durability is not strict, in sentences."""


async def check(link: Link) -> Health:
    """Read the configuration of every server of the store. Raises StoreDown if one is unfit."""
    if isinstance(link, ClientLink):
        return Health("ready", "relaxed", "in memory", [link.why_relaxed])
    try:
        async with asyncio.timeout(READY_S):
            found = await asyncio.gather(*map(_check, await link.servers()))
    except TimeoutError:
        raise StoreDown("The store does not answer.", sent=False) from None
    reasons = list(dict.fromkeys(reason for health in found for reason in health.reasons))
    worst = max((health.durability for health in found), key=_WORSE.index)
    if link.why_relaxed and worst != "replicated":
        reasons.append(link.why_relaxed)
        worst = max(worst, "relaxed", key=_WORSE.index)
    names = list(dict.fromkeys(health.server for health in found))
    count = f"{len(found)} × " if len(found) > 1 else ""
    status = max((health.status for health in found), key=("ready", "full").index)
    return Health(status, worst, count + ", ".join(names), reasons)


async def _check(server: Link) -> Health:
    seen = await look(server)
    if seen.info.get("role", "master") not in ("master", "primary"):
        raise StoreDown("The store is a replica and accepts no writes.", sent=False)
    if refusal := unsafe([seen]):
        raise Unwilling(refusal)
    await _check_clock(server)
    await _check_writes(server)
    log = seen.info.get("aof_enabled", "") or await config_of(server, "appendonly")
    synced = await config_of(server, "appendfsync")
    replicas = await _of_replicas(server, seen.info)
    weak = [*_of_the_log(seen.info, log, synced), *replicas]
    unknown = _not_shown(seen, log, synced)
    durability: Durability = "relaxed" if weak else "unknown" if unknown else "strict"
    if server.replicas and not replicas:
        durability = "replicated"  # replicas make up for a weak log; `reasons` still has it
    full = _of_memory(seen.info)
    reasons = [*full, *weak, *unknown]
    return Health("full" if full else "ready", durability, _name(seen.info), reasons)


def _name(info: Mapping[str, str]) -> str:
    """Return the server's name and version, or as much of them as it shows."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '')}".strip() if info else "not shown"


def _of_memory(info: Mapping[str, str]) -> list[str]:
    used, limit = number(info, "used_memory"), number(info, "maxmemory")
    if limit == 0 or used < limit:
        return []
    return [
        f"The store is at its memory limit, {limit} bytes: new claims are refused, existing "
        "claims continue."
    ]


def _of_the_log(info: Mapping[str, str], log: str, synced: str) -> list[str]:
    reasons = []
    if log in ("0", "no"):
        reasons.append("The store keeps no append-only file: a crash loses claims.")
    elif synced not in ("", "always"):
        reasons.append(f"appendfsync is {synced}, not always: a crash loses the last seconds.")
    if info.get("aof_last_write_status", "ok") != "ok":
        reasons.append("The store's last write to its append-only file failed.")
    return reasons


async def _of_replicas(server: Link, info: Mapping[str, str]) -> list[str]:
    if server.replicas:
        _, enough = await server.replicated("PING")  # WAITs for the replicas to have all writes
        following = _following(info)
        if enough and following >= server.replicas:
            return []
        return [
            f"DIBS_REPLICAS is {server.replicas}, and {following} of the store's replicas are in "
            "sync: claims and releases fail with 503 until enough of them are."
        ]
    if number(info, "connected_slaves") == 0:
        return []
    return ["The store has replicas: if one of them takes over, the last claims may be lost."]


def _following(info: Mapping[str, str]) -> int:
    """Count the replicas that follow, by INFO's lines `slave0:ip=…,state=online,…,lag=0`."""
    count = 0
    for name, value in info.items():
        if re.fullmatch(r"slave\d+", name):
            told = dict(pair.partition("=")[::2] for pair in value.split(","))
            lag = told.get("lag", "")
            count += told.get("state") == "online" and lag.isdecimal() and int(lag) <= LAG_S
    return count


def _not_shown(seen: ServerInfo, log: str, synced: str) -> list[str]:
    """Return the facts that the store does not show, in sentences."""
    reasons = []
    if not seen.policy:
        reasons.append(
            "The store does not report whether it evicts keys: set maxmemory-policy to noeviction, "
            "or a full store may evict live claims."
        )
    if not log or not synced:
        reasons.append("The store does not report its configuration (CONFIG GET appendfsync).")
    if not seen.run_id:
        reasons.append(
            "The store does not report its run id (INFO): dibs does not notice a restart of under "
            "5 seconds, and claims get no extra time for it."
        )
    return reasons


async def _check_clock(server: Link) -> None:
    """Raise StoreDown where TIME stands still, as it does in Valkey 9.1.0 on some hosts (#4345)."""
    before = await server.command("TIME")
    await asyncio.sleep(0.005)
    if await server.command("TIME") == before:
        raise StoreDown(
            "The store's clock does not advance: no claim would ever lapse.", sent=False
        )


async def _check_writes(server: Link) -> None:
    """Raise StoreDown where the server refuses writes; the test write changes nothing.

    A node of a cluster accepts only keys of its own slots, so the check tries several keys until
    the node accepts one.
    """
    for tried in range(_KEYS_TRIED):
        try:
            await server.command("DEL", f"dibs:{{ready-{tried}}}:nothing")
        except (SlotMoved, Moving):
            continue
        return


async def memory(link: Link) -> tuple[int, int]:
    """Return the memory that the store's servers use, and their common limit (0: none), in
    bytes."""
    found = [await info_of(server) for server in await link.servers()]
    used, limit = (
        sum(number(info, name) for info in found) for name in ("used_memory", "maxmemory")
    )
    return used, limit
