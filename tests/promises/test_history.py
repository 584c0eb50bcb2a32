"""Tenures and their outcomes outlive the claim's retention; under pressure they are evicted."""

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.conftest import Desk
from tests.harness import acting
from tests.harness.services import new_session
from tests.promises.test_bytes import NOTE, sums, weighed

from dibs import results
from dibs.model import Tenure
from dibs.store import Rules
from dibs.store.keys import keys

QUICK = Rules(
    ttl_ms=20_000,
    park_ms=40_000,
    review_ms=50_000,
    grace_ms=5_000,
    max_hold_ms=100_000,
    retention_ms=60_000,
    done_retention_ms=90_000,
    history_ms=200_000,
    max_attempts=0,
    rate_per_session=0,
    rate_per_project=0,
)
quick = pytest.mark.parametrize("rules", [QUICK])
PR = "https://e.org/pull/7"


async def tenures(desk: Desk, task: str) -> tuple[Tenure, ...]:
    """Return the tenures of one task, the latest first."""
    return (await acting.task(desk.store, desk.project, task)).tenures


async def ended(desk: Desk, **query: Any) -> list[str]:
    """Return all tenures of the project by their end, the oldest first, as "task outcome"."""
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await acting.history(desk.store, desk.project, cursor=cursor, **query)
        found += [f"{each.task} {each.outcome}" for each in page.tenures]
        cursor = page.cursor
    return found


async def sweep(desk: Desk, *, pressed: bool = False) -> None:
    """Sweep until nothing is left to do, 20 times at most."""
    for _ in range(20):
        more, _ = await desk.store.sweep(desk.project, pressed=pressed)
        if not more:
            return
    pytest.fail("the sweep never finishes")


async def finish(desk: Desk, task: str, outcome: str = "released", **facts: Any) -> None:
    """Claim a task as a new session, and release it."""
    who = new_session()
    await desk.granted(who, task, label="ada", **facts)
    await desk.release(who, task, outcome=outcome, note=facts.get("note", ""))


@quick
@pytest.mark.parametrize("swept", [True, False])
async def test_what_was_done_with_a_task_nobody_listed_is_known_after_its_claim_is_not(
    desk: Desk, swept: bool
) -> None:
    url = "https://e.org/session/1"
    held = await desk.granted(desk.ann, "T-1", branch="fix", url=url)
    await desk.release(desk.ann, "T-1", outcome="abandoned", note="too hard", pr=PR)
    await desk.pass_time(QUICK.retention_ms / 1000 + 1)
    if swept:
        await sweep(desk)
    assert (await desk.show("T-1")).previous is None
    [tenure] = await tenures(desk, "T-1")
    assert (tenure.fence, tenure.outcome, tenure.attempt) == (held.fence, "abandoned", 1)
    assert (tenure.holder.label, tenure.holder.branch, tenure.holder.url) == ("ann", "fix", url)
    assert (tenure.note, tenure.pr, tenure.acquired_at) == ("too hard", PR, held.acquired_at)
    assert await ended(desk) == ["T-1 abandoned"]
    assert await sums(desk) == await weighed(desk)

    await desk.granted(desk.bob, "T-1")
    assert [each.fence for each in await tenures(desk, "T-1")] == [held.fence]
    await desk.release(desk.bob, "T-1")
    assert await ended(desk) == ["T-1 abandoned", "T-1 released"]


@quick
async def test_it_is_kept_for_so_long_and_then_goes_with_all_that_is_of_it(desk: Desk) -> None:
    await finish(desk, "T-1", note=NOTE)
    await finish(desk, "T-1", "done")
    await desk.pass_time(QUICK.history_ms / 1000 - 4)
    await sweep(desk)
    assert len(await tenures(desk, "T-1")) == 2
    await desk.pass_time(5)
    assert await tenures(desk, "T-1") == (), "the retention counts without a sweep"
    assert await ended(desk) == []
    await sweep(desk)
    await sweep(desk)
    found = await desk.store.link.command("KEYS", f"dibs:[{{]{desk.project}}}*")
    assert [key for key in found if ":avoided:" not in key] == []


@quick
async def test_of_a_listed_task_the_last_tenure_is_in_the_history_however_long_it_is_kept(
    desk: Desk,
) -> None:
    names = [{"task": "T-1"}, {"task": "T-2"}]
    await acting.tasks(desk.store, desk.project, desk.ann, names)
    await finish(desk, "T-1", "abandoned")
    await finish(desk, "T-2", "done")
    for _ in range(3):
        assert await ended(desk) == ["T-1 abandoned", "T-2 done"]
        await desk.pass_time(50)
        await sweep(desk)
    await desk.pass_time(60)
    await sweep(desk)
    assert await ended(desk) == []
    assert len(await tenures(desk, "T-2")) == 1, "the record of a listed task is kept"


@quick
async def test_a_tenure_says_how_long_it_was_held_and_how_long_parked(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await desk.pass_time(10)
    await desk.beat(desk.ann, "T-1", held.fence, state="parked")
    await desk.pass_time(30)
    await desk.beat(desk.ann, "T-1", held.fence, state="parked")
    await desk.pass_time(5)
    await desk.beat(desk.ann, "T-1", held.fence, state="working")
    await desk.pass_time(8)
    await desk.beat(desk.ann, "T-1", held.fence, state="review", pr=PR)
    await desk.pass_time(40)
    await acting.resolve(desk.store, desk.project, task="T-1", outcome="rejected")
    [tenure] = await tenures(desk, "T-1")
    assert abs(tenure.held_seconds - 18) <= 2, tenure
    assert abs(tenure.parked_seconds - 35) <= 2, tenure


@quick
async def test_time_after_a_lapse_counts_for_nothing(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await desk.pass_time(10)
    await desk.beat(desk.ann, "T-1", held.fence, state="parked")
    await desk.pass_time(60)
    [tenure] = await tenures(desk, "T-1")
    assert tenure.outcome == "lapsed", "no sweep has recorded the lapse"
    assert (abs(tenure.held_seconds - 10) <= 2, abs(tenure.parked_seconds - 40) <= 2) == (1, 1)
    await desk.beat(desk.ann, "T-1", held.fence)
    await desk.pass_time(5)
    await desk.release(desk.ann, "T-1")
    [tenure] = await tenures(desk, "T-1")
    assert abs(tenure.held_seconds - 15) <= 2, tenure
    assert abs(tenure.parked_seconds - 40) <= 2, tenure


@quick
async def test_a_claim_that_was_only_held_and_came_back_counts_both_its_times(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await desk.pass_time(50)
    await desk.beat(desk.ann, "T-1", held.fence)
    await desk.pass_time(5)
    await desk.release(desk.ann, "T-1")
    [tenure] = await tenures(desk, "T-1")
    assert abs(tenure.held_seconds - 25) <= 2, tenure


@quick
@pytest.mark.parametrize("verdict", ["merged", "rejected"])
async def test_a_later_verdict_adds_no_time_to_a_claim_that_had_ended(
    desk: Desk, verdict: str
) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.pass_time(10)
    if verdict == "merged":
        await desk.release(desk.ann, "T-1", outcome="done", pr=PR)
    else:
        await acting.resolve(desk.store, desk.project, task="T-1", pr=PR, outcome=verdict)
    await desk.pass_time(30)
    later = PR if verdict == "merged" else f"{PR}0"
    await acting.resolve(desk.store, desk.project, task="T-1", pr=later, outcome=verdict)
    [tenure] = await tenures(desk, "T-1")
    assert abs(tenure.held_seconds - 10) <= 2, tenure
    assert (tenure.ended_at - tenure.acquired_at).total_seconds() >= 38, "the verdict is its end"
    await finish(desk, "T-1", reopen=True)
    tenure = (await tenures(desk, "T-1"))[1]
    assert abs(tenure.held_seconds - 10) <= 2, "also in the history, once the task is claimed again"


@quick
async def test_a_claim_that_is_only_held_keeps_no_word_of_it(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.pass_time(10)
    await desk.beat(desk.ann, "T-1")
    await desk.release(desk.ann, "T-1", outcome="done")
    kept = await desk.store.link.command("GET", f"{keys(desk.project)}:task:T-1")
    assert {"mark", "worked", "parked", "attempt"}.isdisjoint(json.loads(kept))
    assert abs((await tenures(desk, "T-1"))[0].held_seconds - 10) <= 2


@quick
async def test_each_tenure_says_which_attempt_it_was(desk: Desk) -> None:
    for outcome in ("abandoned", "abandoned", "done"):
        await finish(desk, "T-1", outcome)
    assert [each.attempt for each in await tenures(desk, "T-1")] == [3, 2, 1]


@quick
async def test_of_each_task_the_last_twenty_are_kept_over_all_of_its_claims(desk: Desk) -> None:
    for _ in range(15):
        await finish(desk, "lane")
    await desk.pass_time(QUICK.retention_ms / 1000 + 1)
    await sweep(desk)
    for count in (15, 16, 17, 18, 19, 20, 20):
        assert len(await tenures(desk, "lane")) == len(await ended(desk)) == count
        await finish(desk, "lane")
    await desk.pass_time(QUICK.retention_ms / 1000 + 1)
    await sweep(desk)
    assert len(await tenures(desk, "lane")) == len(await ended(desk)) == 20
    assert await sums(desk) == await weighed(desk)


@quick
@pytest.mark.parametrize("limit", [1, 2, 7, 200])
async def test_the_pages_of_a_history_have_each_tenure_once_in_the_order_of_its_end(
    desk: Desk, limit: int
) -> None:
    expected = []
    for number in range(6):
        await finish(desk, f"T-{number % 3}", "done" if number > 3 else "released")
        expected.append(f"T-{number % 3} {'done' if number > 3 else 'released'}")
        await desk.pass_time(0.01)
    for number in range(8):  # all of them end at the same instant
        await desk.granted(desk.ann, f"all {number}")
    await desk.release(desk.ann, None)
    expected += [f"all {number} released" for number in range(8)]
    await desk.granted(desk.bob, "left")
    await desk.pass_time(QUICK.retention_ms / 1000 - 5)
    assert await ended(desk, limit=limit) == [*expected, "left lapsed"]
    await desk.pass_time(10)
    await sweep(desk)
    assert await ended(desk, limit=limit) == [*expected, "left lapsed"]


@quick
async def test_a_span_has_the_days_that_it_names(desk: Desk) -> None:
    await finish(desk, "T-1")
    day = (await tenures(desk, "T-1"))[0].ended_at.date()
    assert await ended(desk, since=f"{day}", until=f"{day}") == ["T-1 released"]
    assert await ended(desk, since=f"{day.replace(year=day.year + 1)}") == []
    assert await ended(desk, until=f"{day.replace(year=day.year - 1)}") == []


async def test_an_outage_moves_no_end_to_another_day(desk: Desk) -> None:
    await finish(desk, "T-1")
    await desk.jump(86_400 * 3)
    await desk.store.tick()
    await finish(desk, "T-2")
    days = [(await tenures(desk, f"T-{n}"))[0].ended_at.date() for n in (1, 2)]
    assert (days[1] - days[0]).days == 3
    for number, day in enumerate(days, 1):
        assert await ended(desk, since=f"{day}", until=f"{day}") == [f"T-{number} released"]


SMALL = replace(QUICK, record_bytes=64_000, done_retention_ms=10**9, history_ms=10**9)


@pytest.mark.parametrize("rules", [SMALL])
async def test_where_a_project_is_full_the_oldest_history_goes_and_nothing_that_is_in_use(
    desk: Desk,
) -> None:
    await acting.tasks(desk.store, desk.project, desk.ann, [{"task": "L-1"}, {"task": "L-2"}])
    await finish(desk, "L-1", "done")
    held = await desk.granted(desk.bob, "held", note=NOTE)
    for number in range(30):
        await finish(desk, f"T-{number}", note=NOTE)
    await desk.pass_time(QUICK.retention_ms / 1000 + 1)
    await sweep(desk)
    await desk.beat(desk.bob, "held")
    before = await ended(desk)
    assert before == ["L-1 done", *(f"T-{number} released" for number in range(30))]
    for number in range(60):
        await desk.granted(new_session(), f"N-{number}")
    assert (await desk.show("held")).fence == held.fence
    assert (await desk.refused(desk.bob, "L-1")).reason == "done"
    after = [name for name in await ended(desk) if name.startswith("T-")]
    assert 0 < len(after) < 30
    assert after == [name for name in before if name.startswith("T-")][-len(after) :]
    assert await sums(desk) == await weighed(desk)


@pytest.mark.parametrize("rules", [SMALL])
async def test_what_was_done_a_day_ago_gives_way_unless_it_is_listed(desk: Desk) -> None:
    await acting.tasks(desk.store, desk.project, desk.ann, [{"task": "L-1"}])
    await finish(desk, "L-1", "done", note=NOTE)
    done: list[str] = []
    while isinstance(
        full := await desk.claim(desk.bob, f"T-{len(done)}", note=NOTE), results.Granted
    ):  # no tenure is older than the retention
        done.append(f"T-{len(done)}")
        await desk.release(desk.bob, done[-1], outcome="done")
    assert full.whose == "bytes"
    await desk.pass_time(QUICK.retention_ms / 1000 + 1)
    await sweep(desk)
    for task in ("L-1", *done):
        assert (await desk.refused(desk.bob, task)).reason == "done"
    for number in range(20):
        await desk.granted(new_session(), f"N-{number}", note=NOTE)
    states = [(await desk.show(task)).state for task in done]
    assert states[0] == "free", "the oldest is evicted"
    assert states == sorted(states, key="free".__ne__), "none is evicted before an older one"
    assert states[-1] == "done"
    assert (await desk.refused(desk.bob, "L-1")).reason == "done"
    assert await sums(desk) == await weighed(desk)


@pytest.mark.parametrize("rules", [replace(SMALL, record_bytes=18 << 20)])
async def test_where_the_store_has_little_memory_left_history_goes_and_nothing_else(
    desk: Desk,
) -> None:
    await acting.tasks(desk.store, desk.project, desk.ann, [{"task": "L-1"}, {"task": "L-2"}])
    await finish(desk, "L-1", "done")
    await finish(desk, "L-2", "abandoned")
    await finish(desk, "old", "done")
    await finish(desk, "older")
    await desk.pass_time(QUICK.retention_ms / 1000 + 1)
    await sweep(desk)
    await finish(desk, "young", "done")
    await desk.granted(desk.ann, "held")
    await sweep(desk, pressed=True)
    await sweep(desk, pressed=True)
    assert await ended(desk) == ["L-1 done", "young done"]
    tasks = ("L-1", "L-2", "old", "young", "held")
    states = [(await desk.show(task)).state for task in tasks]
    assert states == ["done", "ready", "free", "done", "held"]
    assert (await desk.show("L-2")).previous, "a listed task keeps its last tenure"
    assert await sums(desk) == await weighed(desk)


@quick
async def test_tenures_that_a_dibs_of_before_kept_are_found_and_weighed(desk: Desk) -> None:
    await finish(desk, "T-1", note="before")
    await finish(desk, "T-1", "done")
    ask, prefix = desk.store.link.command, keys(desk.project)
    for member in await ask("ZRANGE", f"{prefix}:history", 0, -1):
        await ask("ZADD", f"{prefix}:past", 1, member.partition(" ")[2])
    await ask("DEL", f"{prefix}:history")
    await sweep(desk)
    assert await ended(desk) == ["T-1 released", "T-1 done"]
    assert await ask("EXISTS", f"{prefix}:past") == 0
    assert await sums(desk) == await weighed(desk)


@quick
@pytest.mark.parametrize("harm", ["another kind", "no JSON", "no number"])
async def test_a_history_that_nobody_can_read_keeps_no_claim_out(desk: Desk, harm: str) -> None:
    await finish(desk, "T-1")
    await finish(desk, "T-1")
    ask, prefix = desk.store.link.command, keys(desk.project)
    if harm == "another kind":
        for key in (f"{prefix}:history", f"{prefix}:tenures:T-1"):
            await ask("DEL", key)
            await ask("SET", key, "x")
    elif harm == "no JSON":
        await ask("LSET", f"{prefix}:tenures:T-1", 0, "{cut")
    else:
        await ask("ZADD", f"{prefix}:history", 7, "x")
        await ask("ZADD", f"{prefix}:history", 8, "9 nobody")
    await finish(desk, "T-1")
    assert len(await tenures(desk, "T-1")) >= 2
    assert len(await ended(desk)) >= 2
    await sweep(desk)
    await desk.pass_time(QUICK.retention_ms / 1000 + 1)
    await sweep(desk, pressed=True)
    await desk.granted(desk.ann, "T-1")
