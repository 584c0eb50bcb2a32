"""Rules 1, 4, 8: one session gets the task; the others are told who has it and for how long."""

import asyncio

from tests.conftest import Desk
from tests.harness.services import new_session

from dibs import results


async def test_one_of_fifty_racing_sessions_gets_the_task(desk: Desk) -> None:
    sessions = [new_session() for _ in range(50)]
    outcomes = await asyncio.gather(*(desk.claim(one, "T-1", label="racer") for one in sessions))
    winners = [one for one in outcomes if isinstance(one, results.Granted)]
    assert len(winners) == 1
    fence = winners[0].claims[0].fence
    losers = [one for one in outcomes if isinstance(one, results.Conflict)]
    assert len(losers) == 49
    for loser in losers:
        [refusal] = loser.refusals
        assert (refusal.reason, refusal.claim.fence) == ("held", fence)
        assert refusal.claim.holder.label == "racer"
        assert 1790 <= refusal.claim.expires_in <= 1800


async def test_claiming_again_gives_the_same_fence_and_a_later_deadline(desk: Desk) -> None:
    first = await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(30)
    outcome = await desk.claim(desk.ann, "T-1", ttl_s=60)
    [again] = outcome.claims
    assert (outcome.new, again.fence, again.expires_in) == (0, first.fence, 60)
    assert again.grants == 1


async def test_a_refused_claim_changes_nothing(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1", note="mine")
    await desk.refused(desk.bob, "T-1", note="not yours", ttl_s=5)
    assert await desk.show("T-1", desk.ann) == held
    assert await desk.events() == ["claimed T-1"]


async def test_any_of_takes_the_first_free_in_the_callers_order(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-2")
    outcome = await desk.claim(desk.bob, "T-2", "T-9", "T-1", mode="any")
    assert [claim.task for claim in outcome.claims] == ["T-9"]
    assert (await desk.show("T-1")).state == "free"


async def test_any_of_asked_twice_gives_the_same_task(desk: Desk) -> None:
    first = await desk.claim(desk.bob, "T-1", "T-2", mode="any")
    again = await desk.claim(desk.bob, "T-1", "T-2", mode="any")
    assert again.claims[0].fence == first.claims[0].fence
    assert (await desk.show("T-2")).state == "free"


async def test_all_of_takes_every_task_or_none_and_reports_every_conflict(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-2")
    await desk.granted(desk.ann, "T-4")
    tasks = ("T-1", "T-2", "T-3", "T-4")
    outcome = await desk.claim(desk.bob, *tasks, mode="all")
    assert [refusal.claim.task for refusal in outcome.refusals] == ["T-2", "T-4"]
    assert (await desk.show("T-1")).state == (await desk.show("T-3")).state == "free"
    await desk.release(desk.ann, None)
    outcome = await desk.claim(desk.bob, *tasks, mode="all")
    assert {claim.task for claim in outcome.claims} == set(tasks)
    assert len({claim.fence for claim in outcome.claims}) == 4


async def test_two_callers_of_all_of_never_share_the_tasks(desk: Desk) -> None:
    one, other = ("T-1", "T-2", "T-3"), ("T-3", "T-2", "T-1")
    for number in range(10):
        ann, bob = new_session(), new_session()
        tasks = [f"{task}-{number}" for task in one], [f"{task}-{number}" for task in other]
        outcomes = await asyncio.gather(
            desk.claim(ann, *tasks[0], mode="all"), desk.claim(bob, *tasks[1], mode="all")
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "Granted"]
