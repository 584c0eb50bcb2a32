"""The store's event loop cycles (turns): the shares of scripts and of waiting for the disk."""

import contextlib
from collections.abc import Callable
from typing import Any

import redis

from bench import contenders
from bench.contenders import load
from bench.growth import store_url

SECONDS = 3.0
LANES = (32, 128)


def measure(say: Callable[[str], None]) -> list[dict[str, float]]:
    """Return the cost of a claim in the store and the service, with 32 and 128 connections.

    In µs a claim, from the store's count of its turns and the kernel's processor times. Empty for a
    server that does not count its turns: Redis and Valkey do from 7.2 on.
    """
    found = []
    with contextlib.ExitStack() as held:
        folder = held.enter_context(contenders.folder())
        service = held.enter_context(contenders.dibs("turns", data=folder))
        store = held.enter_context(contextlib.closing(redis.Redis.from_url(store_url(folder))))
        for lanes in LANES:
            say(f"turns of the store on {lanes} connections")
            load(service, "claim", lanes, SECONDS / 3)
            before = _state(store, service.pid)
            result = load(service, "claim", lanes, SECONDS)
            after = _state(store, service.pid)
            if not before or not after:
                return []
            spent = {name: after[name] - before[name] for name in after}
            each = {name: value / result["count"] for name, value in spent.items()}
            found.append(
                {
                    "lanes": lanes,
                    "rate": result["rate"],
                    "a_turn": 1 / each["turns"],
                    "script_us": each["scripts_us"],
                    "other_us": each["store_us"] - each["scripts_us"],
                    "waiting_us": each["turns_us"] - each["store_us"],
                    "service_us": each["service_us"],
                }
            )
    return found


def _state(store: redis.Redis, service: int) -> dict[str, float]:
    info: Any = store.info("everything")
    if "eventloop_cycles" not in info:
        return {}
    return {
        "turns": info["eventloop_cycles"],
        "turns_us": info["eventloop_duration_sum"],
        "scripts_us": info["eventloop_duration_cmd_sum"],
        "store_us": contenders.cpu_s(info["process_id"]) * 1e6,
        "service_us": contenders.cpu_s(service) * 1e6,
    }
