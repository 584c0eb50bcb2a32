"""Rule 13: time in which nobody could send a heartbeat does not count; fences never go back."""

import pytest
from tests.conftest import Desk
from tests.harness import acting

from dibs.store import Store


@pytest.mark.parametrize("jump_s", [61, 3600, 7 * 86_400])
async def test_after_a_pause_or_a_clock_step_a_live_claim_has_one_more_ttl(
    desk: Desk, jump_s: float
) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(50)
    await desk.jump(jump_s)
    refusal = await desk.refused(desk.bob, "T-1")
    assert refusal.reason == "held"
    assert refusal.claim.expires_in == 60
    await desk.pass_time(55)
    [claim] = (await desk.beat(desk.ann)).claims
    assert claim.fence == held.fence


@pytest.mark.parametrize("back_s", [10, 3600, 86_400])
async def test_a_clock_that_steps_back_lets_no_claim_live_for_ever(
    desk: Desk, back_s: float
) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.jump(-back_s)
    await desk.store.tick()
    assert (await desk.show("T-1")).expires_in <= 60
    await desk.pass_time(95)
    taken = await desk.granted(desk.bob, "T-1")
    assert taken.fence > held.fence


async def test_two_outages_in_a_row_each_give_one_more_ttl(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    for _ in range(2):
        await desk.jump(600)
        await desk.store.tick()
        await desk.pass_time(50)
    assert (await desk.refused(desk.bob, "T-1")).reason == "held"
    await desk.pass_time(45)
    await desk.granted(desk.bob, "T-1")


async def test_what_had_lapsed_before_an_outage_stays_lapsed(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(95)
    await desk.jump(600)
    await desk.granted(desk.bob, "T-1")


async def test_a_small_step_back_within_a_second_never_shortens_a_claim(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.jump(-3)
    assert (await desk.show("T-1")).expires_in >= 60
    assert (await desk.granted(desk.ann, "T-1", ttl_s=60)).expires_in >= 60


async def test_fences_grow_across_steps_of_the_clock(desk: Desk) -> None:
    fences = []
    for number, jump_s in enumerate((0, 100, -5000, 3, 86_400, -3600)):
        await desk.jump(jump_s)
        fences.append((await desk.granted(desk.ann, f"T-{number}")).fence)
    assert fences == sorted(set(fences))


async def test_instants_before_an_outage_are_shown_as_they_were(desk: Desk) -> None:
    claimed = await desk.granted(desk.ann, "T-1")
    await desk.jump(3600)
    await desk.store.tick()
    shown = await desk.show("T-1")
    assert abs((shown.acquired_at - claimed.acquired_at).total_seconds()) <= 1
    assert (shown.expires_at - claimed.expires_at).total_seconds() >= 3590


async def test_a_second_process_that_was_paused_does_not_stop_the_clock(desk: Desk) -> None:
    other = Store(desk.store.link, desk.store.rules)
    await other.open()
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(95)  # `other` does not tick in that time
    outcome = await acting.claim(other, desk.project, desk.bob, ["T-1"])
    assert outcome.claims[0].holder.ref == other.hashed(desk.bob)[:10]
