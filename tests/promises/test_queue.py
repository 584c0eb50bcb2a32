"""Rule 9: the queue is fair, and a freed task is reserved for its head for a while."""

import asyncio

import pytest
from tests.conftest import Desk
from tests.harness import acting
from tests.harness.services import new_session

from dibs import results
from dibs.acts import claim
from dibs.acts.act import Call
from dibs.claims import Bounds, Claims
from dibs.model import Project, Task
from dibs.store import Rules
from dibs.store.store import Store


async def test_a_freed_task_is_kept_for_the_head_of_its_queue(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    assert (await desk.refused(desk.bob, "T-1", queue=True)).position == 1
    assert (await desk.refused(desk.cat, "T-1", queue=True)).position == 2
    await desk.release(desk.ann, "T-1")
    refusal = await desk.refused(desk.cat, "T-1", queue=True)
    assert (refusal.reason, refusal.claim.state) == ("reserved", "free")
    assert 1 <= (refusal.retry_after_s or 0) <= 60
    assert isinstance(await desk.claim(desk.ann, "T-1"), results.Conflict)
    await desk.granted(desk.bob, "T-1", queue=True)
    assert (await desk.refused(desk.cat, "T-1", queue=True)).position == 1


async def test_a_ticket_keeps_its_place_across_polls(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=3600)
    await desk.refused(desk.bob, "T-1", queue=True)
    await desk.refused(desk.cat, "T-1", queue=True)
    for _ in range(4):
        await desk.pass_time(200)
        assert (await desk.refused(desk.cat, "T-1", queue=True)).position == 2
        assert (await desk.refused(desk.bob, "T-1", queue=True)).position == 1
    shown = await desk.show("T-1")
    assert [waiter.label for waiter in shown.queue] == ["bob", "cat"]


async def test_a_ticket_that_nobody_renews_lapses_by_itself(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=3600)
    await desk.refused(desk.bob, "T-1", queue=True)
    await desk.pass_time(200)
    await desk.refused(desk.cat, "T-1", queue=True)
    await desk.pass_time(101)
    assert (await desk.show("T-1")).waiters == 1
    await desk.release(desk.ann, "T-1")
    await desk.granted(desk.cat, "T-1", queue=True)


@pytest.mark.parametrize(
    "rules", [Rules(rate_per_session=0, rate_per_project=0, claims_per_session=200)]
)
async def test_a_sweep_looks_at_some_of_many_queues_and_counts_them_all(desk: Desk) -> None:
    tasks = [f"T-{n}" for n in range(140)]
    for first in range(0, len(tasks), 28):
        await desk.claim(desk.ann, *tasks[first : first + 28], mode="all", ttl_s=3600)
        await desk.claim(desk.bob, *tasks[first : first + 28], mode="any", queue=True)

    async def swept() -> tuple[int, int]:
        """Return the tickets that the sweep counts, and the number of queues that are left."""
        _, counts = await desk.store.sweep(desk.project)
        left = await desk.store.link.command("KEYS", f"dibs:[{{]{desk.project}}}:queue:*")
        return counts.tickets, len(left)

    assert await swept() == (140, 140)
    await desk.pass_time(301)
    many = 140
    for _ in range(100):
        counted, left = await swept()
        assert counted == left
        assert many - 100 <= left <= many
        many = left
    assert many == 0


async def test_who_lets_the_window_pass_makes_room_for_the_next_and_nobody_starves(
    desk: Desk,
) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.refused(desk.bob, "T-1", queue=True)
    await desk.refused(desk.cat, "T-1", queue=True)
    await desk.release(desk.ann, "T-1")
    await desk.pass_time(61)
    assert isinstance(await desk.claim(desk.ann, "T-1"), results.Conflict)
    assert (await desk.granted(desk.cat, "T-1", queue=True)).holder.label == "cat"


async def test_when_every_window_has_passed_anybody_may_take_it(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.refused(desk.bob, "T-1", queue=True)
    await desk.refused(desk.cat, "T-1", queue=True)
    await desk.release(desk.ann, "T-1")
    await desk.pass_time(121)
    await desk.granted(new_session(), "T-1")


async def test_a_lapse_hands_over_after_grace_in_the_queues_order(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.refused(desk.bob, "T-1", queue=True)
    await desk.pass_time(61)
    refusal = await desk.refused(desk.cat, "T-1")
    assert refusal.reason == "cooling"
    await desk.pass_time(30)
    assert (await desk.refused(desk.cat, "T-1")).reason == "reserved"
    await desk.granted(desk.bob, "T-1")


async def test_a_release_by_somebody_who_waits_leaves_the_queue(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.refused(desk.bob, "T-1", queue=True)
    outcome = await desk.release(desk.bob, "T-1")
    assert outcome.releases == (results.Release(Task("T-1"), "held", False),)
    assert (await desk.show("T-1")).waiters == 0


@pytest.mark.parametrize("rules", [Rules(tickets_per_task=2, rate_per_session=0)])
async def test_a_queue_has_an_end(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    for _ in range(2):
        await desk.refused(new_session(), "T-1", queue=True)
    outcome = await desk.claim(new_session(), "T-1", queue=True)
    assert (outcome.whose, outcome.limit) == ("queue", 2)


async def test_a_waiting_claim_is_woken_by_the_release(claims: Claims, store: Store) -> None:
    ann, bob = new_session(), new_session()
    project = "woken.by"
    await acting.claim(store, project, ann, ["T-1"])
    wish = acting.asked(["T-1"], wait=20, queue=True)
    waiting = asyncio.create_task(claim.run(claims, Call(Project(project), wish, bob)))
    while not (await acting.show(store, project, "T-1")).waiters:
        await asyncio.sleep(0.01)
    started = asyncio.get_running_loop().time()
    await acting.release(store, project, ann, "T-1")
    outcome = await waiting
    assert isinstance(outcome, results.Granted)
    assert asyncio.get_running_loop().time() - started < 2


async def test_who_hangs_up_while_it_waits_is_granted_nothing(claims: Claims, store: Store) -> None:
    ann, bob = new_session(), new_session()
    project, gone = Project("hangs.up"), asyncio.Event()
    await acting.claim(store, project, ann, ["T-1"])
    wish = acting.asked(["T-1"], wait=25, queue=True)
    call = Call(project, wish, bob, has_hung_up=gone.is_set)
    waiting = asyncio.create_task(claim.run(claims, call))
    while not (await acting.show(store, project, "T-1")).waiters:
        await asyncio.sleep(0.01)
    gone.set()
    await acting.release(store, project, ann, "T-1")
    assert isinstance(await asyncio.wait_for(waiting, 20), results.Conflict)
    assert (await acting.show(store, project, "T-1")).state == "free"


async def test_a_waiting_claim_still_tells_what_was_lost_meanwhile(
    claims: Claims, store: Store
) -> None:
    ann, bob = new_session(), new_session()
    for task in ("T-1", "T-2"):
        held = await acting.claim(store, "tells", bob, [task])
    await acting.break_(store, "tells", "T-2", held.claims[0].fence, reason="stuck", by="lead")
    await acting.claim(store, "tells", ann, ["T-3"])
    outcome = await claim.run(claims, Call(Project("tells"), acting.asked(["T-3"], wait=1), bob))
    assert [loss.task for loss in outcome.lost] == ["T-2"]


async def test_a_waiting_claim_is_answered_when_its_time_is_over(
    claims: Claims, store: Store
) -> None:
    ann, bob = new_session(), new_session()
    await acting.claim(store, "times.out", ann, ["T-1"])
    outcome = await claim.run(
        claims, Call(Project("times.out"), acting.asked(["T-1"], wait=1), bob)
    )
    assert isinstance(outcome, results.Conflict)


async def test_a_waiting_claim_is_answered_at_once_when_the_service_stops(
    claims: Claims, store: Store
) -> None:
    ann, bob = new_session(), new_session()
    await acting.claim(store, "stops", ann, ["T-1"])
    wish = acting.asked(["T-1"], wait=25, queue=True)
    waiting = asyncio.create_task(claim.run(claims, Call(Project("stops"), wish, bob)))
    while not (await acting.show(store, "stops", "T-1")).waiters:
        await asyncio.sleep(0.01)
    claims.broadcaster.end()
    assert isinstance(await asyncio.wait_for(waiting, 2), results.Conflict)


def test_the_bounds_of_claims_are_those_of_the_wire() -> None:
    assert Bounds().min_ttl_s == 10
    assert Bounds().max_ttl_s == 86_400


async def test_a_refusal_of_several_tasks_counts_who_waits_for_each_and_tells_the_own_place(
    desk: Desk,
) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.granted(desk.ann, "T-2")
    for who in (desk.bob, desk.cat):
        assert isinstance(await desk.claim(who, "T-1", queue=True), results.Conflict)
    for who, places in ((desk.bob, [1, None]), (desk.cat, [2, None])):
        for mode in ("any", "all"):
            refused = await desk.claim(who, "T-1", "T-2", mode=mode)
            assert isinstance(refused, results.Conflict)
            assert [one.position for one in refused.refusals] == places
            assert [one.claim.waiters for one in refused.refusals] == [2, 0]


async def test_a_place_in_each_of_several_queues_is_given_up_when_one_comes_free(
    desk: Desk,
) -> None:
    for number in (1, 2, 3):
        await desk.granted(desk.ann, f"deploy/{number}")
    slots = ("deploy/1", "deploy/2", "deploy/3")
    first = await desk.claim(desk.bob, *slots, mode="any", queue=True)
    assert [refusal.position for refusal in first.refusals] == [1, 1, 1]
    second = await desk.claim(desk.cat, *slots, mode="any", queue=True)
    assert [refusal.position for refusal in second.refusals] == [2, 2, 2]
    await desk.release(desk.ann, "deploy/2")
    early = await desk.claim(desk.cat, *slots, mode="any", queue=True)
    assert [refusal.reason for refusal in early.refusals] == ["held", "reserved", "held"]
    won = await desk.claim(desk.bob, *slots, mode="any", queue=True)
    assert [claim.task for claim in won.claims] == ["deploy/2"]
    for task, waiters in (("deploy/1", 1), ("deploy/2", 1), ("deploy/3", 1)):
        shown = await desk.show(task)
        assert (shown.waiters, [waiter.label for waiter in shown.queue]) == (waiters, ["cat"])
    await desk.release(desk.ann, "deploy/3")
    assert (await desk.claim(desk.cat, *slots, mode="any", queue=True)).claims[0].task == "deploy/3"
    assert [(await desk.show(task)).waiters for task in slots] == [0, 0, 0]


async def test_who_stopped_asking_keeps_a_free_task_for_five_seconds_only(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=3600)
    for _ in range(3):
        await desk.refused(new_session(), "T-1", queue=True)
    await desk.pass_time(61)
    await desk.refused(desk.bob, "T-1", queue=True)
    await desk.release(desk.ann, "T-1")
    refusal = await desk.refused(desk.bob, "T-1", queue=True)
    assert (refusal.reason, refusal.position) == ("reserved", 4)
    await desk.pass_time(16)
    await desk.granted(desk.bob, "T-1", queue=True)


async def test_who_asked_within_the_last_minute_has_the_whole_window(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=3600)
    await desk.refused(desk.bob, "T-1", queue=True)
    await desk.pass_time(59)
    await desk.release(desk.ann, "T-1")
    await desk.pass_time(50)
    assert (await desk.refused(desk.cat, "T-1")).reason == "reserved"
    await desk.granted(desk.bob, "T-1", queue=True)


@pytest.mark.parametrize(
    "rules", [Rules(rate_per_session=0, rate_per_project=0, tickets_per_task=1)]
)
async def test_who_finds_a_queue_of_several_full_has_a_place_in_none(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.granted(desk.ann, "T-2")
    await desk.refused(desk.bob, "T-2", queue=True)
    told = await desk.events()
    refused = await desk.claim(desk.cat, "T-1", "T-2", mode="any", queue=True)
    assert isinstance(refused, results.OverQuota), refused
    assert (refused.whose, refused.unsure) == ("queue", False)
    assert (await desk.show("T-1")).waiters == 0
    assert await desk.events() == told
    mine = await desk.claim(desk.bob, "T-2", "T-1", mode="any", queue=True)
    assert [refusal.position for refusal in mine.refusals] == [1, 1], (
        "a waiter keeps its place in a full queue"
    )


async def test_queues_of_tasks_that_are_done_or_kept_back_are_not_waited_in(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.granted(desk.ann, "T-2")
    await desk.release(desk.ann, "T-2", outcome="done")
    refused = await desk.claim(desk.bob, "T-2", "T-1", mode="any", queue=True)
    assert [refusal.position for refusal in refused.refusals] == [None, 1]
