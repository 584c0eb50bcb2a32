"""Rules 3, 6, 7, 12; I4: a deadline passes without a sweep; a lapsed claim is not gone."""

import pytest
from tests.conftest import Desk
from tests.harness import acting

from dibs import results
from dibs.store import Rules


async def test_a_lapsed_claim_is_seen_as_lapsed_at_once_with_no_sweeper(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(59)
    assert (await desk.show("T-1")).state == "held"
    await desk.pass_time(1.5)
    shown = await desk.show("T-1")
    assert (shown.state, shown.expires_in, shown.lapses) == ("lapsed", 0, 1)


async def test_in_grace_only_the_last_holder_may_take_it_back(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(75)
    refusal = await desk.refused(desk.bob, "T-1")
    assert refusal.reason == "cooling"
    assert 1 <= (refusal.retry_after_s or 0) <= 16
    assert (await desk.granted(desk.ann, "T-1")).fence == held.fence


async def test_after_grace_anybody_may_take_it_with_a_larger_fence(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=60, note="half done")
    await desk.pass_time(91)
    taken = await desk.granted(desk.bob, "T-1")
    assert taken.fence > held.fence
    assert (taken.previous.outcome, taken.previous.holder.label) == ("lapsed", "ann")
    assert taken.previous.note == "half done"


async def test_a_heartbeat_revives_a_lapsed_claim_that_nobody_took(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(3600)
    [claim] = (await desk.beat(desk.ann)).claims
    assert (claim.state, claim.fence, claim.expires_in) == ("held", held.fence, 60)
    assert await desk.events() == ["claimed T-1", "lapsed T-1", "revived T-1"]
    assert isinstance(await desk.claim(desk.bob, "T-1"), results.Conflict)


async def test_a_heartbeat_never_shortens_a_deadline(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=600)
    outcome = await desk.beat(desk.ann, "T-1", held.fence, ttl_s=60)
    assert outcome.claims[0].expires_in == 600


async def test_a_claim_without_heartbeat_for_half_its_ttl_is_stale(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(29)
    assert not (await desk.show("T-1")).stale
    await desk.pass_time(2)
    assert (await desk.show("T-1")).stale
    await desk.beat(desk.ann)
    assert not (await desk.show("T-1")).stale


async def test_reading_changes_nothing(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(40)
    await desk.show("T-1", desk.ann)
    await acting.list_(desk.store, desk.project, desk.ann, states=["held"], limit=10)
    await desk.pass_time(21)
    assert (await desk.show("T-1", desk.ann)).state == "lapsed"


async def test_three_lapses_raise_a_flag_that_survives_new_holders(desk: Desk) -> None:
    for who in (desk.ann, desk.bob, desk.cat):
        claim = await desk.granted(who, "T-1", ttl_s=60)
        assert claim.flag is None
        await desk.pass_time(95)
    claim = await desk.granted(desk.ann, "T-1")
    assert (claim.lapses, claim.grants, claim.flag) == (3, 4, "repeated-lapses")


@pytest.mark.parametrize("rules", [Rules(max_hold_ms=120_000, rate_per_session=0)])
async def test_past_max_hold_heartbeats_no_longer_extend(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=60)
    for _ in range(3):
        await desk.pass_time(30)
        claims = (await desk.beat(desk.ann)).claims
    assert claims[0].expires_in <= 30
    await desk.pass_time(31)
    outcome = await desk.beat(desk.ann, "T-1", held.fence)
    assert isinstance(outcome, results.NotMine)
    assert (outcome.why, outcome.loss.reason) == ("lost", "lapsed")
    await desk.pass_time(30)
    assert (await desk.granted(desk.ann, "T-1")).fence > held.fence


async def test_the_sweeper_writes_a_lapse_down_once(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(61)
    for _ in range(2):
        more, found = await desk.store.sweep(desk.project)
        assert (more, found.held, found.lapsed, found.lapses) == (False, 0, 1, 1)
    assert await desk.events() == ["claimed T-1", "lapsed T-1"]
    assert (await desk.show("T-1")).lapses == 1
