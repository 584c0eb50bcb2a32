"""A damaged record affects only its own task: the rest of its project, and all others, go on."""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis
from tests.conftest import Desk, Stepped
from tests.harness import acting
from tests.harness.services import new_session

from dibs import messages, results
from dibs.api.telemetry import FAMILIES
from dibs.board.overview_cache import OverviewCache
from dibs.maintenance import Maintenance
from dibs.metrics import Metrics
from dibs.model import Task
from dibs.store import Damaged, Rules, Store, StoreDown, board_tasks
from dibs.store.clock import KEY as CLOCK
from dibs.store.clock import ClockReading
from dibs.store.keys import keys
from dibs.store.redis.link import PipelineLink

ALL = ("held", "parked", "lapsed", "done")
NOT_HELD = 1
"""A fence that no claim has: a break that names it ends a damaged record."""


def changed(**fields: Any) -> Callable[[bytes], bytes]:
    """Return a function that changes fields of a record; None removes the field."""

    def change(kept: bytes) -> bytes:
        record = json.loads(kept) | fields
        left = {name: value for name, value in record.items() if value is not MISSING}
        return json.dumps(left).encode()

    return change


MISSING = object()
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda kept: b"",
    "cut": lambda kept: kept[:-7],
    "zeros": lambda kept: bytes(len(kept)),
    "no object": lambda kept: b'"held"',
    "a list": lambda kept: b"[]",
    "a number": lambda kept: b"7",
    "null": lambda kept: b"null",
    "nested too deep": lambda kept: b"[" * 2000 + b"]" * 2000,
    "a byte of its state": lambda kept: kept.replace(b'"held"', b'"hemd"'),
    "no state": changed(state=MISSING),
    "no owner": changed(owner=MISSING),
    "no fence": changed(fence=MISSING),
    "no deadline": changed(due=MISSING),
    "no ttl": changed(ttl=MISSING),
    "ended, but not when": changed(state="released"),
    "a deadline in words": changed(due="soon"),
    "a deadline without end": changed(due="inf"),
    "a deadline that is none": changed(due="nan"),
    "a ttl below zero": changed(ttl="-5"),
    "a fence past all numbers": changed(fence="9" * 40),
    "a number as a number": changed(lapses=3),
    "a count in words": changed(grants="many"),
    "a note that is an object": changed(note={"a": 1}),
    "a label that is null": changed(label=None),
}


@pytest.fixture
def raw(stepped: Stepped) -> Iterator[redis.Redis]:
    """Yield a client of the store's server, to damage data."""
    client = redis.Redis.from_url(stepped[0].url)
    yield client
    client.close()


@pytest.fixture
async def desk(stepped: Stepped, rules: Rules, raw: Any) -> AsyncIterator[Desk]:
    """Yield a desk on the real store that all tests share; delete its project afterwards."""
    embedded, clock = stepped
    store = Store(PipelineLink.to(embedded.url), rules)
    await store.open()
    desk = Desk(store, clock)
    yield desk
    await store.close()
    for key in raw.keys(f"{keys(desk.project)}:*"):
        raw.delete(key)


def record(desk: Desk, task: str) -> str:
    return f"{keys(desk.project)}:task:{task}"


def damage(raw: Any, desk: Desk, task: str, how: Callable[[bytes], bytes]) -> None:
    key = record(desk, task)
    kept = raw.get(key)
    harmed = how(kept)
    assert harmed != kept, "the test damaged nothing"
    raw.set(key, harmed)


async def listed(desk: Desk, **wanted: Any) -> tuple[list[Task], list[Task]]:
    """Return the tasks in the list of claims, and the tasks that it names as damaged."""
    tasks: list[Task] = []
    damaged: list[Task] = []
    cursor = ""
    while True:
        page = await acting.list_(
            desk.store, desk.project, states=ALL, limit=2, cursor=cursor, **wanted
        )
        assert isinstance(page, results.Page)
        tasks += [claim.task for claim in page.claims]
        damaged += page.damaged
        if not page.cursor:
            return tasks, damaged
        cursor = page.cursor


async def swept(desk: Desk) -> int:
    """Sweep until nothing is left to do; return the number of held tasks."""
    for _ in range(10):
        more, counts = await desk.store.sweep(desk.project)
        if not more:
            return counts.held
    raise AssertionError("the sweep never finishes")


@pytest.mark.parametrize("how", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_record_costs_only_its_task(
    desk: Desk, raw: Any, how: Callable[[bytes], bytes]
) -> None:
    for task in ("T-1", "T-2", "T-3"):
        await desk.granted(desk.ann, task, note="mine")
    damage(raw, desk, "T-2", how)

    assert await listed(desk) == (["T-1", "T-3"], ["T-2"])
    await swept(desk)
    beaten = await desk.beat(desk.ann)
    assert sorted(claim.task for claim in beaten.claims) == ["T-1", "T-3"]
    assert (await desk.store.overview(desk.project)).held >= 2
    assert (await desk.show("T-1")).state == "held"
    assert isinstance(await desk.claim(desk.bob, "T-4"), results.Granted)

    for refused in (
        lambda: desk.claim(desk.bob, "T-2"),
        lambda: desk.claim(desk.ann, "T-2", reopen=True, queue=True),
        lambda: desk.claim(desk.bob, "T-5", "T-2", mode="all"),
        lambda: desk.claim(desk.bob, "T-2", mode="any"),
        lambda: desk.beat(desk.ann, "T-2"),
        lambda: desk.release(desk.ann, "T-2"),
        lambda: desk.show("T-2"),
        lambda: desk.break_("T-2", 17),
    ):
        with pytest.raises(Damaged, match="T-2") as said:
            await refused()
        assert not said.value.sent, "the store was not changed"
    chosen = await desk.claim(desk.bob, "T-2", "T-5", mode="any")
    assert [claim.task for claim in chosen.claims] == ["T-5"], "the first free task is granted"
    held = await desk.claim(desk.bob, "T-2", "T-3", mode="any")
    assert [refusal.claim.task for refusal in held.refusals] == ["T-3"]
    released = await desk.release(desk.ann, None)
    assert sorted(str(each.task) for each in released.releases) == ["T-1", "T-3"]


@pytest.mark.parametrize("how", ["cut", "no fence", "a deadline in words"])
async def test_a_break_that_names_fence_1_frees_a_task_whose_record_is_damaged(
    desk: Desk, raw: Any, how: str
) -> None:
    await desk.granted(desk.ann, "T-1")
    damage(raw, desk, "T-1", DAMAGES[how])
    outcome = await desk.break_("T-1", NOT_HELD, reason="record is damaged")
    assert outcome.releases == (results.Release(Task("T-1"), "free", False),)
    again = await desk.break_("T-1", NOT_HELD)
    assert again.releases == (results.Release(Task("T-1"), "free", True),), (
        "a retry ends nothing more"
    )
    assert await listed(desk) == ([], [])
    assert (await desk.events())[-1] == "broken T-1"
    taken = await desk.granted(desk.bob, "T-1")
    assert (await desk.break_("T-1", NOT_HELD)).releases[0].already, (
        "a retry does not end the next claim"
    )
    assert (await desk.show("T-1", desk.bob)).fence == taken.fence
    assert (await desk.beat(desk.ann)).claims == ()


async def test_a_break_with_fence_1_never_ends_a_claim(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    assert isinstance(await desk.break_("T-1", NOT_HELD), results.Moved)
    assert (await desk.show("T-1")).fence == held.fence


async def test_a_record_that_is_no_text_costs_only_its_task(desk: Desk, raw: Any) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.granted(desk.ann, "T-2")
    raw.delete(record(desk, "T-2"))
    raw.hset(record(desk, "T-2"), "a", "b")
    assert await listed(desk) == (["T-1"], ["T-2"])
    with pytest.raises(Damaged):
        await desk.claim(desk.bob, "T-2")
    await desk.break_("T-2", NOT_HELD)
    await desk.granted(desk.bob, "T-2")


async def test_damaged_records_neither_stop_the_sweep_nor_pile_up(
    stepped: Stepped, raw: Any, desk: Desk
) -> None:
    rules = Rules(
        ttl_ms=10_000,
        grace_ms=1_000,
        max_hold_ms=60_000,
        retention_ms=60_000,
        done_retention_ms=120_000,
        history_ms=120_000,
        rate_per_session=0,
        rate_per_project=0,
        claims_per_session=500,
    )
    store = Store(PipelineLink.to(stepped[0].url), rules)
    await store.open()
    short = Desk(store, desk.clock)
    tasks = [f"T-{number:03}" for number in range(130)]
    for start in range(0, len(tasks), 26):
        await short.claim(short.ann, *tasks[start : start + 26], mode="all")
    for task in tasks[:120]:
        damage(raw, short, task, DAMAGES["cut"])
    await short.pass_time(11)
    await swept(short)
    lapsed = [event for event in await short.events() if event.startswith("lapsed")]
    assert len(lapsed) == 10, "the readable ones lapsed, behind 120 damaged ones"
    assert len((await listed(short))[1]) == 120
    await short.granted(short.bob, "T-129")
    await short.pass_time(60)
    await swept(short)
    assert len((await listed(short))[1]) == 120, "their deadlines are unknown"
    await short.pass_time(130)
    await swept(short)
    assert await listed(short) == ([], []), "the retention of any state is over"
    await short.granted(short.bob, "T-001")
    await short.release(short.bob, None)
    await short.pass_time(61)
    await swept(short)
    left = sorted(key.decode().removeprefix(keys(short.project)) for key in raw.keys("*:task:T-*"))
    assert [key for key in left if short.project in key] == []
    await store.close()


async def test_a_damaged_loss_is_not_told_and_harms_nobody(desk: Desk, raw: Any) -> None:
    for task in ("T-1", "T-2", "T-3"):
        held = await desk.granted(desk.ann, task)
        await desk.break_(task, held.fence)
    lost = f"{keys(desk.project)}:lost:{desk.store.hashed(desk.ann)}"
    raw.hset(lost, "T-1", "{broken")
    raw.hset(lost, "T-2", json.dumps({"task": "T-2", "at": {}, "kept_until": "never"}))
    outcome = await desk.beat(desk.ann)
    assert [loss.task for loss in outcome.lost] == ["T-3"]
    assert isinstance(await desk.beat(desk.ann, "T-1"), results.NotMine)
    assert isinstance(await desk.release(desk.ann, "T-2"), results.NotMine)
    raw.zadd(f"{keys(desk.project)}:losers", {desk.store.hashed(desk.ann): 1})
    await swept(desk)
    assert raw.hkeys(lost) == [b"T-3"], "the sweep deletes unreadable losses"
    await desk.granted(desk.ann, "T-1")


async def test_losses_of_another_kind_harm_nobody(desk: Desk, raw: Any) -> None:
    lost = f"{keys(desk.project)}:lost:{desk.store.hashed(desk.ann)}"
    raw.set(lost, "text")
    held = await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.granted(desk.bob, "T-2")
    assert len((await desk.beat(desk.ann)).claims) == 1
    await desk.pass_time(61)
    await swept(desk)
    assert (await desk.beat(desk.ann, "T-1", held.fence)).claims[0].fence == held.fence


async def test_a_damaged_ticket_holds_no_place(desk: Desk, raw: Any) -> None:
    await desk.granted(desk.ann, "T-1")
    for who in (desk.bob, desk.cat):
        await desk.refused(who, "T-1", queue=True)
    queue = f"{keys(desk.project)}:queue:T-1"
    raw.hset(queue, desk.store.hashed(desk.bob), "1 x 99999")
    raw.hset(queue, "nobody", "")
    raw.hset(queue, "far", f"{'9' * 40} {'9' * 40} {'9' * 40} a\nb")
    await swept(desk)
    assert (await desk.refused(new_session(), "T-1")).claim.waiters == 1
    assert await listed(desk) == (["T-1"], [])
    assert (await desk.refused(desk.bob, "T-1", queue=True)).position == 2
    await desk.release(desk.ann, "T-1")
    await desk.granted(desk.cat, "T-1")


async def test_a_queue_of_another_kind_harms_nobody_who_does_not_wait_there(
    desk: Desk, raw: Any
) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.refused(desk.bob, "T-1", queue=True)
    raw.set(f"{keys(desk.project)}:queue:T-1", "text")
    await swept(desk)
    assert await listed(desk) == (["T-1"], [])
    await desk.release(desk.ann, "T-1")
    await desk.granted(desk.bob, "T-1")


@pytest.mark.parametrize("value", ["", "soon", "inf", "nan", "-7", "9" * 40, "1.5"])
@pytest.mark.parametrize("field", ["fence", "tickets", "lapses", "breaks", "epoch"])
async def test_damaged_counters_of_a_project_are_begun_anew(
    desk: Desk, raw: Any, field: str, value: str
) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.granted(desk.ann, "T-2", ttl_s=60)
    await desk.refused(desk.cat, "T-1", queue=True)
    raw.hset(f"{keys(desk.project)}:meta", field, value)
    await desk.refused(desk.bob, "T-1", queue=True)
    waiting = (await desk.show("T-1")).queue
    assert [each.ref for each in waiting] == [
        desk.store.hashed(who)[:10] for who in (desk.cat, desk.bob)
    ]
    broken = await desk.break_("T-1", held.fence)
    assert broken.releases[0].state == "free"
    await desk.pass_time(61)
    await swept(desk)
    newer = await desk.granted(desk.ann, "T-3")
    assert held.fence < newer.fence < 2**53
    events = await desk.store.events.read(desk.project, "", 100)
    assert [event.type for event in events][-1] == "claimed"
    assert await desk.store.events.read(desk.project, events[0].id, 100) == events[1:]
    await desk.store.overview(desk.project)


async def test_a_damaged_event_is_told_as_one_and_those_after_it_are_read(
    desk: Desk, raw: Any
) -> None:
    await desk.granted(desk.ann, "T-1")
    stream = f"{keys(desk.project)}:events"
    raw.xadd(stream, {"type": "claimed"})
    raw.xadd(stream, {"type": "claimed", "task": "T-9", "at": "soon", "fence": "x"})
    raw.xadd(stream, {"nothing": ""})
    assert (await desk.store.overview(desk.project)).held == 1
    await desk.granted(desk.ann, "T-2")
    events = await desk.store.events.read(desk.project, "", 100)
    assert [event.type for event in events] == ["claimed", *3 * ["damaged"], "claimed"]
    assert [event.task for event in events] == ["T-1", "", "T-9", "", "T-2"]
    assert len(await desk.store.events.latest(desk.project, 10)) == 5
    assert await listed(desk) == (["T-1", "T-2"], [])


async def test_what_is_damaged_in_the_rates_limits_nobody(stepped: Stepped, raw: Any) -> None:
    embedded, clock = stepped
    store = Store(PipelineLink.to(embedded.url), Rules())
    await store.open()
    desk = Desk(store, clock)
    for value in ("soon", "inf", "nan", "-1"):
        await desk.granted(desk.ann, "T-1")
        (rates,) = raw.keys(f"{keys(desk.project)}:rates:*")[:1]
        for field in raw.hkeys(rates):
            raw.hset(rates, field, value)
        await desk.granted(desk.ann, "T-1")
    await store.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("lost", value) for value in ("", "soon", "inf", "1.5")),
        *(("witness", value) for value in ("", "soon", "nan", "9" * 40)),
        *(("stalls", value) for value in ("1-", "a-b:c", "1-2", "1-2:0 x", "9-" + "9" * 40 + ":0")),
        *(("sweeper_until", value) for value in ("soon", "nan", "inf")),
        *((field, "\xff") for field in ("runs", "returns", "run_id", "sweeper")),
    ],
)
async def test_a_damaged_clock_is_set_anew_and_costs_no_holder_a_claim(
    desk: Desk, raw: Any, field: str, value: str
) -> None:
    await desk.store.tick()
    held = await desk.granted(desk.ann, "T-1", ttl_s=600)
    before = desk.store.clock.reading
    raw.hset(CLOCK, field, value)
    why = await desk.store.tick()
    assert why == ("damaged" if field in ("lost", "witness", "stalls") else why)
    shown = await desk.show("T-1", desk.ann)
    assert (shown.state, shown.fence) == ("held", held.fence)
    assert shown.expires_in >= 599
    assert shown.expires_at.year < 2100
    assert desk.store.clock.reading.lease_ms >= before.lease_ms, "lease time never goes back"
    assert (await desk.refused(desk.bob, "T-1")).reason == "held"
    assert await desk.store.tick() == "", "reported once"
    await listed(desk)


async def test_a_damaged_secret_is_named_and_not_the_services_mistake(desk: Desk, raw: Any) -> None:
    kept = raw.get("dibs:secret")
    for harmed in (b"", kept[:-1], kept[:-1] + b"g"):
        raw.set("dibs:secret", harmed)
        with pytest.raises(StoreDown, match="dibs:secret is damaged"):
            await desk.store.tick()
    raw.set("dibs:secret", kept)
    await desk.store.tick()


def test_an_instant_past_all_calendars_is_the_last_of_them() -> None:
    assert ClockReading(1, 0, "").instant(9 * 10**15).year == 9999


async def test_what_is_no_claim_in_an_index_hides_no_other(desk: Desk, raw: Any) -> None:
    for task in ("T-1", "T-2", "T-3"):
        await desk.granted(desk.ann, task)
    for name in (b"\xff\xfe", b"a\nb", b"x" * 500, b""):
        raw.zadd(f"{keys(desk.project)}:live", {name: 2e12})
        raw.sadd(f"{keys(desk.project)}:held:{desk.store.hashed(desk.ann)}", name)
    assert await listed(desk) == (["T-1", "T-2", "T-3"], [])
    assert len((await desk.beat(desk.ann)).claims) == 3
    await swept(desk)


@pytest.mark.parametrize("key", ["live", "meta", "lapsed", "done", "ended", "queued", "events"])
async def test_a_project_whose_keys_are_not_ours_is_refused_and_costs_no_other_project(
    stepped: Stepped, desk: Desk, raw: Any, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    other = Desk(desk.store, desk.clock)
    await desk.granted(desk.ann, "T-1")
    await other.granted(other.ann, "T-1")
    raw.delete(f"{keys(desk.project)}:{key}")
    raw.set(f"{keys(desk.project)}:{key}", "text")

    async def work() -> None:
        await desk.claim(desk.bob, "T-2", queue=True)
        await desk.release(desk.bob, "T-2")
        await swept(desk)

    with pytest.raises(StoreDown, match="purge"):
        await work()
    maintenance = Maintenance(desk.store, Metrics(FAMILIES))
    maintenance._turn = [desk.project, other.project]
    await maintenance._sweep()
    await maintenance._sweep()
    assert maintenance._counts[other.project].held == 1
    said = [line for line in caplog.messages if f"_damaged project={desk.project} " in line]
    assert len(said) == (key != "events"), "logged once, when the sweep finds it"
    overviews, _ = await OverviewCache(desk.store).look()
    assert other.project in [one.project for one in overviews]


async def test_a_damaged_record_is_in_the_log_once(
    desk: Desk, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.granted(desk.ann, "T-1")
    damage(raw, desk, "T-1", DAMAGES["cut"])
    for _ in range(3):
        await listed(desk)
        with pytest.raises(Damaged):
            await desk.claim(desk.bob, "T-1")
    said = [line for line in caplog.messages if "damaged" in line]
    assert len(said) == 1
    assert "T-1" in said[0]
    assert desk.project in said[0]


async def write(desk: Desk, *entries: dict[str, Any]) -> results.Written:
    """Write the list."""
    outcome = await acting.tasks(desk.store, desk.project, desk.ann, entries)
    assert isinstance(outcome, results.Written), outcome
    return outcome


async def states(desk: Desk) -> list[str]:
    """Return the list as "task state", followed by the damaged tasks as "| task"."""
    page = await acting.backlog(desk.store, desk.project)
    return [f"{task.task} {task.state}" for task in page.tasks] + [f"| {t}" for t in page.damaged]


LISTINGS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda kept: b"",
    "cut": lambda kept: kept[:-3],
    "no object": lambda kept: b'"one"',
    "a priority in words": lambda kept: kept.replace(b'"2"', b'"two"'),
    "no order": changed(order=MISSING),
    "a title that is a list": changed(title=["one"]),
}


@pytest.mark.parametrize("how", [*LISTINGS.values(), None], ids=[*LISTINGS, "another type"])
async def test_a_damaged_listing_costs_only_its_place_in_the_list(
    desk: Desk, raw: Any, how: Callable[[bytes], bytes] | None
) -> None:
    entry: dict[str, Any] = {"task": "T-2", "needs": ["T-1"], "tags": ["web"]}
    await write(desk, {"task": "T-1"}, entry, {"task": "T-3"})
    key = f"{keys(desk.project)}:listing:T-2"
    kept = raw.get(key)
    raw.delete(key)
    if how:
        raw.set(key, how(kept))
    else:
        raw.hset(key, "a", "b")
        raw.hset(f"{keys(desk.project)}:text:T-2", "a", "b")
    assert await states(desk) == ["T-1 ready", "T-3 ready", "| T-2"]
    assert (await acting.task(desk.store, desk.project, "T-2")).now.state == "blocked"
    refused = await desk.refused(desk.bob, "T-2")
    assert (refused.reason, refused.needs) == ("blocked", ())
    await desk.granted(desk.ann, "T-1")
    await desk.release(desk.ann, "T-1", outcome="done")
    raw.hset(f"{keys(desk.project)}:meta", "weighs", "")  # so that the sweep recounts
    await swept(desk)
    outcome = await desk.claim(desk.bob, mode="next")
    assert isinstance(outcome, results.Granted)
    assert outcome.claims[0].task == "T-3"
    assert (await write(desk, entry)).changes == ("created",)
    assert await states(desk) == ["T-1 done", "T-3 held", "T-2 ready"]
    assert (await desk.granted(desk.cat, "T-2")).listed is not None


async def test_a_listing_that_is_damaged_while_it_is_held_costs_the_holder_nothing(
    desk: Desk, raw: Any
) -> None:
    await write(desk, {"task": "T-1"})
    held = await desk.granted(desk.ann, "T-1")
    raw.set(f"{keys(desk.project)}:listing:T-1", "{cut")
    assert (await desk.granted(desk.ann, "T-1")).fence == held.fence
    assert isinstance(await desk.beat(desk.ann, "T-1", held.fence), results.Renewed)
    assert isinstance(await desk.release(desk.ann, "T-1", outcome="done"), results.Ended)
    assert (await desk.refused(desk.bob, "T-1")).reason == "done"


async def test_a_need_whose_record_is_damaged_blocks_once_it_is_freed(desk: Desk, raw: Any) -> None:
    await write(desk, {"task": "T-1"}, {"task": "T-2", "needs": ["T-1"]})
    await desk.granted(desk.ann, "T-1")
    await desk.release(desk.ann, "T-1", outcome="done")
    assert await states(desk) == ["T-1 done", "T-2 ready"]
    damage(raw, desk, "T-1", DAMAGES["cut"])
    await desk.break_("T-1", NOT_HELD)
    assert await states(desk) == ["T-1 ready", "T-2 blocked"]
    assert (await desk.events())[-2:] == ["blocked T-2", "broken T-1"]


async def test_a_dropped_task_whose_record_was_damaged_stays_dropped(desk: Desk, raw: Any) -> None:
    await write(desk, {"task": "T-1"})
    await write(desk, {"task": "T-1", "drop": True})
    damage(raw, desk, "T-1", DAMAGES["cut"])
    with pytest.raises(Damaged, match="T-1"):
        await write(desk, {"task": "T-1"})
    await desk.break_("T-1", NOT_HELD)
    assert await states(desk) == []
    assert isinstance(await desk.claim(desk.bob, mode="next"), results.NothingReady)


@pytest.mark.parametrize("value", ["", "soon", "-7", "9" * 40])
async def test_a_damaged_count_of_needs_is_counted_anew(desk: Desk, raw: Any, value: str) -> None:
    await write(desk, {"task": "T-1"}, {"task": "T-0"}, {"task": "T-2", "needs": ["T-1", "T-0"]})
    raw.hset(f"{keys(desk.project)}:missing", "T-2", value)
    for task, then in (("T-1", "blocked"), ("T-0", "ready")):
        await desk.granted(desk.ann, task)
        await desk.release(desk.ann, task, outcome="done")
        assert (await acting.task(desk.store, desk.project, "T-2")).now.state == then


async def test_dependents_that_are_none_any_more_are_told_nothing(desk: Desk, raw: Any) -> None:
    """A rewritten listing may still be a dependent of the needs that it had when damaged."""
    await write(desk, {"task": "T-1"}, {"task": "T-0"}, {"task": "T-2", "needs": ["T-1"]})
    raw.sadd(f"{keys(desk.project)}:needed:T-0", "T-2", "nobody", b"\xff")
    await desk.granted(desk.ann, "T-0")
    await desk.release(desk.ann, "T-0", outcome="done")
    assert await states(desk) == ["T-1 ready", "T-0 done", "T-2 blocked"]


async def test_dependents_of_another_kind_stop_nobody(desk: Desk, raw: Any) -> None:
    await write(desk, {"task": "T-1"}, {"task": "T-2", "needs": ["T-1"]})
    raw.delete(f"{keys(desk.project)}:needed:T-1")
    raw.set(f"{keys(desk.project)}:needed:T-1", "text")
    await desk.granted(desk.ann, "T-1")
    assert isinstance(await desk.release(desk.ann, "T-1", outcome="done"), results.Ended)
    assert await states(desk) == ["T-1 done", "T-2 blocked"], "its dependents are unknown"


@pytest.mark.parametrize("key", ["listed", "ready", "blocked", "missing"])
async def test_a_list_whose_keys_are_not_ours_costs_no_task_that_nobody_listed(
    desk: Desk, raw: Any, key: str
) -> None:
    held = await desk.granted(desk.ann, "T-0")
    raw.set(f"{keys(desk.project)}:{key}", "text")
    with pytest.raises(StoreDown, match="purge"):
        await write(desk, {"task": "T-1"}, {"task": "T-2", "needs": ["T-1"]})
    assert isinstance(await desk.beat(desk.ann, "T-0", held.fence), results.Renewed)
    assert isinstance(await desk.release(desk.ann, "T-0", outcome="done"), results.Ended)
    await desk.granted(desk.bob, "T-3")
    if key != "listed":  # no line for "listed": the sweep's count reports it instead
        await swept(desk)


HARMED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"7",
    b'"held"',
    b'{"at": 1}',
    b'{"at": "1"}',
    b'{"at": "soon"}',
]


@pytest.mark.parametrize("kept", [*HARMED, b'{"at": "1", "by": 7, "reason": {}}'])
async def test_a_hold_that_nobody_can_read_keeps_its_task_back_and_hides_no_other(
    desk: Desk, raw: Any, kept: bytes
) -> None:
    await write(desk, {"task": "T-1"}, {"task": "T-2"})
    await acting.hold(desk.store, desk.project, "T-1", reason="wait", by="lea")
    raw.hset(f"{keys(desk.project)}:holds", "T-1", kept)
    refusal = await desk.refused(desk.bob, "T-1")
    assert (refusal.reason, refusal.claim.state) == ("on-hold", "on-hold")
    assert "T-1" in messages.refused(refusal)
    assert (await desk.show("T-1")).state == "on-hold"
    assert await states(desk) == ["T-1 on-hold", "T-2 ready"]
    looked = await board_tasks.look(desk.store, desk.project, kind="on-hold", most=9)
    assert [seen.now.task for seen in looked.tasks] == ["T-1"]
    again = await acting.hold(desk.store, desk.project, "T-1", reason="wait", by="lea")
    assert isinstance(again, results.HeldBack)
    assert (again.hold.by, again.hold.reason) == ("lea", "wait")
    await acting.unhold(desk.store, desk.project, "T-1", reason="go", by="lea")
    await desk.granted(desk.bob, "T-1")


@pytest.mark.parametrize("kept", [*HARMED, b'{"at": "1", "by": 7, "reason": {}}'])
async def test_a_hold_of_the_project_that_nobody_can_read_breaks_no_page(
    desk: Desk, raw: Any, kept: bytes
) -> None:
    await acting.hold(desk.store, desk.project, None, reason="wait", by="lea")
    raw.hset(f"{keys(desk.project)}:meta", "hold", kept)
    await board_tasks.look(desk.store, desk.project)
    outcome = await desk.claim(desk.bob, "T-1")
    if isinstance(outcome, results.Conflict):
        assert "This project" in messages.refused(outcome.refusals[0])
    assert (await desk.show("T-2")).state == "free"


@pytest.mark.parametrize(
    "how",
    [
        lambda kept: kept.replace(b'"since":', b'"sinne":'),
        lambda kept: re.sub(rb'"since":"\d+"', b'"since":"soon"', kept),
        lambda kept: kept.replace(b'"ref":', b'"rof":'),
        lambda kept: kept.replace(b'"outcome":"abandoned"', b'"outcome":7'),
        lambda kept: kept[:-9],
        lambda kept: b"[" + kept + b"]",
    ],
)
async def test_a_tenure_that_nobody_can_read_hides_no_other(
    desk: Desk, raw: Any, how: Callable[[bytes], bytes]
) -> None:
    for _ in range(3):
        await desk.granted(desk.bob, "T-1")
        await desk.release(desk.bob, "T-1", outcome="abandoned")
    kept = f"{keys(desk.project)}:tenures:T-1"
    raw.lset(kept, 0, how(raw.lindex(kept, 0)))
    shown = await acting.task(desk.store, desk.project, "T-1")
    assert len(shown.tenures) == 2
    assert len((await acting.history(desk.store, desk.project)).tenures) == 2
    await desk.release(desk.bob, "T-1", (await desk.granted(desk.bob, "T-1")).fence)
