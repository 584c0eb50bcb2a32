"""Rules 21, 23, 24 and 25: the team's list, which of its tasks are ready, and who gets the next."""

import asyncio
import itertools
from typing import Any

import pytest
from tests.conftest import Desk
from tests.harness import acting
from tests.harness.services import new_session

from dibs import results
from dibs.model import Claim
from dibs.problems import ProblemError
from dibs.store import Rules
from dibs.store.store import INDEX

QUICK = Rules(
    ttl_ms=20_000,
    grace_ms=5_000,
    max_hold_ms=60_000,
    review_ms=600_000,
    handover_ms=8_000,
    ticket_ms=15_000,
    retention_ms=60_000,
    done_retention_ms=60_000,
    history_ms=60_000,
    rate_per_session=0,
    rate_per_project=0,
)
quick = pytest.mark.parametrize("rules", [QUICK])


async def write(desk: Desk, *entries: dict[str, Any] | str, **how: Any) -> list[str]:
    """Write these entries; return the change of each."""
    named = [{"task": entry} if isinstance(entry, str) else entry for entry in entries]
    outcome = await acting.tasks(desk.store, desk.project, desk.ann, named, **how)
    assert isinstance(outcome, results.Written), outcome
    return list(outcome.changes)


async def states(desk: Desk, **query: Any) -> list[str]:
    """Return the list in its order, as "task state"."""
    page = await acting.backlog(desk.store, desk.project, **query)
    return [f"{task.task} {task.state}" for task in page.tasks]


async def take(desk: Desk, who: Any, **wish: Any) -> Claim:
    """Claim the next task, and assert that it is granted."""
    outcome = await desk.claim(who, mode="next", **wish)
    assert isinstance(outcome, results.Granted), outcome
    return outcome.claims[0]


async def nothing(desk: Desk, who: Any, **wish: Any) -> results.NothingReady:
    """Claim the next task, and assert that none is ready."""
    outcome = await desk.claim(who, mode="next", **wish)
    assert isinstance(outcome, results.NothingReady), outcome
    return outcome


def needs(task: str, *others: str, **more: Any) -> dict[str, Any]:
    """Return an entry of the list that needs `others`."""
    return {"task": task, "needs": list(others), **more}


async def done(desk: Desk, *tasks: str) -> None:
    """Let a new session claim and finish each of these tasks."""
    for task in tasks:
        who = new_session()
        await desk.granted(who, task)
        await desk.release(who, task, outcome="done")


async def test_the_next_is_the_first_by_priority_and_then_by_its_place(
    desk: Desk,
) -> None:
    await write(desk, "T-1", {"task": "T-2", "priority": 0}, "T-3", {"task": "T-4", "priority": 0})
    got = [(await take(desk, new_session())).task for _ in range(4)]
    assert got == ["T-2", "T-4", "T-1", "T-3"]


async def test_each_of_many_sessions_at_once_gets_another_task(desk: Desk) -> None:
    await write(desk, *(f"T-{number}" for number in range(30)))
    outcomes = await asyncio.gather(*(desk.claim(new_session(), mode="next") for _ in range(40)))
    got = [one.claims[0].task for one in outcomes if isinstance(one, results.Granted)]
    assert sorted(got) == sorted(f"T-{number}" for number in range(30))
    assert sum(isinstance(one, results.NothingReady) for one in outcomes) == 10


async def test_the_reply_has_what_is_written_down(desk: Desk) -> None:
    entry = {"title": "Parse", "body": "All\nof it", "tags": ["web"], "url": "https://e.org/1"}
    await write(desk, "T-1", needs("T-2", "T-1", priority=0, **entry))
    await done(desk, "T-1")
    listed = (await take(desk, desk.bob)).listed
    assert listed
    assert (listed.title, listed.body, listed.priority) == ("Parse", "All\nof it", 0)
    assert (listed.needs, listed.tags, listed.url) == (("T-1",), ("web",), "https://e.org/1")


async def test_who_works_on_a_task_gets_that_one_back(desk: Desk) -> None:
    await write(desk, "T-1", "T-2")
    first = await take(desk, desk.ann)
    again = await desk.claim(desk.ann, mode="next")
    assert (again.new, again.claims[0].fence) == (0, first.fence)


async def test_who_parked_a_task_gets_another(desk: Desk) -> None:
    await write(desk, "T-1", "T-2")
    await take(desk, desk.ann)
    await desk.beat(desk.ann, "T-1", state="parked")
    assert (await take(desk, desk.ann)).task == "T-2"


async def test_a_tag_narrows_what_is_next(desk: Desk) -> None:
    await write(desk, "T-1", {"task": "T-2", "tags": ["web", "urgent"]})
    assert (await take(desk, desk.ann, tag="urgent")).task == "T-2"
    await nothing(desk, desk.bob, tag="urgent")
    await nothing(desk, desk.bob, tag="no such tag")


async def test_a_tag_has_what_has_it_now_and_is_ready(desk: Desk) -> None:
    await write(desk, {"task": "T-1", "tags": ["web"]}, needs("T-2", "T-1", tags=["web", "api"]))
    await write(desk, {"task": "T-3", "tags": ["web"]})
    await write(desk, {"task": "T-3", "tags": []})
    assert (await take(desk, desk.ann, tag="web")).task == "T-1"
    told = await nothing(desk, desk.bob, tag="web")
    assert (told.held, told.blocked, told.cooling) == (1, 1, 0)
    await desk.release(desk.ann, "T-1", outcome="done")
    assert (await take(desk, desk.bob, tag="api")).task == "T-2"
    await desk.release(desk.bob, "T-2")
    await desk.granted(desk.ann, "T-1", reopen=True)
    for tag in ("web", "api"):
        assert (await nothing(desk, desk.bob, tag=tag)).cooling == 0
    await desk.release(desk.ann, "T-1", outcome="done")
    assert (await take(desk, desk.bob, tag="web")).task == "T-2"


async def test_a_task_is_ready_only_when_every_need_is_done(desk: Desk) -> None:
    await write(desk, needs("T-3", "T-1", "T-2"), "T-1", "T-2")
    assert await states(desk) == ["T-3 blocked", "T-1 ready", "T-2 ready"]
    await done(desk, "T-1")
    assert await states(desk) == ["T-3 blocked", "T-1 done", "T-2 ready"]
    await done(desk, "T-2")
    assert (await take(desk, desk.bob)).task == "T-3"
    assert "ready T-3" in await desk.events()


@pytest.mark.parametrize("outcome", ["released", "abandoned"])
async def test_a_need_that_was_given_up_is_not_done(desk: Desk, outcome: str) -> None:
    await write(desk, needs("T-2", "T-1"), "T-1")
    await desk.granted(desk.ann, "T-1")
    await desk.release(desk.ann, "T-1", outcome=outcome)
    assert await states(desk) == ["T-2 blocked", "T-1 ready"]


async def test_a_need_that_is_taken_up_again_blocks_again(desk: Desk) -> None:
    await write(desk, needs("T-2", "T-1"), "T-1")
    await done(desk, "T-1")
    assert await states(desk) == ["T-2 ready", "T-1 done"]
    await desk.granted(desk.bob, "T-1", reopen=True)
    assert await states(desk) == ["T-2 blocked", "T-1 held"]
    await nothing(desk, desk.ann)


async def test_a_need_that_nobody_listed_blocks_until_it_is_done(desk: Desk) -> None:
    await write(desk, needs("T-2", "elsewhere"))
    assert await states(desk) == ["T-2 blocked"]
    await done(desk, "elsewhere")
    assert await states(desk) == ["T-2 ready"]


@quick
async def test_a_need_that_nobody_knows_any_more_blocks_again(desk: Desk) -> None:
    await write(desk, needs("T-2", "elsewhere"))
    await done(desk, "elsewhere")
    await desk.pass_time(61)
    await desk.store.sweep(desk.project)
    assert await states(desk) == ["T-2 blocked"]


async def test_a_blocked_task_is_refused_by_name_and_says_who_has_its_need(desk: Desk) -> None:
    await write(desk, needs("T-2", "T-1"), "T-1")
    held = await desk.granted(desk.ann, "T-1", label="ann")
    refusal = await desk.refused(desk.bob, "T-2")
    assert refusal.reason == "blocked"
    [need] = refusal.needs
    assert isinstance(need, Claim)
    assert (need.task, need.fence) == ("T-1", held.fence)
    assert (await desk.refused(desk.bob, "T-2", reopen=True)).reason == "blocked"


async def test_who_holds_a_task_keeps_it_when_it_becomes_blocked(desk: Desk) -> None:
    await write(desk, "T-2")
    await desk.granted(desk.ann, "T-2")
    await write(desk, needs("T-2", "T-1"), "T-1")
    assert isinstance(await desk.beat(desk.ann, "T-2"), results.Renewed)
    assert (await desk.claim(desk.ann, "T-2")).new == 0
    await desk.release(desk.ann, "T-2")
    assert (await desk.refused(desk.bob, "T-2")).reason == "blocked"


@pytest.mark.parametrize("path", [["T-1", "T-2"], ["T-1", "T-2", "T-3", "T-4"]])
async def test_a_circle_of_needs_is_refused_with_its_path_and_nothing_is_written(
    desk: Desk, path: list[str]
) -> None:
    known = [needs(task, after) for task, after in itertools.pairwise(path)]
    last = needs(path[-1], path[0], title="last")
    await write(desk, *known)
    before = await states(desk)
    outcome = await acting.tasks(desk.store, desk.project, desk.ann, [{"task": "new"}, last])
    assert isinstance(outcome, results.Circle)
    assert sorted(outcome.path) == sorted(path)
    turned = outcome.path.index("T-1")
    assert [*outcome.path[turned:], *outcome.path[:turned]] == path
    assert await states(desk) == before


async def test_a_circle_within_one_request_is_refused(desk: Desk) -> None:
    entries = [needs("A", "B"), needs("B", "C"), needs("C", "B")]
    outcome = await acting.tasks(desk.store, desk.project, desk.ann, entries)
    assert isinstance(outcome, results.Circle)
    assert sorted(outcome.path) == ["B", "C"]


async def test_a_circle_that_closes_when_a_dropped_task_is_listed_again_is_refused(
    desk: Desk,
) -> None:
    await write(desk, needs("A", "B"), "B")
    await write(desk, {"task": "A", "drop": True})
    assert await write(desk, needs("B", "A")) == ["updated"]
    outcome = await acting.tasks(desk.store, desk.project, desk.ann, [{"task": "A"}])
    assert isinstance(outcome, results.Circle)
    assert await states(desk) == ["B blocked"]
    assert await write(desk, needs("A"), "B") == ["updated", "unchanged"]


async def test_a_need_that_goes_away_makes_a_circle_none(desk: Desk) -> None:
    await write(desk, needs("A", "B"), "B")
    assert await write(desk, needs("A"), needs("B", "A")) == ["updated", "updated"]
    assert await states(desk) == ["A ready", "B blocked"]


async def test_every_bad_entry_is_named_and_none_is_written(desk: Desk) -> None:
    entries: list[dict[str, Any]] = [{"task": "fine"}, {"task": "T-1", "priority": 9}]
    entries += [needs("T-2", "T-2")]
    entries += [{"task": "fine"}, {"task": " T-3"}, {"task": "T-4", "colour": "red"}]
    with pytest.raises(ProblemError) as refused:
        await acting.tasks(desk.store, desk.project, desk.ann, entries)
    fields = {error["field"] for error in refused.value.body["errors"]}
    assert fields == {
        *("tasks.1.priority", "tasks.2.needs", "tasks.3.task"),
        *("tasks.4.task", "tasks.5.colour"),
    }
    assert await states(desk) == []


async def test_the_same_list_again_changes_nothing(desk: Desk) -> None:
    entries = [needs("T-2", "T-1", title="two", body="text", tags=["a", "b"]), {"task": "T-1"}]
    assert await write(desk, *entries) == ["created", "created"]
    told = await desk.events()
    assert await write(desk, *entries) == ["unchanged", "unchanged"]
    assert await desk.events() == told


async def test_what_is_not_given_stays_and_what_is_given_empty_goes(desk: Desk) -> None:
    await write(desk, {"task": "T-1", "title": "one", "body": "text", "priority": 1})
    assert await write(desk, {"task": "T-1", "title": "two"}) == ["updated"]
    assert await write(desk, {"task": "T-1", "body": ""}) == ["updated"]
    listed = (await acting.task(desk.store, desk.project, "T-1")).now.listed
    assert listed
    assert (listed.title, listed.body, listed.priority) == ("two", None, 1)


async def test_writing_the_list_touches_no_claim_and_no_done(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1", note="mine")
    await done(desk, "T-2")
    await write(desk, "T-1", "T-2", {"task": "T-3"})
    await write(desk, {"task": "T-1", "title": "one"}, {"task": "T-2", "drop": True})
    now = await desk.show("T-1", desk.ann)
    assert isinstance(now, Claim)
    assert (now.fence, now.note, now.state) == (held.fence, "mine", "held")
    assert (await desk.show("T-2")).state == "done"


async def test_a_dry_run_says_what_would_change_and_changes_nothing(desk: Desk) -> None:
    assert await write(desk, "T-1", dry_run=True) == ["created"]
    assert await states(desk) == []
    assert await desk.events() == []


async def test_a_dropped_task_is_not_handed_out_until_it_is_listed_again(
    desk: Desk,
) -> None:
    await write(desk, "T-1", needs("T-2", "T-1"))
    assert await write(desk, {"task": "T-1", "drop": True}) == ["dropped"]
    assert await write(desk, {"task": "T-1", "drop": True}) == ["unchanged"]
    await nothing(desk, desk.bob)
    assert await states(desk) == ["T-2 blocked"]
    assert await states(desk, state="dropped") == ["T-1 free"]
    assert await write(desk, "T-1") == ["updated"]
    assert (await take(desk, desk.bob)).task == "T-1"


async def test_a_dropped_task_needs_nothing_so_who_names_it_may_claim_it(desk: Desk) -> None:
    await write(desk, needs("T-1", "T-2"))
    assert (await desk.refused(desk.bob, "T-1")).reason == "blocked"
    await write(desk, {"task": "T-1", "drop": True})
    assert (await desk.show("T-1")).state == "free"
    await desk.granted(desk.bob, "T-1")


@quick
async def test_what_lapsed_is_next_once_its_grace_is_over(desk: Desk) -> None:
    await write(desk, "T-1")
    await take(desk, desk.ann)
    await desk.pass_time(21)
    told = await nothing(desk, desk.bob)
    assert (told.cooling, told.held) == (1, 0)
    assert told.retry_after_s == 4
    await desk.pass_time(4)
    assert (await take(desk, desk.bob)).task == "T-1"


@quick
async def test_the_head_of_a_queue_has_its_window_before_the_next(desk: Desk) -> None:
    await write(desk, "T-1")
    await take(desk, desk.ann)
    await desk.refused(desk.bob, "T-1", queue=True)
    await desk.release(desk.ann, "T-1")
    await nothing(desk, new_session())
    assert (await take(desk, desk.bob)).task == "T-1"


async def test_nothing_ready_says_why(desk: Desk) -> None:
    assert (await nothing(desk, desk.bob)).retry_after_s is None
    await write(desk, "T-1", "T-2", needs("T-3", "T-1"))
    await take(desk, desk.ann)
    await desk.granted(desk.bob, "T-2")
    await desk.beat(desk.bob, "T-2", state="parked")
    told = await nothing(desk, new_session())
    assert (told.held, told.parked, told.blocked, told.cooling) == (1, 1, 1, 0)
    assert told.retry_after_s is not None


@quick
async def test_a_listed_task_is_kept_with_its_past_for_as_long_as_it_is_listed(desk: Desk) -> None:
    await write(desk, "T-1", "T-2")
    await done(desk, "T-1")
    await desk.granted(desk.ann, "T-2", note="half")
    await desk.release(desk.ann, "T-2", note="half done")
    await desk.pass_time(200)
    await desk.store.sweep(desk.project)
    await desk.store.sweep(desk.project)
    assert await states(desk) == ["T-1 done", "T-2 ready"]
    again = await take(desk, desk.bob)
    assert again.previous
    assert (again.task, again.previous.note, again.grants) == ("T-2", "half done", 2)


async def test_a_project_with_nothing_but_a_list_is_known_for_as_long(desk: Desk) -> None:
    await write(desk, "T-1")
    await desk.store.link.command("ZADD", INDEX, "1", desk.project)  # last seen years ago
    assert desk.project in await desk.store.projects()
    assert await states(desk) == ["T-1 ready"]


async def test_a_new_name_that_looks_like_a_listed_one_says_so(desk: Desk) -> None:
    await write(desk, "T-12")
    assert (await desk.granted(desk.ann, "t-12")).resembles == ("T-12",)


async def test_pages_of_the_list_have_each_task_once(desk: Desk) -> None:
    names = [f"T-{number}" for number in range(25)]
    await write(desk, *({"task": name, "priority": len(name) % 5} for name in names))
    seen, cursor = list[str](), ""
    while True:
        page = await acting.backlog(desk.store, desk.project, limit=7, cursor=cursor)
        seen += [task.task for task in page.tasks]
        if not page.cursor:
            break
        cursor = page.cursor
    assert sorted(seen) == sorted(names)
    assert len(seen) == 25


async def test_one_task_shows_its_needs_and_its_dependents(desk: Desk) -> None:
    await write(desk, "T-1", needs("T-2", "T-1", "elsewhere"), needs("T-3", "T-2"))
    whole = await acting.task(desk.store, desk.project, "T-2")
    assert [(need.task, need.state) for need in whole.needs] == [
        ("T-1", "ready"),
        ("elsewhere", "free"),
    ]
    assert [(each.task, each.state) for each in whole.dependents] == [("T-3", "blocked")]


async def test_who_writes_the_list_hears_what_they_lost_once(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await desk.break_("T-1", held.fence, "stuck", by="lead")
    told = await acting.tasks(desk.store, desk.project, desk.ann, [{"task": "T-2"}])
    assert isinstance(told, results.Written)
    assert [(loss.task, loss.reason) for loss in told.lost] == [("T-1", "broken")]
    again = await acting.tasks(desk.store, desk.project, desk.ann, [{"task": "T-2"}])
    assert isinstance(again, results.Written)
    assert again.lost == ()
