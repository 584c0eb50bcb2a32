"""The board's counts that no record holds."""

import pytest
from tests.conftest import Desk
from tests.harness import acting

from dibs.store import Rules


async def test_a_session_that_polls_avoids_one_collision_not_many(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    for _ in range(5):
        await desk.refused(desk.bob, "T-1")
    await desk.refused(desk.cat, "T-1")
    await desk.store.write_collisions()
    assert (await desk.store.pulse(desk.project)).avoided == 2


async def test_the_same_collision_seen_by_two_services_counts_once(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    for _ in range(2):
        await desk.refused(desk.bob, "T-1")
        await desk.store.write_collisions()
        desk.store.collisions._known.clear()  # as in another process, which has not seen it
    assert (await desk.store.pulse(desk.project)).avoided == 1


async def test_the_next_tenure_is_another_collision(desk: Desk) -> None:
    for holder in (desk.ann, desk.cat):
        await desk.granted(holder, "T-1")
        await desk.refused(desk.bob, "T-1")
        await desk.release(holder, "T-1")
    await desk.store.write_collisions()
    assert (await desk.store.pulse(desk.project)).avoided == 2


async def test_after_a_day_they_are_forgotten(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.refused(desk.bob, "T-1")
    await desk.release(desk.ann, "T-1", outcome="done")
    await desk.store.write_collisions()
    pulse = await desk.store.pulse(desk.project)
    assert (pulse.done, pulse.avoided) == (1, 1)
    day_later = desk.store.collisions.count(desk.project, pulse.now_ms + 25 * 3_600_000)
    assert await day_later == 0


async def test_a_project_at_a_glance(desk: Desk) -> None:
    for task in ("a", "b", "c", "d"):
        await desk.granted(desk.ann, task, ttl_s=60)
    await desk.granted(desk.ann, "e", ttl_s=10)
    await desk.beat(desk.ann, "b", state="parked")
    await desk.release(desk.ann, "c", outcome="done")
    await desk.release(desk.ann, "d")
    await desk.pass_time(12)
    seen = await desk.store.overview(desk.project)
    assert (seen.held, seen.parked, seen.lapsed, seen.done) == (1, 1, 1, 1)
    assert seen.changed_at is not None


@pytest.mark.parametrize("rules", [Rules(rate_per_session=0, rate_per_project=0, max_attempts=2)])
async def test_what_lapsed_and_failed_or_is_on_hold_is_counted_once(desk: Desk) -> None:
    await desk.granted(desk.ann, "failed")
    await desk.release(desk.ann, "failed", outcome="abandoned")
    for task in ("failed", "on hold", "lapsed"):
        await desk.granted(desk.ann, task, ttl_s=10)
    await desk.pass_time(12)
    await desk.store.sweep(desk.project)
    await acting.hold(desk.store, desk.project, "on hold", reason="wait", by="lea")
    seen = await desk.store.overview(desk.project)
    assert (seen.lapsed, seen.failed) == (1, 1)
    await acting.hold(desk.store, desk.project, "failed", reason="wait", by="lea")
    seen = await desk.store.overview(desk.project)
    assert (seen.lapsed, seen.failed) == (1, 0), "it is in one index and subtracted once"
