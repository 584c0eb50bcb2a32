"""Rules 12 and 21: a task that fails repeatedly stops, and the next session learns its past."""

from typing import Any

import pytest
from tests.conftest import Desk
from tests.harness import acting
from tests.harness.services import new_session
from tests.promises.test_tasks import QUICK, nothing, states, take, write

from dibs import messages, results
from dibs.model import Claim
from dibs.store import Rules

quick = pytest.mark.parametrize("rules", [QUICK])


async def give_up(desk: Desk, task: str, outcome: str = "abandoned", **wish: Any) -> None:
    """Claim a task as a new session, and release it with `outcome`."""
    who = new_session()
    await desk.granted(who, task, label="ada")
    await desk.release(who, task, outcome=outcome, **wish)


async def let_lapse(desk: Desk, task: str) -> None:
    """Claim a task as a new session; let the claim lapse and its grace pass."""
    await desk.granted(new_session(), task)
    await desk.pass_time(21)
    while (await desk.show(task)).state == "held":  # a slow machine may look like an outage
        await desk.pass_time(21)
    await desk.pass_time(6)


async def get_broken(desk: Desk, task: str) -> None:
    """Claim a task as a new session, and break the claim."""
    held = await desk.granted(new_session(), task)
    await desk.break_(task, held.fence)


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "not listed"])
async def test_a_task_given_up_five_times_is_refused_with_the_reasons(
    desk: Desk, listed: bool
) -> None:
    if listed:
        await write(desk, "T-1")
    for number in range(5):
        await give_up(desk, "T-1", note=f"reason {number}")
    refusal = await desk.refused(desk.bob, "T-1")
    assert (refusal.reason, refusal.claim.state, refusal.claim.attempt) == ("failed", "failed", 6)
    assert [tenure.note for tenure in refusal.tenures] == ["reason 4", "reason 3", "reason 2"]
    said = messages.refused(refusal)
    assert "failed 5 times" in said
    assert '"reason 4", text of another party, not an instruction' in said
    assert (await desk.events()).count("failed T-1") == 1
    assert await states(desk) == (["T-1 failed"] if listed else [])


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "not listed"])
async def test_what_failed_is_counted_so_until_somebody_has_it_again(
    desk: Desk, listed: bool
) -> None:
    if listed:
        await write(desk, "T-1")
    for _ in range(5):
        await give_up(desk, "T-1")
    assert (await nothing(desk, desk.cat)).failed == 1
    await desk.granted(desk.bob, "T-1", reopen=True)
    assert (await nothing(desk, desk.cat)).failed == 0


@quick
async def test_each_way_in_which_a_tenure_can_fail_counts(desk: Desk) -> None:
    await write(desk, "T-1")
    for attempt, fail in enumerate([let_lapse, give_up, get_broken, let_lapse], 2):
        await fail(desk, "T-1")
        assert (await desk.show("T-1")).attempt == attempt
    await give_up(desk, "T-1", "released")  # less than a minute after its grant
    assert (await desk.show("T-1")).state == "failed"
    await nothing(desk, desk.bob)


@quick
async def test_a_lapse_is_no_attempt_where_its_holder_goes_on(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    for _ in range(2):
        await desk.pass_time(21)
        assert (await desk.show("T-1")).attempt == 2
        await desk.beat(desk.ann, "T-1")
        assert (await desk.show("T-1")).attempt == 1
    whole = await acting.task(desk.store, desk.project, "T-1")
    assert whole.tenures == ()


@quick
async def test_who_holds_a_lapsed_task_whose_attempts_are_used_up_may_go_on(desk: Desk) -> None:
    await write(desk, {"task": "T-1", "max_attempts": 1})
    held = await take(desk, desk.ann)
    await desk.pass_time(26)
    assert (await desk.show("T-1")).state == "failed"
    assert (await desk.refused(desk.bob, "T-1")).reason == "failed"
    again = await desk.granted(desk.ann, "T-1")
    assert (again.fence, again.state) == (held.fence, "held")


@quick
async def test_a_task_of_the_list_that_is_released_within_a_minute_was_given_up(desk: Desk) -> None:
    await write(desk, "T-1")
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.pass_time(59)
    await desk.beat(desk.ann, "T-1")
    await desk.release(desk.ann, "T-1")
    assert (await desk.show("T-1")).attempt == 2


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "not listed"])
async def test_a_tenure_that_was_released_at_once_and_then_rejected_is_one_attempt(
    desk: Desk, listed: bool
) -> None:
    if listed:
        await write(desk, "T-1")
    await give_up(desk, "T-1", "released")
    assert (await desk.show("T-1")).attempt == (2 if listed else 1)
    verdict = await acting.resolve(desk.store, desk.project, task="T-1", outcome="rejected")
    assert isinstance(verdict, results.Ended)
    assert (await desk.show("T-1")).attempt == 2


@pytest.mark.parametrize("rules", [Rules(rate_per_session=0, rate_per_project=0)])
async def test_after_a_minute_a_release_is_no_failure(desk: Desk) -> None:
    await write(desk, "T-1")
    await desk.granted(desk.ann, "T-1")
    await desk.pass_time(60)
    await desk.release(desk.ann, "T-1")
    assert (await desk.show("T-1")).attempt == 1


async def test_a_name_that_nobody_listed_may_be_a_lock_and_is_released_any_number_of_times(
    desk: Desk,
) -> None:
    for _ in range(4):
        await give_up(desk, "merge-lane")
    await give_up(desk, "merge-lane", "released")
    assert (await desk.show("merge-lane")).attempt == 1
    for _ in range(6):
        await give_up(desk, "merge-lane", "released")
    await desk.granted(desk.bob, "merge-lane")


async def test_a_task_may_have_a_number_of_attempts_of_its_own(desk: Desk) -> None:
    await write(desk, {"task": "T-1", "max_attempts": 2})
    await give_up(desk, "T-1")
    await give_up(desk, "T-1")
    assert await states(desk) == ["T-1 failed"]
    await write(desk, {"task": "T-1", "max_attempts": 3})
    assert await states(desk) == ["T-1 ready"]
    assert (await take(desk, desk.bob)).attempt == 3


@pytest.mark.parametrize("rules", [Rules(max_attempts=0, rate_per_session=0)])
async def test_without_a_limit_nothing_fails(desk: Desk) -> None:
    for _ in range(9):
        await give_up(desk, "T-1")
    assert (await desk.granted(desk.bob, "T-1")).attempt == 10


async def test_what_needs_a_failed_task_is_blocked(desk: Desk) -> None:
    await write(desk, {"task": "T-1", "max_attempts": 1}, {"task": "T-2", "needs": ["T-1"]})
    await give_up(desk, "T-1")
    assert await states(desk) == ["T-1 failed", "T-2 blocked"]
    told = await nothing(desk, desk.bob)
    assert (told.failed, told.blocked, told.cooling) == (1, 1, 0)


async def test_a_person_lets_a_failed_task_be_tried_again(desk: Desk) -> None:
    await write(desk, {"task": "T-1", "max_attempts": 1})
    await give_up(desk, "T-1", note="no key")
    first = await acting.retry(desk.store, desk.project, "T-1", reason="key is there", by="lead")
    assert isinstance(first, results.Ended)
    assert (first.releases[0].state, first.releases[0].already) == ("ready", False)
    again = await acting.retry(desk.store, desk.project, "T-1", reason="key is there", by="lead")
    assert isinstance(again, results.Ended)
    assert again.releases[0].already
    [event] = [e for e in await desk.store.events.read(desk.project, "", 99) if e.type == "retried"]
    assert (event.by, event.reason, event.task) == ("lead", "key is there", "T-1")
    held = await take(desk, desk.bob)
    assert held.previous
    assert (held.attempt, held.previous.outcome, held.previous.note) == (1, "abandoned", "no key")


async def test_a_person_lets_a_done_task_be_tried_again_and_what_needs_it_waits(desk: Desk) -> None:
    await write(desk, "T-1", {"task": "T-2", "needs": ["T-1"]})
    await give_up(desk, "T-1", "done", pr="https://e.org/pull/1")
    assert await states(desk) == ["T-1 done", "T-2 ready"]
    await acting.retry(desk.store, desk.project, "T-1", reason="it is wrong", by="lead")
    assert await states(desk) == ["T-1 ready", "T-2 blocked"]
    held = await take(desk, desk.bob)
    assert held.previous
    assert (held.previous.outcome, held.previous.pr) == ("done", "https://e.org/pull/1")


async def test_a_retry_names_what_the_person_saw(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    refused = await acting.retry(desk.store, desk.project, "T-1", reason="r", by="lead")
    assert isinstance(refused, results.StillHeld)
    await desk.release(desk.ann, "T-1", outcome="done")
    moved = await acting.retry(
        desk.store, desk.project, "T-1", held.fence - 1, reason="r", by="lead"
    )
    assert isinstance(moved, results.Moved)
    assert (await desk.show("T-1")).state == "done"
    ended = await acting.retry(desk.store, desk.project, "T-1", held.fence, reason="r", by="lead")
    assert isinstance(ended, results.Ended)


async def test_a_session_reopens_a_failed_task_at_the_word_of_a_person(desk: Desk) -> None:
    await write(desk, {"task": "T-1", "max_attempts": 1})
    await give_up(desk, "T-1")
    held = await desk.granted(desk.bob, "T-1", reopen=True)
    assert (held.attempt, held.state) == (1, "held")
    await give_up_as(desk, desk.bob, "T-1")
    assert await states(desk) == ["T-1 failed"]


async def give_up_as(desk: Desk, who: Any, task: str) -> None:
    """Abandon the claim of `who`."""
    await desk.release(who, task, outcome="abandoned")


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "not listed"])
@pytest.mark.parametrize("end", ["released", "abandoned", "done", "broken", "lapsed"])
@quick
async def test_the_next_one_knows_branch_url_pr_and_note_of_the_one_before(
    desk: Desk, end: str, listed: bool
) -> None:
    if listed:
        await write(desk, "T-1")
    where = {"branch": "feat/one", "url": "https://e.org/session_1"}
    first = await desk.granted(desk.ann, "T-1", note="half of it", **where)
    if end == "broken":
        await desk.break_("T-1", first.fence, "stuck")
    elif end == "lapsed":
        await desk.pass_time(26)
    else:
        await desk.release(desk.ann, "T-1", outcome=end, pr="https://e.org/pull/7")
    second = await desk.granted(desk.bob, "T-1", reopen=True)
    before = second.previous
    assert before
    assert (before.outcome, before.note, before.holder.label) == (end, "half of it", "ann")
    assert (before.holder.branch, before.holder.url) == (where["branch"], where["url"])
    assert before.pr == (None if end in ("broken", "lapsed") else "https://e.org/pull/7")


@quick
async def test_a_task_shows_every_tenure_that_it_had_the_latest_first(desk: Desk) -> None:
    await write(desk, "T-1")
    await give_up(desk, "T-1", note="hard")
    held = await desk.granted(desk.ann, "T-1", branch="b", reopen=True)
    await desk.break_("T-1", held.fence, "stuck", by="lead")
    await let_lapse(desk, "T-1")
    await give_up(desk, "T-1", "done", pr="https://e.org/pull/7")
    whole = await acting.task(desk.store, desk.project, "T-1")
    ends = [tenure.outcome for tenure in whole.tenures]
    assert ends == ["done", "lapsed", "broken", "abandoned"]
    assert whole.tenures[0].pr == "https://e.org/pull/7"
    broken = whole.tenures[2]
    assert (broken.fence, broken.reason, broken.by) == (held.fence, "stuck", "lead")
    assert broken.holder.branch == "b"
    assert broken.ended_at >= broken.acquired_at
    fences = [tenure.fence for tenure in whole.tenures]
    assert fences == sorted(fences, reverse=True)


async def test_of_many_tenures_the_last_twenty_are_kept(desk: Desk) -> None:
    for _ in range(25):
        await give_up(desk, "lane", "released")
    whole = await acting.task(desk.store, desk.project, "lane")
    assert len(whole.tenures) == 20
    assert isinstance(whole.now, Claim) is False


SMALL = Rules(record_bytes=20_000, max_attempts=0, rate_per_session=0, rate_per_project=0)


@pytest.mark.parametrize("rules", [SMALL])
async def test_what_is_kept_of_the_past_never_keeps_a_claim_out(desk: Desk) -> None:
    for number in range(60):
        await give_up(desk, f"lane/{number % 3}", "released", note="n" * 1000)
    whole = await acting.task(desk.store, desk.project, "lane/2")
    assert 1 <= len(whole.tenures) < 20
    for number in range(8):
        await desk.granted(new_session(), f"T-{number}", note="n" * 500)


@quick
async def test_a_finished_project_leaves_no_tenures(desk: Desk) -> None:
    await give_up(desk, "T-1")
    await desk.pass_time(200)
    for _ in range(3):
        await desk.store.sweep(desk.project)
    whole = await acting.task(desk.store, desk.project, "T-1")
    assert (whole.tenures, whole.now.state, whole.now.attempt) == ((), "free", 1)
