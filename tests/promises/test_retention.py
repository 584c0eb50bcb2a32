"""Everything is kept for its retention, by data alone, and is then deleted without a trace."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.conftest import Desk
from tests.harness import acting
from tests.harness.services import new_session
from tests.tools.servers import KINDS, serving

from dibs import results
from dibs.model import Task
from dibs.store import Rules, Store
from dibs.store.redis.link import PipelineLink

SHORT = Rules(
    ttl_ms=20_000,
    max_hold_ms=40_000,
    grace_ms=5_000,
    ticket_ms=15_000,
    handover_ms=8_000,
    retention_ms=60_000,
    done_retention_ms=120_000,
    history_ms=120_000,
    rate_per_session=0,
    rate_per_project=0,
)


@contextlib.asynccontextmanager
async def shared(
    kind: str, folder: Path, policy: str
) -> AsyncIterator[tuple[Desk, Callable[[], None]]]:
    """Yield a desk on a small store, and a function that fills it with another tenant's keys."""
    with serving(kind, folder, "maxmemory 6mb", f"maxmemory-policy {policy}") as server:
        tenant = server.client()
        store = Store(PipelineLink.to(server.url), Rules(rate_per_session=0, rate_per_project=0))
        await store.open()

        def fill() -> None:
            for number in range(10_000):
                try:
                    tenant.set(f"tenant:{number}", "x" * 900, ex=3600 if number % 2 else None)
                except redis.ResponseError:
                    break
            else:
                pytest.fail("the store was never full")
            assert tenant.info("stats")["evicted_keys"] > 100

        try:
            yield Desk(store, None), fill
        finally:
            await store.close()
            tenant.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-ttl", "volatile-random"])
async def test_nothing_that_a_promise_rests_on_can_be_evicted(
    kind: str, policy: str, tmp_path: Path
) -> None:
    async with shared(kind, tmp_path, policy) as (desk, fill):
        kept = range(30)
        fences, broken = {}, {}
        for n in kept:
            await desk.granted(desk.ann, f"done {n}", note="it is")
            await desk.release(desk.ann, f"done {n}", outcome="done")
            fences[n] = (await desk.granted(desk.ann, f"given up {n}")).fence
            await desk.release(desk.ann, f"given up {n}")
            broken[n] = (await desk.granted(desk.ann, f"broken {n}")).fence
            await desk.break_(f"broken {n}", broken[n])
        for n in range(10):
            await desk.granted(desk.ann, f"waited for {n}")
            for who in (desk.bob, desk.cat):
                await desk.refused(who, f"waited for {n}", queue=True)
        await lapse(desk, [f"lapsed {n}" for n in range(10)])
        fill()
        for n in kept:
            refusal = await desk.refused(desk.bob, f"done {n}")
            assert (refusal.reason, refusal.claim.note) == ("done", "it is")
            again = await desk.release(desk.ann, f"given up {n}", fences[n])
            assert again.releases == (results.Release(Task(f"given up {n}"), "free", True),)
        for n in range(10):
            assert (await desk.refused(desk.bob, f"lapsed {n}")).reason == "cooling"
            assert (await desk.show(f"waited for {n}")).waiters == 2
        for n in kept:
            late = await desk.beat(desk.ann, f"broken {n}", broken[n])
            assert (late.why, late.loss.reason, late.loss.by.label) == ("lost", "broken", "lead")


async def lapse(desk: Desk, tasks: list[str]) -> None:
    """Let Ann claim `tasks`, and let the claims lapse at once."""
    ordinary = desk.store
    desk.store = Store(ordinary.link, replace(ordinary.rules, ttl_ms=1))
    await desk.store.open()
    for task in tasks:
        await desk.granted(desk.ann, task)
    await asyncio.sleep(0.01)
    await desk.store.sweep(desk.project)
    desk.store = ordinary


@pytest.mark.parametrize("rules", [SHORT])
async def test_what_is_past_its_retention_is_not_known_swept_or_not(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "given up", note="half way")
    await desk.release(desk.ann, "given up", held.fence)
    await desk.granted(desk.ann, "done")
    await desk.release(desk.ann, "done", outcome="done")
    await desk.pass_time(59)
    assert (await desk.show("given up")).previous.note == "half way"
    await desk.pass_time(2)
    assert (await desk.show("given up")).previous is None
    assert isinstance(await desk.release(desk.ann, "given up", held.fence), results.NotMine)
    assert (await desk.granted(desk.bob, "given up")).grants == 1
    await desk.pass_time(57)
    assert (await desk.refused(desk.bob, "done")).reason == "done"
    await desk.pass_time(3)
    page = await acting.list_(desk.store, desk.project, states=["done"], limit=10)
    assert page.claims == ()
    assert (await desk.granted(desk.bob, "done")).previous is None


@pytest.mark.parametrize("rules", [replace(SHORT, claims_per_session=200)])
async def test_a_store_after_a_busy_day_and_its_retention_holds_only_what_it_must(
    desk: Desk,
) -> None:
    sessions = [new_session() for _ in range(40)]
    for n, who in enumerate(sessions):
        for task in ("given up", "done", "broken", "left", "waited for"):
            await desk.granted(who, f"{task} {n}", label=f"s{n}")
        await desk.release(who, f"given up {n}", note="for others")
        await desk.release(who, f"done {n}", outcome="done")
        fence = (await desk.show(f"broken {n}")).fence
        await desk.break_(f"broken {n}", fence)
        for waiting in sessions[:3]:
            await desk.claim(waiting, f"waited for {n}", queue=True)
        await desk.beat(who, f"left {n}", state="parked", ttl_s=30)
    for n in range(130):  # more of one kind than one sweep processes
        await desk.granted(sessions[0], f"more {n}")
        await desk.release(sessions[0], f"more {n}")
    await desk.pass_time(50)  # more than needed: on a busy machine some of it counts as an outage
    for n in range(40):
        await desk.granted(desk.bob, f"left {n}")  # their holders lost them
    await desk.pass_time(max(SHORT.retention_ms, SHORT.done_retention_ms) / 1000 + 25)
    await sweep_all(desk)
    await desk.pass_time(SHORT.retention_ms / 1000)
    await sweep_all(desk)
    prefix = f"dibs:{{{desk.project}}}:"
    found = await desk.store.link.command("KEYS", f"dibs:[{{]{desk.project}}}*")
    assert [key.removeprefix(prefix) for key in found] == []


async def sweep_all(desk: Desk) -> None:
    """Sweep until nothing is left to do, 50 times at most."""
    for _ in range(50):
        more, _ = await desk.store.sweep(desk.project)
        if not more:
            return
    pytest.fail("the sweep never finishes")


@pytest.mark.parametrize("rules", [SHORT])
async def test_a_project_is_known_until_the_sweeper_has_nothing_to_do_there(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.jump(40 * 86_400)  # a jump of 40 days counts as an outage, in which nothing expires
    await desk.store.tick()
    assert desk.project in await desk.store.projects()
    await desk.pass_time(90)
    for _ in range(2):
        await sweep_all(desk)
        await desk.jump(40 * 86_400)
        await desk.store.tick()
        known = await desk.store.projects()
        await desk.pass_time(SHORT.retention_ms / 1000)
    assert desk.project not in known


@pytest.mark.parametrize("rules", [SHORT])
async def test_data_in_which_keys_ended_by_themselves_is_read_and_kept(desk: Desk) -> None:
    """Data of 0.1.0: ended claims had an expiry in Redis, and were in fewer indexes."""
    lost = await desk.granted(desk.ann, "lost")
    given = await desk.granted(desk.ann, "given up")
    await desk.refused(desk.bob, "given up", queue=True)
    await desk.refused(desk.cat, "given up", queue=True)
    await desk.release(desk.ann, "given up", given.fence)
    done = await desk.granted(desk.ann, "done")
    await desk.release(desk.ann, "done", done.fence, outcome="done")
    await desk.break_("lost", lost.fence)
    await make_older(desk)

    assert (await desk.refused(desk.cat, "done")).reason == "done"
    repeat = await desk.release(desk.ann, "given up", given.fence)
    assert (repeat.releases[0].already, [loss.task for loss in repeat.lost]) == (True, ["lost"])
    assert (await desk.refused(desk.cat, "given up", queue=True)).position == 2
    again = await desk.granted(desk.ann, "lost")
    await desk.break_("lost", again.fence)
    assert [loss.fence for loss in (await desk.beat(desk.ann)).lost] == [again.fence]
    await desk.release(desk.bob, "given up")
    await desk.release(desk.cat, "given up")

    await desk.pass_time(10)  # longer than those expiries
    assert (await desk.show("given up")).previous.outcome == "released"
    assert (await desk.beat(desk.ann, "lost", again.fence)).why == "lost"
    await desk.pass_time(125)
    await sweep_all(desk)
    found = await desk.store.link.command("KEYS", f"dibs:[{{]{desk.project}}}*")
    assert found == []


async def make_older(desk: Desk) -> None:
    """Turn a project's data into that of the previous version, with expiries of eight seconds."""
    ask, prefix = desk.store.link.command, f"dibs:{{{desk.project}}}"
    for key in await ask("KEYS", f"dibs:[{{]{desk.project}}}*"):
        kind = key.removeprefix(prefix + ":").partition(":")[0]
        if kind in ("ended", "losers", "tenures"):
            await ask("DEL", key)
        elif kind == "lost":
            for task in await ask("HKEYS", key):
                entry = json.loads(await ask("HGET", key, task))
                del entry["kept_until"]
                await ask("HSET", key, task, json.dumps(entry))
        if kind in ("task", "lost", "queue") and "held" not in str(await raw(ask, key, kind)):
            await ask("PEXPIRE", key, 8_000)


async def raw(ask: Callable[..., Awaitable[Any]], key: str, kind: str) -> object:
    return await ask("GET", key) if kind == "task" else ""
