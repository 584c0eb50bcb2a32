"""Rules 5, 10, 11 and break: fences guard every ending, losers are told, done stays done."""

from tests.conftest import Desk

from dibs import results
from dibs.model import Task


async def test_a_release_frees_the_task_and_a_repeat_says_already(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    first = await desk.release(desk.ann, "T-1", held.fence)
    again = await desk.release(desk.ann, "T-1", held.fence)
    assert first.releases == (results.Release(Task("T-1"), "free", False),)
    assert again.releases == (results.Release(Task("T-1"), "free", True),)
    assert (await desk.granted(desk.bob, "T-1")).fence > held.fence


async def test_a_late_duplicate_release_never_ends_a_newer_claim(desk: Desk) -> None:
    first = await desk.granted(desk.ann, "T-1")
    await desk.release(desk.ann, "T-1", first.fence)
    second = await desk.granted(desk.ann, "T-1")
    duplicate = await desk.release(desk.ann, "T-1", first.fence)
    assert duplicate.releases == (results.Release(Task("T-1"), "held", True),)
    assert (await desk.show("T-1")).fence == second.fence


async def test_a_stale_fence_touches_nothing(desk: Desk) -> None:
    first = await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(91)
    taken = await desk.granted(desk.bob, "T-1")
    for outcome in (
        await desk.beat(desk.ann, "T-1", first.fence),
        await desk.release(desk.ann, "T-1", first.fence),
        await desk.release(desk.ann, "T-1", taken.fence),
    ):
        assert isinstance(outcome, results.NotMine)
        assert (outcome.why, outcome.loss.by.label) == ("lost", "bob")
    assert (await desk.show("T-1", desk.bob)).mine


async def test_a_stranger_can_neither_extend_nor_release(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    for outcome in (
        await desk.beat(desk.bob, "T-1", held.fence),
        await desk.release(desk.bob, "T-1", held.fence),
    ):
        assert isinstance(outcome, results.NotMine)
        assert outcome.why == "not-holder"
    assert (await desk.show("T-1")).state == "held"


async def test_releasing_all_ends_every_claim_of_the_session_and_no_other(desk: Desk) -> None:
    await desk.claim(desk.ann, "T-1", "T-2", mode="all")
    await desk.granted(desk.bob, "T-3")
    outcome = await desk.release(desk.ann, None)
    assert [release.task for release in outcome.releases] == ["T-1", "T-2"]
    assert (await desk.show("T-3")).state == "held"


async def test_done_stays_done_with_evidence_until_reopened(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    pr = "https://example.org/pull/7"
    await desk.release(desk.ann, "T-1", held.fence, outcome="done", pr=pr, note="all green")
    await desk.pass_time(60)
    refusal = await desk.refused(desk.bob, "T-1", queue=True)
    assert (refusal.reason, refusal.retry_after_s, refusal.position) == ("done", None, None)
    assert (refusal.claim.pr, refusal.claim.note, refusal.claim.holder.label) == (
        pr,
        "all green",
        "ann",
    )
    again = await desk.granted(desk.bob, "T-1", reopen=True)
    assert again.previous.outcome == "done"
    assert again.fence > held.fence


async def test_the_last_holder_may_finish_a_lapsed_claim_that_nobody_took(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(300)
    outcome = await desk.release(desk.ann, "T-1", held.fence, outcome="done")
    assert outcome.releases[0].state == "done"


async def test_whoever_lost_a_claim_hears_it_once_in_any_next_post(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(91)
    await desk.granted(desk.bob, "T-1", note="trying another way")
    outcome = await desk.claim(desk.ann, "T-2")
    [loss] = outcome.lost
    assert (loss.task, loss.fence, loss.reason) == ("T-1", held.fence, "lapsed")
    assert (loss.by.label, loss.note) == ("bob", "trying another way")
    assert (await desk.beat(desk.ann)).lost == ()


async def test_a_retry_of_the_request_that_told_hears_it_again(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(91)
    await desk.granted(desk.bob, "T-1")
    first = await desk.beat(desk.ann, request="r-1")
    retry = await desk.beat(desk.ann, request="r-1")
    assert len(first.lost) == len(retry.lost) == 1
    assert (await desk.beat(desk.ann, request="r-2")).lost == ()


async def test_a_broken_claim_is_free_and_its_holder_hears_who_and_why(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    outcome = await desk.break_("T-1", held.fence, reason="laptop is gone", by="lead")
    assert outcome.releases == (results.Release(Task("T-1"), "free", False),)
    late = await desk.beat(desk.ann, "T-1", held.fence)
    assert (late.why, late.loss.reason, late.loss.by.label) == ("lost", "broken", "lead")
    assert late.loss.note == "laptop is gone"
    taken = await desk.granted(desk.bob, "T-1")
    assert (taken.previous.outcome, taken.previous.note) == ("broken", None)


async def test_a_break_with_another_fence_breaks_nothing(desk: Desk) -> None:
    first = await desk.granted(desk.ann, "T-1")
    await desk.release(desk.ann, "T-1")
    second = await desk.granted(desk.bob, "T-1")
    outcome = await desk.break_("T-1", first.fence)
    assert isinstance(outcome, results.Moved)
    assert outcome.now.fence == second.fence
    assert (await desk.show("T-1")).state == "held"


async def test_a_break_asked_twice_breaks_once(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await desk.break_("T-1", held.fence)
    outcome = await desk.break_("T-1", held.fence)
    assert outcome.releases[0].already
    assert await desk.events() == ["claimed T-1", "broken T-1"]
