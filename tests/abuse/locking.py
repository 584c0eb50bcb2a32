"""Strangers who try to lock a team out of its own project."""

import itertools
from collections import Counter
from collections.abc import Iterator

from tests.abuse.strangers import (
    STRANGER,
    Target,
    addresses,
    by_whom,
    flood,
    get,
    post,
    somebody,
)


def quota(service: Target, until: float) -> Counter[str]:
    """Make as many claims as a project may have, from as many addresses as that needs."""
    wishes = (
        post(
            f"/v1/{service.team}/claim",
            {"all_of": [f"L-{n}-{one}" for one in range(32)]},
            somebody(),
            by_whom(address),
        )
        for n, address in enumerate(addresses())
    )
    return flood(service, wishes, until)


def quota_of_one(service: Target, until: float) -> Counter[str]:
    """Do the same from one address."""
    wishes = (
        post(
            f"/v1/{service.team}/claim",
            {"all_of": [f"L-{n}-{one}" for one in range(32)]},
            somebody(),
            by_whom(STRANGER),
        )
        for n in itertools.count()
    )
    return flood(service, wishes, until)


def finished(service: Target, until: float) -> Counter[str]:
    """Report the team's current and future tasks as done."""

    def wishes() -> Iterator[bytes]:
        end = {"outcome": "done", "pr": "https://x.example/pull/1"}
        for number in itertools.count():
            who = somebody()
            for task in (f"T-{number % 20}", f"N-{number}"):
                yield post(f"/v1/{service.team}/claim", {"task": task, "reopen": True}, who)
                yield post(f"/v1/{service.team}/release", {"task": task, "fence": 1, **end}, who)
                yield post(f"/v1/{service.team}/release", {"task": task, **end}, who)

    return flood(service, wishes(), until, connections=1)


def rate(service: Target, until: float) -> Counter[str]:
    """Read, claim and send heartbeats in the team's project as fast as it answers."""

    def wishes() -> Iterator[bytes]:
        for number in itertools.count():
            who, task = somebody(), f"T-{number % 20}"
            yield get(f"/v1/{service.team}/claims/{task}")
            yield get(f"/v1/{service.team}/claims")
            yield post(f"/v1/{service.team}/claim", {"task": task, "queue": True}, who)
            yield post(f"/v1/{service.team}/heartbeat", {"task": task}, who)
            yield post(f"/v1/{service.team}/release", {"task": task}, who)
            yield post(f"/v1/{service.team}/break", {"task": task, "fence": 1, "reason": "r"}, who)

    return flood(service, wishes(), until, connections=64)


def one_session(service: Target, until: float) -> Counter[str]:
    """Send heartbeats of one holder as fast as the service answers."""
    who = somebody()
    begin = post(f"/v1/{service.team}/claim", {"task": "mine-too"}, who)
    beat = post(f"/v1/{service.team}/heartbeat", {}, who)
    return flood(service, itertools.chain([begin], itertools.repeat(beat)), until, connections=64)


def acts(service: Target, until: float) -> Counter[str]:
    """Send heartbeats and claims on as many connections as the service allows."""

    def wishes() -> Iterator[bytes]:
        for number in itertools.count():
            who, task = somebody(), f"T-{number % 20}"
            yield post(f"/v1/{service.team}/heartbeat", {"task": task}, who)
            yield post(f"/v1/{service.team}/claim", {"task": f"B-{number}"}, who)

    return flood(service, wishes(), until, connections=950)
