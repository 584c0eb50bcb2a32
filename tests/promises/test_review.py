"""Rules 5, 11, 21, 22: a claim in review lives until the verdict on its pull request."""

from dataclasses import replace
from typing import Any

import pytest
from tests.conftest import Desk
from tests.harness import acting
from tests.harness.services import new_session
from tests.promises.test_tasks import QUICK, nothing, states, take, write

from dibs import messages, results
from dibs.model import Claim, Task
from dibs.problems import ProblemError

quick = pytest.mark.parametrize("rules", [QUICK])
PR = "https://github.com/acme/web/pull/7"


async def review(desk: Desk, who: Any, task: str, pr: str = PR, **wish: Any) -> Claim:
    """Put a held task in review."""
    outcome = await desk.beat(who, task, state="review", pr=pr, **wish)
    assert isinstance(outcome, results.Renewed), outcome
    return outcome.claims[0]


async def resolve(desk: Desk, **given: Any) -> results.Release:
    """Report the verdict, as CI."""
    outcome = await acting.resolve(desk.store, desk.project, **given)
    assert isinstance(outcome, results.Ended), outcome
    return outcome.releases[0]


async def test_a_task_in_review_is_refused_with_its_pull_request(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1", branch="feat/one")
    shown = await review(desk, desk.ann, "T-1", note="ready")
    assert (shown.state, shown.fence, shown.pr) == ("review", held.fence, PR)
    assert 6 * 86_400 < shown.expires_in <= 7 * 86_400
    refusal = await desk.refused(desk.bob, "T-1", reopen=True)
    assert (refusal.reason, refusal.claim.state) == ("held", "review")
    said = messages.refused(refusal)
    assert "is in review, held by ann" in said
    assert PR in said
    assert "review T-1" in await desk.events()


@quick
async def test_a_review_needs_no_heartbeats_and_is_not_under_max_hold(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    await review(desk, desk.ann, "T-1")
    await desk.pass_time(300)
    assert (await desk.show("T-1")).state == "review"
    assert (await desk.refused(desk.bob, "T-1")).reason == "held"


async def test_what_a_session_does_for_all_its_claims_leaves_a_review_alone(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.granted(desk.ann, "T-2")
    in_review = await review(desk, desk.ann, "T-1")
    for state in ("", "working", "parked"):
        kept = await desk.beat(desk.ann, None, state=state)
        assert isinstance(kept, results.Renewed)
        now = {claim.task: claim.state for claim in kept.claims}
        assert now == {"T-1": "review", "T-2": "parked" if state == "parked" else "held"}
    ended = await desk.release(desk.ann, None)
    assert [each.task for each in ended.releases] == ["T-2"]
    assert (await desk.show("T-1")).expires_at == in_review.expires_at
    assert (await desk.refused(new_session(), "T-1")).claim.state == "review"


@quick
async def test_who_goes_on_with_a_reviewed_task_has_max_hold_anew_and_keeps_it_for_the_verdict(
    desk: Desk,
) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await desk.pass_time(15)
    in_review = await review(desk, desk.ann, "T-1")
    await desk.pass_time(100)
    again = await desk.granted(desk.ann, "T-1")
    assert (again.fence, again.state, again.ttl) == (held.fence, "held", 20)
    assert again.expires_at == in_review.expires_at
    for _ in range(4):
        await desk.pass_time(14)
        await desk.beat(desk.ann, "T-1", state="working")
    assert (await desk.show("T-1")).expires_at == in_review.expires_at
    assert "resumed T-1" in await desk.events()
    await desk.pass_time(300)  # its session is gone, and the pull request is still open
    assert (await desk.refused(desk.bob, "T-1")).reason == "held"
    await resolve(desk, pr=PR, outcome="merged")
    assert (await desk.show("T-1")).state == "done"


@quick
async def test_who_goes_on_when_a_review_is_nearly_over_has_the_time_of_work(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    in_review = await review(desk, desk.ann, "T-1")
    await desk.pass_time(in_review.expires_in - 5)
    for _ in range(3):
        await desk.beat(desk.ann, "T-1")
        await desk.pass_time(14)
    assert (await desk.show("T-1")).state == "held"


@pytest.mark.parametrize("state", ["working", "parked"])
async def test_who_goes_on_with_a_reviewed_task_and_ends_all_leaves_it_in_review(
    desk: Desk, state: str
) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.granted(desk.ann, "T-2")
    await review(desk, desk.ann, "T-1")
    await desk.beat(desk.ann, "T-1", state=state)
    ended = await desk.release(desk.ann, None)
    assert [each.task for each in ended.releases] == ["T-2"]
    assert (await desk.refused(desk.bob, "T-1")).claim.state == "review"
    ended = await desk.release(desk.ann, "T-1")
    assert [each.state for each in ended.releases] == ["free"], "a release by name ends a review"


async def test_a_pull_request_may_be_told_with_any_act_of_the_holder(desk: Desk) -> None:
    claim = await desk.granted(desk.ann, "T-1", pr=PR)
    assert claim.pr == PR
    await desk.beat(desk.ann, "T-1", pr=PR + "8")
    assert (await desk.show("T-1")).pr == PR + "8"


@pytest.mark.parametrize("by", ["task", "pr", "branch"])
async def test_merged_makes_the_task_done_and_its_dependents_ready(desk: Desk, by: str) -> None:
    await write(desk, "T-1", {"task": "T-2", "needs": ["T-1"]})
    await desk.granted(desk.ann, "T-1", branch="feat/one")
    await review(desk, desk.ann, "T-1")
    named = {"task": "T-1", "pr": PR + "/files?w=1#diff", "branch": "feat/one"}[by]
    ended = await resolve(desk, **{by: named}, sha="a" * 40, by="github")
    assert (ended.task, ended.state, ended.already) == ("T-1", "done", False)
    assert await states(desk) == ["T-1 done", "T-2 ready"]
    assert (await resolve(desk, **{by: named})).already
    assert (await desk.refused(desk.bob, "T-1")).reason == "done"
    released = await desk.release(desk.ann, "T-1", outcome="done")
    assert released.releases[0].already
    [event] = [e for e in await desk.store.events.read(desk.project, "", 99) if e.type == "done"]
    assert (event.by, event.pr) == ("github", PR)


@quick
async def test_merged_makes_a_task_done_that_had_lapsed_and_that_nobody_took(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", pr=PR)
    await desk.pass_time(30)
    assert (await desk.show("T-1")).state == "lapsed"
    assert (await resolve(desk, pr=PR)).state == "done"


@quick
async def test_a_verdict_on_an_old_pull_request_never_touches_a_newer_tenure(desk: Desk) -> None:
    old = await desk.granted(desk.ann, "T-1", pr=PR, branch="feat/one")
    await desk.pass_time(30)
    new = await desk.granted(desk.bob, "T-1")
    for given in ({"pr": PR}, {"branch": "feat/one"}, {"task": "T-1", "fence": old.fence}):
        for outcome in ("merged", "rejected"):
            moved = await acting.resolve(desk.store, desk.project, outcome=outcome, **given)
            assert isinstance(moved, results.Moved), given
    now = await desk.show("T-1")
    assert isinstance(now, Claim)
    assert (now.fence, now.state) == (new.fence, "held")


async def test_rejected_frees_the_task_and_tells_the_next_and_the_author(desk: Desk) -> None:
    await write(desk, "T-1")
    held = await take(desk, desk.ann, branch="feat/one")
    await review(desk, desk.ann, "T-1")
    ended = await resolve(desk, pr=PR, outcome="rejected", note="wrong way", by="github")
    assert (ended.state, ended.already) == ("ready", False)
    assert (await resolve(desk, pr=PR, outcome="rejected")).already
    second = await take(desk, desk.bob)
    before = second.previous
    assert before
    assert (before.outcome, before.pr, before.holder.branch) == ("rejected", PR, "feat/one")
    assert (before.note, second.attempt) == ("wrong way", 2)
    heard = await desk.beat(desk.ann, None)
    assert isinstance(heard, results.Renewed)
    [loss] = heard.lost
    assert (loss.task, loss.reason, loss.pr, loss.fence) == ("T-1", "rejected", PR, held.fence)
    assert "was rejected" in messages.lost(loss)


async def test_a_task_that_its_session_called_done_is_ready_again_when_that_is_rejected(
    desk: Desk,
) -> None:
    await write(desk, "T-1", {"task": "T-2", "needs": ["T-1"]})
    await desk.granted(desk.ann, "T-1")
    await desk.release(desk.ann, "T-1", outcome="done", pr=PR)
    assert await states(desk) == ["T-1 done", "T-2 ready"]
    assert (await resolve(desk, pr=PR, outcome="rejected")).state == "ready"
    assert await states(desk) == ["T-1 ready", "T-2 blocked"]
    assert (await desk.show("T-1")).attempt == 2


async def test_a_merge_of_what_its_session_called_done_is_noted_and_stands(desk: Desk) -> None:
    await write(desk, "T-1", {"task": "T-2", "needs": ["T-1"]})
    await desk.granted(desk.ann, "T-1")
    await desk.release(desk.ann, "T-1", outcome="done", pr=PR)
    assert not (await desk.show("T-1")).merged
    assert not (await resolve(desk, pr=PR, sha="a" * 40, by="octo@github")).already
    done = await desk.show("T-1")
    assert isinstance(done, Claim)
    assert (done.merged, done.pr) == (True, PR)
    events = await desk.store.events.read(desk.project, "", 99)
    assert [event.by for event in events if event.type == "done"] == [None, "octo@github"]
    for outcome in ("merged", "rejected"):
        again = await resolve(desk, pr=PR, outcome=outcome)
        assert (again.state, again.already) == ("done", True)
    assert await states(desk) == ["T-1 done", "T-2 ready"]
    assert (await desk.show("T-1")).merged
    await acting.retry(desk.store, desk.project, "T-1", reason="it broke the build", by="lea")
    for outcome in ("merged", "rejected"):
        assert (await resolve(desk, pr=PR, outcome=outcome)).state == "ready"
    assert (await desk.granted(desk.bob, "T-1")).previous.pr == PR


async def on(desk: Desk, *states: str, **face: Any) -> list[str]:
    """Return the claims on a pull request or branch, as "task state"."""
    page = await acting.list_(desk.store, desk.project, states=states or ALL, limit=200, **face)
    assert page.cursor is None
    return [f"{claim.task} {claim.state}" for claim in page.claims]


ALL = ("held", "parked", "review", "lapsed", "done")


@quick
async def test_a_claim_is_found_by_its_pull_request_or_else_by_its_branch(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", branch="feat/one", pr=PR)
    await desk.granted(desk.bob, "T-2", branch="feat/one")
    assert await on(desk, branch="feat/one") == ["T-1 held", "T-2 held"]
    assert await on(desk, pr=PR, branch="feat/one") == ["T-1 held"]
    assert await on(desk, pr=PR + "8", branch="feat/one") == ["T-1 held", "T-2 held"]
    assert await on(desk, pr=PR + "8") == await on(desk, branch="feat") == []
    await desk.beat(desk.ann, "T-1", pr=PR + "8")
    assert (await on(desk, pr=PR), await on(desk, pr=PR + "8")) == ([], ["T-1 held"])
    await desk.release(desk.bob, "T-2", outcome="done")
    await desk.pass_time(30)
    assert await on(desk, branch="feat/one") == ["T-1 lapsed", "T-2 done"]
    assert await on(desk, "held", branch="feat/one") == []
    await desk.granted(desk.cat, "T-1", branch="feat/two")
    assert await on(desk, branch="feat/one") == ["T-2 done"], (
        "the branch of the previous tenure does not count"
    )
    assert await on(desk, branch="feat/two") == ["T-1 held"]


@pytest.mark.parametrize("rules", [replace(QUICK, rate_per_project=0)])
async def test_a_branch_of_very_many_tasks_is_no_name_for_one_of_them(desk: Desk) -> None:
    for number in range(501):
        who = desk.ann if number == 250 else new_session()
        await desk.granted(who, f"T-{number}", branch="main")
        if who != desk.ann:
            await desk.release(who, f"T-{number}", outcome="done")
    for _ in range(5):
        outcome = await acting.resolve(desk.store, desk.project, branch="main")
        assert isinstance(outcome, results.Ambiguous), "ambiguous, whichever tasks are sampled"
        assert len(set(outcome.tasks)) == 2
    assert (await desk.show("T-250")).state == "held"
    assert len(await on(desk, "held", branch="main")) == 1


async def test_a_pull_request_is_one_whatever_the_case_of_its_url(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", pr=PR)
    assert (await resolve(desk, pr="https://GitHub.com/Acme/Web/Pull/7/Files")).task == "T-1"


async def test_a_pull_request_that_is_opened_again_has_its_task_if_nobody_took_it(
    desk: Desk,
) -> None:
    held = await desk.granted(desk.ann, "T-1", pr=PR)
    assert (await resolve(desk, pr=PR, as_="opened")).state == "review"
    await resolve(desk, pr=PR, outcome="rejected")
    assert (await resolve(desk, pr=PR, as_="opened")).state == "review"
    now = await desk.show("T-1", desk.ann)
    assert isinstance(now, Claim)
    assert (now.fence, now.mine, now.attempt) == (held.fence, True, 1)


async def test_two_tasks_on_one_branch_are_both_named_and_neither_is_touched(desk: Desk) -> None:
    for task in ("T-1", "T-2"):
        await desk.granted(desk.ann, task, branch="feat/both")
    outcome = await acting.resolve(desk.store, desk.project, branch="feat/both")
    assert isinstance(outcome, results.Ambiguous)
    assert outcome.tasks == ("T-1", "T-2")
    await desk.release(desk.ann, "T-2")
    assert (await resolve(desk, branch="feat/both")).task == "T-1"


@pytest.mark.parametrize(
    "given", [{"task": "T-9"}, {"pr": PR}, {"branch": "nobody's"}, {"task": "listed"}]
)
async def test_a_verdict_on_what_nobody_had_makes_up_no_claim(desk: Desk, given: Any) -> None:
    await write(desk, "listed")
    outcome = await acting.resolve(desk.store, desk.project, **given)
    assert isinstance(outcome, results.Unmatched)
    assert await states(desk) == ["listed ready"]


async def test_a_session_in_review_takes_the_next_and_nothing_ready_counts_it(desk: Desk) -> None:
    await write(desk, "T-1", "T-2")
    await take(desk, desk.ann)
    await review(desk, desk.ann, "T-1")
    assert (await take(desk, desk.ann)).task == "T-2"
    told = await nothing(desk, desk.bob)
    assert (told.held, told.review) == (1, 1)
    assert "1 in review" in messages.nothing_ready(told)


@quick
async def test_a_review_that_nobody_judged_lapses_with_its_pull_request(desk: Desk) -> None:
    rules = desk.store.rules
    await desk.granted(desk.ann, "T-1")
    await review(desk, desk.ann, "T-1")
    await desk.pass_time(rules.review_ms / 1000 + rules.grace_ms / 1000 + 1)
    second = await desk.granted(desk.bob, "T-1")
    assert second.previous
    assert (second.previous.outcome, second.previous.pr) == ("lapsed", PR)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "task"),
        ({"task": "T-1", "outcome": "closed"}, "outcome"),
        ({"pr": "pull/7"}, "pr"),
        ({"task": "T-1", "fence": 0}, "fence"),
    ],
)
async def test_a_bad_verdict_is_refused_with_its_field(desk: Desk, given: Any, field: str) -> None:
    with pytest.raises(ProblemError) as refused:
        await acting.resolve(desk.store, desk.project, **given)
    assert field in [error["field"] for error in refused.value.body["errors"]]


async def test_the_events_of_one_task_are_its_own_and_go_on_where_a_page_ended(desk: Desk) -> None:
    for number in range(30):
        await desk.granted(desk.ann, f"T-{number % 2}")
        await desk.release(
            desk.ann, f"T-{number % 2}", outcome="done" if number > 27 else "released"
        )
    log, seen, after = desk.store.events, list[str](), ""
    while True:
        page, after = await log.of_task(desk.project, Task("T-1"), after, 7)
        if not page:
            break
        assert {event.task for event in page} == {"T-1"}
        seen += [event.type for event in page]
    assert seen == [*["claimed", "released"] * 14, "claimed", "done"]


async def test_a_broken_claim_that_a_reopened_pull_request_brought_back_can_be_broken_again(
    desk: Desk,
) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await review(desk, desk.ann, "T-1")
    for _ in range(2):
        broken = await desk.break_("T-1", held.fence)
        assert isinstance(broken, results.Ended), broken
        assert not broken.releases[0].already
        assert (await desk.show("T-1")).state == "free"
        await resolve(desk, pr=PR, outcome="rejected")
        await acting.resolve(desk.store, desk.project, pr=PR, outcome="merged", as_="opened")
        assert (await desk.show("T-1")).state == "review"


async def test_the_reason_of_a_break_is_not_that_of_a_later_verdict(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await review(desk, desk.ann, "T-1", note="lexer tests still fail")
    await desk.break_("T-1", held.fence, "stop this", "pat")
    await resolve(desk, pr=PR, outcome="rejected", note="use streaming", by="rita")
    assert (await desk.show("T-1")).previous.note == "use streaming"


async def test_a_merge_after_a_rejection_takes_its_loss_back(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await review(desk, desk.ann, "T-1")
    await resolve(desk, pr=PR, outcome="rejected")
    await resolve(desk, pr=PR, outcome="merged")
    assert (await desk.beat(desk.ann)).lost == ()
    assert (await desk.show("T-1")).fence == held.fence


async def test_a_merge_of_another_pull_request_of_the_branch_leaves_a_done_task(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", branch="dev")
    await desk.release(desk.ann, "T-1", outcome="done", pr=PR)
    other = await acting.resolve(desk.store, desk.project, pr=f"{PR}0", branch="dev")
    assert isinstance(other, results.Moved), other
    assert (await desk.show("T-1")).pr == PR
    assert (await resolve(desk, pr=PR)).state == "done"


@quick
async def test_a_release_of_all_leaves_the_note_of_a_claim_that_lapsed(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", note="half done on branch x")
    await desk.pass_time(21)
    await desk.granted(desk.ann, "T-2", note="T-2's own")
    await desk.release(desk.ann, None, note="its session ended")
    assert (await desk.show("T-1")).previous.note == "half done on branch x"
    assert (await desk.show("T-2")).previous.note == "its session ended"
