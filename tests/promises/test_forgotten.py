"""A claim that a store lost (failover, restore, flush) is reported to its holder as such."""

from typing import Any

import pytest
import redis
from tests.conftest import Desk, Stepped

from dibs import messages, results
from dibs.acts import holding
from dibs.problems import ProblemError
from dibs.store import Rules, Store
from dibs.store.keys import keys

AN_OUTAGE_S = 30
RETENTION_S = Rules().retention_ms // 1000


@pytest.fixture
def raw(stepped: Stepped) -> Any:
    """Yield a client of the store's server."""
    with redis.Redis.from_url(stepped[0].url) as client:
        yield client


@pytest.fixture
async def desk(store: Store, stepped: Stepped) -> Desk:
    """Return a desk on a real store, after an outage; tests delete keys as a failover would."""
    desk = Desk(store, stepped[1])
    await desk.jump(AN_OUTAGE_S)
    await store.tick()
    await desk.pass_time(10)
    return desk


def forget(raw: Any, desk: Desk, task: str) -> None:
    """Delete a grant from the store, as if a replica without it had been promoted."""
    raw.delete(f"{keys(desk.project)}:task:{task}")
    raw.zrem(f"{keys(desk.project)}:live", task)
    raw.srem(f"{keys(desk.project)}:held:{desk.store.hashed(desk.ann)}", task)


async def lost(desk: Desk, task: str, fence: int) -> results.NotMine:
    """Return the loss by a heartbeat, and assert that a release reports the same."""
    beat, released = (
        await desk.beat(desk.ann, task, fence),
        await desk.release(desk.ann, task, fence),
    )
    assert isinstance(beat, results.NotMine)
    assert (beat.why, beat.loss) == (released.why, released.loss)
    return beat


async def test_a_claim_that_a_failover_took_is_lost_and_not_denied(desk: Desk, raw: Any) -> None:
    await desk.granted(desk.bob, "kept")
    held = await desk.granted(desk.ann, "T-1")
    forget(raw, desk, "T-1")
    assert (await lost(desk, "T-1", held.fence)).why == "not-holder", (
        "no outage explains the missing claim"
    )
    await desk.jump(AN_OUTAGE_S)
    await desk.store.tick()
    told = await lost(desk, "T-1", held.fence)
    assert (told.why, told.loss.reason, told.loss.fence) == ("lost", "forgotten", held.fence)
    assert told.loss.by is None
    assert told.loss
    assert "claim it again" in messages.lost(told.loss)
    taken = await desk.granted(desk.bob, "T-1", note="from the start")
    told = await lost(desk, "T-1", held.fence)
    assert (told.loss.by.label, told.loss.note) == ("bob", "from the start")
    assert told.loss
    assert "do not push" in messages.lost(told.loss)
    with pytest.raises(ProblemError) as said:
        raise holding.refusal(told, told.loss.task, held.fence)
    assert said.value.body["code"] == "lost"
    assert said.value.body["reason"] == "forgotten"
    assert (await desk.show("T-1")).fence == taken.fence, "the calls changed nothing"


async def test_a_claim_in_a_store_that_was_flushed_is_lost(desk: Desk, raw: Any) -> None:
    held = await desk.granted(desk.ann, "T-1")
    for key in raw.keys(f"{keys(desk.project)}:*"):
        raw.delete(key)
    told = await lost(desk, "T-1", held.fence)
    assert (told.why, told.loss.reason) == ("lost", "forgotten")
    await desk.granted(desk.bob, "T-1")
    told = await lost(desk, "T-1", held.fence)
    assert (told.loss.reason, told.loss.by.label) == ("forgotten", "bob")
    again = await desk.claim(desk.ann, "T-2")
    assert isinstance(again, results.Granted)


async def test_a_claim_whose_record_was_damaged_and_freed_is_lost(desk: Desk, raw: Any) -> None:
    await desk.granted(desk.bob, "kept")
    held = await desk.granted(desk.ann, "T-1")
    raw.set(f"{keys(desk.project)}:task:T-1", "{")
    await desk.break_("T-1", 1)
    told = await lost(desk, "T-1", held.fence)
    assert (told.why, told.loss.reason) == ("lost", "forgotten")


async def test_what_the_store_knows_the_end_of_was_not_forgotten(desk: Desk) -> None:
    await desk.granted(desk.bob, "kept")
    released = await desk.granted(desk.ann, "released")
    await desk.release(desk.ann, "released", released.fence)
    broken = await desk.granted(desk.ann, "broken")
    await desk.break_("broken", broken.fence)
    lapsed = await desk.granted(desk.ann, "lapsed", ttl_s=60)
    held = await desk.granted(desk.ann, "held")
    await desk.pass_time(100)
    await desk.jump(AN_OUTAGE_S)
    await desk.store.tick()
    await desk.pass_time(100)
    await desk.granted(desk.bob, "lapsed")
    beat = await desk.beat(desk.ann, "released", released.fence)
    assert (beat.why, beat.loss) == ("not-holder", None)
    assert (await desk.release(desk.ann, "released", released.fence)).releases[0].already
    assert (await lost(desk, "broken", broken.fence)).loss.reason == "broken"
    assert (await lost(desk, "lapsed", lapsed.fence)).loss.reason == "lapsed"
    assert (await desk.beat(desk.bob, "held", held.fence)).why == "not-holder", "ann holds it"
    assert (await desk.beat(desk.ann, "held", held.fence - 1)).why == "moved"


async def test_a_fence_that_no_claim_can_have_had_is_not_lost(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await desk.jump(AN_OUTAGE_S)
    await desk.store.tick()
    ahead_us, before_us = 60_000_000, RETENTION_S * 1_000_000
    for fence in (1, 17, held.fence - before_us, held.fence + AN_OUTAGE_S * 10**6 + ahead_us):
        told = await desk.beat(desk.ann, "never", fence)
        assert (told.why, told.loss) == ("not-holder", None)
    assert (await desk.beat(desk.ann, "never")).why == "not-holder", (
        "without a fence the loss is unknown"
    )


async def test_who_makes_up_a_fence_hears_lost_and_changes_nothing(desk: Desk, raw: Any) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await desk.jump(AN_OUTAGE_S)
    await desk.store.tick()
    before = {key: raw.dump(key) for key in raw.keys(f"{keys(desk.project)}:*")}
    told = await desk.beat(desk.bob, "T-1", held.fence + 1)
    assert told.loss.reason == "forgotten"
    after = {key: raw.dump(key) for key in raw.keys(f"{keys(desk.project)}:*")}
    assert after == before
    assert (await desk.show("T-1", desk.ann)).mine
