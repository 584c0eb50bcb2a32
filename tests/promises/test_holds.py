"""Rule 28: a person puts a task or a project on hold; every act of a person has a name to it."""

from typing import Any

import pytest
from tests.conftest import Desk
from tests.harness import acting
from tests.promises.test_tasks import QUICK, nothing, states, take, write

from dibs import messages, results
from dibs.model import Fence, Project
from dibs.problems import ProblemError
from dibs.store import Rules

quick = pytest.mark.parametrize("rules", [QUICK])


async def hold(desk: Desk, task: str | None = None, **how: Any) -> results.HeldBack:
    """Put a task or the project on hold, as the lead."""
    wish = {"reason": "wait for the design", "by": "lead", **how}
    outcome = await acting.hold(desk.store, desk.project, task, **wish)
    assert isinstance(outcome, results.HeldBack), outcome
    return outcome


async def unhold(desk: Desk, task: str | None = None) -> results.Release:
    """End the hold, as the lead."""
    outcome = await acting.unhold(desk.store, desk.project, task, reason="go", by="lead")
    return outcome.releases[0]


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "not listed"])
async def test_a_task_on_hold_is_refused_and_says_who_why_and_until_when(
    desk: Desk, listed: bool
) -> None:
    if listed:
        await write(desk, "T-1")
    await hold(desk, "T-1", until="2h")
    refusal = await desk.refused(desk.bob, "T-1", reopen=True)
    assert (refusal.reason, refusal.of, refusal.claim.state) == ("on-hold", "task", "on-hold")
    assert refusal.hold
    assert (refusal.hold.by, refusal.hold.reason) == ("lead", "wait for the design")
    assert refusal.hold.until
    assert 7190 <= (refusal.retry_after_s or 0) <= 7200
    said = messages.refused(refusal)
    assert "lead put it on hold" in said
    assert '"wait for the design"' in said
    assert "on-hold T-1" in await desk.events()


async def test_next_passes_over_what_is_on_hold(desk: Desk) -> None:
    await write(desk, {"task": "T-1", "tags": ["web"]}, "T-2")
    await hold(desk, "T-1")
    assert await states(desk) == ["T-1 on-hold", "T-2 ready"]
    assert (await take(desk, desk.ann)).task == "T-2"
    told = await nothing(desk, desk.bob)
    assert (told.on_hold, told.held, told.cooling) == (1, 1, 0)
    await nothing(desk, desk.bob, tag="web")
    assert (await unhold(desk, "T-1")).state == "ready"
    assert (await take(desk, desk.bob, tag="web")).task == "T-1"


async def test_what_runs_goes_on_and_is_kept_back_when_it_ends(desk: Desk) -> None:
    await write(desk, "T-1")
    held = await take(desk, desk.ann)
    await hold(desk, "T-1")
    assert isinstance(await desk.beat(desk.ann, "T-1"), results.Renewed)
    again = await desk.granted(desk.ann, "T-1")
    assert (again.fence, again.state) == (held.fence, "held")
    assert again.hold
    await desk.release(desk.ann, "T-1")
    assert (await desk.refused(desk.bob, "T-1")).reason == "on-hold"
    assert await states(desk) == ["T-1 on-hold"]


async def test_a_project_on_hold_grants_nothing_and_renews_what_is_held(desk: Desk) -> None:
    await write(desk, "T-1", "T-2")
    held = await desk.granted(desk.ann, "T-1")
    await hold(desk)
    for wish in ({"mode": "one"}, {"mode": "any"}, {"mode": "all"}):
        outcome = await desk.claim(desk.bob, "T-2", **wish)
        assert isinstance(outcome, results.Conflict)
        [refusal] = outcome.refusals
        assert (refusal.reason, refusal.of) == ("on-hold", "project")
        assert "This project is on hold" in messages.refused(refusal)
    new = await desk.refused(desk.bob, "never heard of")
    assert (new.reason, new.claim.task) == ("on-hold", "never heard of")
    following = await desk.claim(desk.bob, mode="next")
    assert isinstance(following, results.Conflict)
    assert (await desk.granted(desk.ann, "T-1")).fence == held.fence
    assert isinstance(await desk.beat(desk.ann, "T-1"), results.Renewed)
    await desk.release(desk.ann, "T-1", outcome="done")
    assert not (await unhold(desk)).already
    await desk.granted(desk.bob, "T-2")


async def test_a_hold_on_a_project_that_does_not_exist_yet_keeps_its_first_claim_out(
    desk: Desk,
) -> None:
    await hold(desk)
    await desk.store.sweep(desk.project)
    assert (await desk.refused(desk.ann, "T-1")).reason == "on-hold"


async def test_a_person_holds_back_what_they_like_where_the_store_takes_nothing_new(
    desk: Desk,
) -> None:
    held = await desk.granted(desk.ann, "T-1")
    desk.store.room = lambda: "There is no room."
    await hold(desk, "T-1")
    await hold(desk, "never heard of")
    unknown = Project(f"{desk.project}.new")
    outcome = await acting.hold(desk.store, unknown, None, reason="freeze", by="lead")
    assert isinstance(outcome, results.HeldBack)
    desk.store.room = str
    await desk.release(desk.ann, "T-1", held.fence)
    assert (await desk.refused(desk.bob, "T-1")).reason == "on-hold"
    refused = await acting.claim(desk.store, unknown, desk.bob, ["T-1"])
    assert isinstance(refused, results.Conflict)
    assert refused.refusals[0].of == "project"


async def test_all_of_several_is_refused_where_one_is_on_hold(desk: Desk) -> None:
    await hold(desk, "T-2")
    outcome = await desk.claim(desk.ann, "T-1", "T-2", mode="all")
    assert isinstance(outcome, results.Conflict)
    assert (await desk.show("T-1")).state == "free"
    chosen = await desk.claim(desk.ann, "T-2", "T-1", mode="any")
    assert [claim.task for claim in chosen.claims] == ["T-1"]


@quick
@pytest.mark.parametrize("task", ["T-1", None], ids=["task", "project"])
@pytest.mark.parametrize("swept", [True, False], ids=["swept", "not swept"])
async def test_a_hold_ends_by_itself_when_its_time_is_over(
    desk: Desk, task: str | None, swept: bool
) -> None:
    await write(desk, "T-1")
    await hold(desk, task, until=20)
    await desk.pass_time(19)
    assert (await desk.refused(desk.bob, "T-1")).reason == "on-hold"
    await desk.pass_time(2)
    if swept:
        await desk.store.sweep(desk.project)
        assert f"off-hold {task or ''}" in await desk.events()
    assert (await take(desk, desk.bob)).task == "T-1"


@pytest.mark.parametrize("until", ["2020-01-01T00:00:00Z", "1970-01-01T00:00:00Z"])
async def test_an_instant_that_is_over_is_refused(desk: Desk, until: str) -> None:
    outcome = await acting.hold(desk.store, desk.project, "T-1", reason="r", by="lead", until=until)
    assert isinstance(outcome, results.UntilPassed)
    await desk.granted(desk.ann, "T-1")


async def test_an_instant_is_an_instant_of_the_stores_clock(desk: Desk) -> None:
    kept = await hold(desk, "T-1", until="2099-12-24T18:00:00+01:00")
    assert kept.hold.until
    assert kept.hold.until.isoformat() == "2099-12-24T17:00:00+00:00"


@pytest.mark.parametrize("until", ["soon", "-1h", 0, "2026-13-40T00:00:00Z", "", True, 1.5])
async def test_an_until_that_is_neither_span_nor_instant_is_refused(desk: Desk, until: Any) -> None:
    with pytest.raises(ProblemError) as refused:
        await acting.hold(desk.store, desk.project, "T-1", reason="r", by="lead", until=until)
    assert [error["field"] for error in refused.value.body["errors"]] == ["until"]


async def test_asked_again_a_hold_answers_already_and_another_reason_replaces_it(
    desk: Desk,
) -> None:
    assert not (await hold(desk, "T-1")).already
    assert (await hold(desk, "T-1")).already
    assert not (await hold(desk, "T-1", reason="another")).already
    refusal = await desk.refused(desk.bob, "T-1")
    assert refusal.hold
    assert refusal.hold.reason == "another"
    assert not (await unhold(desk, "T-1")).already
    assert (await unhold(desk, "T-1")).already


async def test_a_hold_for_another_time_replaces_one_and_the_same_soon_after_is_a_repeat(
    desk: Desk,
) -> None:
    async def ends(until: str | None) -> tuple[bool, Any]:
        kept = await hold(desk, "T-1", until=until)
        return kept.already, kept.hold.until

    already, first = await ends("1h")
    assert not already
    assert await ends("1h") == (True, first)
    already, longer = await ends("8h")
    assert not already
    assert (longer - first).total_seconds() == pytest.approx(7 * 3600, abs=5)
    await desk.pass_time(61)
    already, later = await ends("8h")
    assert not already, "after a minute it is a new hold, not a retry"
    assert (later - longer).total_seconds() >= 60
    assert await ends(None) == (False, None)
    assert await ends(None) == (True, None)


async def test_a_break_that_keeps_the_task_back_does_so_although_it_was_broken_before(
    desk: Desk,
) -> None:
    async def broken(fence: int, **how: Any) -> bool:
        outcome = await acting.break_(
            *(desk.store, desk.project, "T-1", Fence(fence)), reason="stuck", by="lead", **how
        )
        assert isinstance(outcome, results.Ended), outcome
        return outcome.releases[0].already

    first = (await desk.granted(desk.ann, "T-1")).fence
    assert not await broken(first)
    assert await broken(first, hold=True)
    assert (await desk.refused(desk.bob, "T-1")).reason == "on-hold"
    told = await desk.events()
    assert await broken(first, hold=True)
    assert await desk.events() == told, "a retry adds no second hold"
    await unhold(desk, "T-1")
    await desk.granted(desk.bob, "T-1")
    assert await broken(first, hold=True)
    assert (await desk.show("T-1")).hold is None, "a break of an old tenure puts nothing on hold"


@quick
async def test_a_hold_on_a_name_that_nobody_knows_is_kept_and_leaves_nothing(desk: Desk) -> None:
    await hold(desk, "T-9")
    await desk.pass_time(200)
    await desk.store.sweep(desk.project)
    assert (await desk.refused(desk.bob, "T-9")).reason == "on-hold"
    assert (await unhold(desk, "T-9")).state == "free"
    assert (await desk.show("T-9")).state == "free"
    await desk.granted(desk.bob, "T-9")


async def test_a_break_may_keep_the_task_back_at_once(desk: Desk) -> None:
    await write(desk, "T-1")
    held = await take(desk, desk.ann)
    outcome = await acting.break_(
        desk.store, desk.project, "T-1", held.fence, reason="wrong", by="lead", hold=True
    )
    assert isinstance(outcome, results.Ended)
    assert outcome.releases[0].state == "on-hold"
    refusal = await desk.refused(desk.ann, "T-1")
    assert refusal.hold
    assert (refusal.reason, refusal.hold.reason) == ("on-hold", "wrong")


@quick
async def test_who_holds_a_lapsed_task_may_go_on_although_it_is_on_hold(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await hold(desk, "T-1")
    await desk.pass_time(26)
    assert (await desk.show("T-1")).state == "on-hold"
    assert (await desk.refused(desk.bob, "T-1")).reason == "on-hold"
    assert isinstance(await desk.beat(desk.ann, "T-1"), results.Renewed)
    assert (await desk.granted(desk.ann, "T-1")).fence == held.fence


async def test_people_see_in_the_list_of_claims_what_is_on_hold_or_failed(desk: Desk) -> None:
    for number in range(3):
        await desk.granted(desk.ann, f"T-{number}")
        await desk.release(desk.ann, f"T-{number}", outcome="abandoned")
    await hold(desk, "T-0")
    for _ in range(4):
        await desk.granted(desk.ann, "T-1")
        await desk.release(desk.ann, "T-1", outcome="abandoned")
    await hold(desk, "never had")
    page = await acting.list_(
        desk.store, desk.project, states=["held", "lapsed", "failed", "on-hold"], limit=10
    )
    assert [(c.task, c.state) for c in page.claims] == [("T-1", "failed"), ("T-0", "on-hold")]


WAITING = Rules(waiting_most=2, rate_per_session=0, rate_per_project=0)


@pytest.mark.parametrize("rules", [WAITING])
async def test_next_gives_no_more_while_too_much_waits_for_people(desk: Desk) -> None:
    await write(desk, {"task": "T-1", "max_attempts": 1}, "T-2", "T-3", "T-4")
    await take(desk, desk.ann)
    await desk.release(desk.ann, "T-1", outcome="abandoned")
    await take(desk, desk.ann)
    await desk.beat(desk.ann, "T-2", state="parked")
    outcome = await desk.claim(desk.bob, mode="next")
    assert isinstance(outcome, results.Waiting)
    assert (outcome.limit, outcome.parked, outcome.failed) == (2, 1, 1)
    said = messages.waiting(outcome)
    assert "Tasks that wait for people: 1 parked, 1 failed." in said
    await desk.granted(desk.bob, "T-3")  # a claim by name is granted: somebody assigned the task
    assert (await desk.claim(desk.bob, mode="next")).claims[0].task == "T-3"
    await desk.beat(desk.ann, "T-2", state="working")
    assert (await take(desk, desk.cat)).task == "T-4"
