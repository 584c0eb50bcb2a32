"""Rules 15, 16, 18: a project has a limit in bytes, and is deleted once all of it has ended."""

from dataclasses import replace
from typing import Any

import pytest
from tests.conftest import Desk
from tests.harness import acting
from tests.harness.services import new_session

from dibs import messages, results
from dibs.model import Task
from dibs.store import Rules
from dibs.store.events import CursorExpired
from dibs.store.keys import keys

SHORT = Rules(
    ttl_ms=20_000,
    grace_ms=5_000,
    max_hold_ms=40_000,
    retention_ms=60_000,
    done_retention_ms=60_000,
    history_ms=60_000,
    record_bytes=20_000,
    event_bytes=64 << 10,
    rate_per_session=0,
    rate_per_project=0,
)
short = pytest.mark.parametrize("rules", [SHORT])
NOTE = "n" * 1_000


async def fill(desk: Desk) -> list[Task]:
    """Claim until the project is at its limit of bytes; return the granted tasks."""
    got: list[Task] = []
    while isinstance(
        outcome := await desk.claim(new_session(), f"fill {len(got)}", note=NOTE), results.Granted
    ):
        got.append(outcome.claims[0].task)
    assert (outcome.whose, outcome.limit) == ("bytes", desk.store.rules.record_bytes)
    assert "DIBS_RECORD_BYTES" in messages.quota(outcome)
    return got


async def sums(desk: Desk) -> tuple[int, int]:
    """Return the bytes of records and of events by the store's counts."""
    kept = await desk.store.link.command("HGET", f"{keys(desk.project)}:meta", "weighs")
    records, events, _ = map(int, kept.split())
    return records, events


async def weighed(desk: Desk) -> tuple[int, int]:
    """Return the bytes of records and of events by measuring each."""
    ask, prefix, rules = desk.store.link.command, f"{keys(desk.project)}:task:", desk.store.rules
    records = [
        await ask("STRLEN", key) + 5 * len(key.removeprefix(prefix).encode()) + 300
        for key in await ask("KEYS", prefix.replace("{", "[{]", 1) + "*")
    ]
    for key in await ask("KEYS", f"dibs:[{{]{desk.project}}}:tenures:*"):
        name = key.partition(":tenures:")[2]
        more = 3 * len(name.encode()) + 300
        records += [len(kept.encode()) + more for kept in await ask("LRANGE", key, 0, -1)]
    for kind in ("listing", "text"):
        for key in await ask("KEYS", f"dibs:[{{]{desk.project}}}:{kind}:*"):
            records.append(await ask("STRLEN", key))
    for kind in ("branch", "pr"):
        for key in await ask("KEYS", f"dibs:[{{]{desk.project}}}:{kind}:*"):
            size = len(key.partition(f":{kind}:")[2].encode()) + 100
            tasks = await ask("SMEMBERS", key)
            records += [size + len(task.encode()) for task in tasks]
    for task in await ask("ZRANGE", f"{keys(desk.project)}:listed", 0, -1):
        records.append(200 + 5 * len(task.encode()))
    entries = await ask("XRANGE", f"{keys(desk.project)}:events", "-", "+")
    least = -(-rules.event_bytes // rules.events_kept)
    events = [max(least, sum(len(text.encode()) for text in flat) + 64) for _, flat in entries]
    return sum(records), sum(events)


async def gone(desk: Desk) -> bool:
    """Pass the retention of everything that has ended; return whether no key is left."""
    await desk.pass_time(SHORT.retention_ms / 1000 + 1)
    for _ in range(3):
        await desk.store.sweep(desk.project)
    return await left(desk) == []


async def left(desk: Desk) -> list[str]:
    """Return the keys of the project."""
    found = await desk.store.link.command("KEYS", f"dibs:[{{]{desk.project}}}:*")
    return [key for key in found if ":avoided:" not in key]


@short
async def test_a_project_that_weighs_what_it_may_gets_nothing_new_while_holders_go_on(
    desk: Desk,
) -> None:
    held = await desk.granted(desk.ann, "T-1")
    other = await desk.granted(desk.bob, "T-2")
    await desk.granted(desk.cat, "T-3", note=NOTE)
    await desk.release(desk.cat, "T-3", note=NOTE)
    tasks = await fill(desk)
    assert 8 <= len(tasks) <= 20
    for named, mode in ((("T-9",), "one"), (("T-9", "T-8"), "any"), (("T-1", "T-9"), "all")):
        assert (await desk.claim(desk.ann, *named, mode=mode)).whose == "bytes"
    assert (await desk.claim(desk.bob, "T-3")).whose == "bytes", "a tenure makes a record larger"
    assert (await desk.refused(desk.cat, "T-1", queue=True)).position == 1

    assert (await desk.granted(desk.ann, "T-1", note=NOTE)).fence == held.fence
    assert isinstance(await desk.claim(desk.ann, "T-9", "T-1", mode="any"), results.Granted)
    assert isinstance(
        await desk.beat(desk.ann, "T-1", held.fence, state="parked", note=NOTE), results.Renewed
    )
    assert isinstance(await desk.beat(desk.ann), results.Renewed)
    assert isinstance(await desk.break_("T-2", other.fence, reason=NOTE), results.Ended)
    await desk.pass_time(22)
    assert isinstance(
        await desk.release(desk.ann, "T-1", held.fence, outcome="done"), results.Ended
    )
    assert await sums(desk) == await weighed(desk)


@short
async def test_what_is_past_its_retention_makes_room(desk: Desk) -> None:
    for task in await fill(desk):
        await desk.break_(task, (await desk.show(task)).fence)
    assert (await desk.claim(desk.ann, "T-1")).whose == "bytes", "ended claims count too"
    await desk.pass_time(SHORT.retention_ms / 1000 + 1)
    await desk.store.sweep(desk.project)
    await desk.granted(desk.ann, "T-1")
    assert await sums(desk) == await weighed(desk)


@short
async def test_what_goes_takes_its_weight_along_whoever_meets_it(desk: Desk) -> None:
    for task in ("T-1", "T-2", "T-3"):
        await desk.granted(desk.ann, task, note=NOTE)
        await desk.release(desk.ann, task)
    await desk.store.sweep(desk.project)  # the sweep recounts, and then not again for a while
    await desk.pass_time(SHORT.retention_ms / 1000 - 9)
    await desk.granted(desk.bob, "T-4")
    await desk.granted(desk.bob, "T-3")
    await desk.pass_time(10)
    await desk.granted(desk.cat, "T-1")
    assert await sums(desk) == await weighed(desk)
    await desk.store.sweep(desk.project)
    assert await sums(desk) == await weighed(desk)


@short
async def test_one_project_of_full_weight_is_no_matter_to_another(desk: Desk) -> None:
    await fill(desk)
    other = Desk(desk.store, desk.clock)
    await other.granted(other.ann, "T-1")


async def test_data_without_sums_is_counted_by_the_sweep(desk: Desk) -> None:
    """As after an older dibs, or after somebody deleted the counts."""
    await desk.granted(desk.ann, "T-1", note=NOTE)
    await desk.granted(desk.bob, "T-2")
    await desk.store.link.command("HDEL", f"{keys(desk.project)}:meta", "weighs")
    await desk.granted(desk.cat, "T-3")
    await desk.beat(desk.ann, note="an other one")
    await desk.release(desk.bob, "T-2", note=NOTE)
    await desk.store.sweep(desk.project)
    assert await sums(desk) == await weighed(desk)
    await desk.release(desk.ann, "T-1")
    await desk.granted(desk.ann, "T-4")
    assert await sums(desk) == await weighed(desk)


@pytest.mark.parametrize("value", ["", "soon", "7", "-7 1 1", "1 2 x", "9" * 40, f"1 {'9' * 40} 1"])
async def test_sums_that_nobody_can_read_are_counted_anew(desk: Desk, value: str) -> None:
    held = await desk.granted(desk.ann, "T-1")
    await desk.store.link.command("HSET", f"{keys(desk.project)}:meta", "weighs", value)
    await desk.beat(desk.ann, "T-1", held.fence, note=NOTE)
    await desk.granted(desk.bob, "T-2")
    await desk.release(desk.bob, "T-2")
    await desk.store.sweep(desk.project)
    assert await sums(desk) == await weighed(desk)


async def test_the_sums_are_right_after_a_damaged_record_is_dropped(desk: Desk) -> None:
    for task in ("T-1", "T-2"):
        await desk.granted(desk.ann, task, note=NOTE)
    for harmed in ("", "{cut"):
        await desk.store.link.command("SET", f"{keys(desk.project)}:task:T-1", harmed)
        assert isinstance(await desk.break_("T-1", 1), results.Ended)
        await desk.store.sweep(desk.project)
        assert await sums(desk) == await weighed(desk)
        await desk.pass_time(1)
        await desk.granted(desk.bob, "T-1")
        assert await sums(desk) == await weighed(desk)


@pytest.mark.parametrize("rules", [replace(SHORT, recount_ms=60_000)])
async def test_what_another_hand_changed_is_in_the_sums_after_a_while(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=300)
    await desk.store.sweep(desk.project)
    rec = await desk.store.link.command("GET", f"{keys(desk.project)}:task:T-1")
    await desk.store.link.command("SET", f"{keys(desk.project)}:task:T-1", rec + " " * 100)
    await desk.pass_time(61)
    await desk.store.sweep(desk.project)
    assert await sums(desk) == await weighed(desk)


@pytest.mark.parametrize("rules", [replace(SHORT, record_bytes=1 << 20, recount_most=5)])
async def test_many_tasks_are_counted_in_parts_while_claims_go_on(desk: Desk) -> None:
    held = [await desk.granted(desk.ann, f"T-{n}", ttl_s=300) for n in range(10, 30)]
    listed = [{"task": f"L-{n}"} for n in range(4)]
    await acting.tasks(desk.store, desk.project, desk.ann, listed)
    await desk.granted(desk.bob, "L-0", ttl_s=300)
    for n in range(3):
        await desk.granted(desk.bob, f"D-{n}")
        await desk.release(desk.bob, f"D-{n}", outcome="done")
    await desk.store.link.command("HDEL", f"{keys(desk.project)}:meta", "weighs")
    more, _ = await desk.store.sweep(desk.project)
    assert more
    await desk.granted(desk.ann, "T-30", ttl_s=300)
    await desk.beat(desk.ann, "T-10", held[0].fence)
    await desk.release(desk.ann, "T-11", held[1].fence)
    parts = 1
    while more:
        more, _ = await desk.store.sweep(desk.project)
        parts += 1
    assert parts == pytest.approx(len(held) / 5 + 4, abs=2), (
        "each part counts the tasks of one batch"
    )
    assert await sums(desk) == await weighed(desk)
    more, _ = await desk.store.sweep(desk.project)
    assert not more


@pytest.mark.parametrize("rules", [replace(SHORT, record_bytes=1 << 20, history_ms=10**9)])
async def test_a_task_that_only_the_history_has_counts_once(desk: Desk) -> None:
    for who in (desk.ann, desk.bob, desk.ann, desk.bob):
        await desk.granted(who, "T-1", note=NOTE)
        await desk.release(who, "T-1")
    await desk.granted(desk.cat, "T-2", ttl_s=300)
    await desk.pass_time(SHORT.retention_ms / 1000 + 1)
    await desk.store.sweep(desk.project)
    in_other_indexes = [
        await desk.store.link.command("ZSCORE", f"{keys(desk.project)}:{index}", "T-1")
        for index in ("live", "lapsed", "done", "ended", "listed")
    ]
    assert in_other_indexes == [None] * 5
    before = await sums(desk)
    await desk.store.link.command("HDEL", f"{keys(desk.project)}:meta", "weighs")
    await desk.store.sweep(desk.project)
    assert await sums(desk) == before == await weighed(desk)


@pytest.mark.parametrize("rules", [replace(SHORT, record_bytes=1 << 20)])
async def test_events_weigh_no_more_than_they_may_and_the_latest_are_kept(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-0")
    first = (await desk.store.events.latest(desk.project, 1))[0].id
    for n in range(80):
        await desk.granted(desk.ann, "T-1")
        await desk.release(desk.ann, "T-1", note=f"{n} {NOTE}")
        said, weigh = (await sums(desk))[1], (await weighed(desk))[1]
        assert said == weigh <= SHORT.event_bytes
    kept = await desk.store.events.latest(desk.project, 1_000)
    assert len(kept) > 60
    assert [event.note.split()[0] for event in kept if event.note][:3] == ["79", "78", "77"]
    with pytest.raises(CursorExpired):
        await desk.store.events.read(desk.project, first, 10)


@pytest.mark.parametrize("rules", [replace(SHORT, record_bytes=1 << 20, events_kept=50)])
async def test_there_are_never_more_events_than_are_kept(desk: Desk) -> None:
    for n in range(70):
        await desk.granted(desk.ann, f"T-{n}")
        await desk.release(desk.ann, f"T-{n}")
        assert len(await desk.store.events.latest(desk.project, 1_000)) <= 50
    assert len(await desk.store.events.latest(desk.project, 1_000)) >= 45
    assert await sums(desk) == await weighed(desk)


@short
async def test_a_project_goes_as_a_whole_and_its_fences_go_on(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    last = (await desk.store.events.latest(desk.project, 1))[0].id
    await desk.refused(desk.bob, "T-1", queue=True)
    await desk.release(desk.ann, "T-1", held.fence, outcome="done")
    await desk.store.sweep(desk.project)
    assert f"{keys(desk.project)}:events" in await left(desk)
    assert await gone(desk), await left(desk)
    page = await acting.list_(desk.store, desk.project, states=["done"], limit=9)
    assert (page.claims, page.seq) == ((), "0-0-0")
    assert await desk.events() == []
    with pytest.raises(CursorExpired):
        await desk.store.events.read(desk.project, last, 10)

    newer = await desk.granted(desk.bob, "T-1")
    assert newer.fence > held.fence
    assert newer.previous is None
    assert await desk.events() == ["claimed T-1"]
    assert [event.task for event in await desk.store.events.read(desk.project, page.seq, 9)] == [
        "T-1"
    ]
    assert isinstance(await desk.release(desk.ann, "T-1", held.fence), results.NotMine)
    assert (await desk.show("T-1", desk.bob)).fence == newer.fence
    assert await sums(desk) == await weighed(desk)


@short
@pytest.mark.parametrize("what", ["a claim", "an end", "a loss", "a place in a queue", "damage"])
async def test_a_project_is_kept_as_long_as_anything_of_it_is(desk: Desk, what: str) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=10)
    if what == "damage":
        await desk.store.link.command("SET", f"{keys(desk.project)}:task:T-1", "{cut")
    await desk.pass_time(5)
    if what == "an end":
        await desk.release(desk.ann, "T-1")
    elif what == "a loss":
        await desk.break_("T-1", held.fence)
    elif what == "a place in a queue":
        await desk.refused(desk.bob, "T-1", queue=True)
    await desk.pass_time(SHORT.retention_ms / 1000 - 2)
    for _ in range(3):
        await desk.store.sweep(desk.project)
    assert f"{keys(desk.project)}:meta" in await left(desk)
    assert f"{keys(desk.project)}:events" in await left(desk)


@short
async def test_a_project_whose_last_fence_is_ahead_of_the_time_is_kept(desk: Desk) -> None:
    """As after a clock step back: only the stored last fence makes the next one larger."""
    held = await desk.granted(desk.ann, "T-1")
    ahead = held.fence + 3_600_000_000
    await desk.store.link.command("HSET", f"{keys(desk.project)}:meta", "fence", str(ahead))
    await desk.release(desk.ann, "T-1", held.fence)
    assert not await gone(desk)
    assert (await desk.granted(desk.bob, "T-1")).fence == ahead + 1


@short
async def test_a_project_that_is_gone_is_not_known_any_more_until_somebody_claims_there(
    desk: Desk,
) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.release(desk.ann, "T-1")
    assert await gone(desk)
    assert desk.project in await desk.store.projects(), "a service may have added it a moment ago"
    await desk.jump(1_300)
    await desk.store.tick()
    await desk.store.sweep(desk.project)
    assert desk.project not in await desk.store.projects()
    await desk.granted(desk.bob, "T-1")
    assert desk.project in await desk.store.projects()


@short
async def test_branches_and_pull_requests_weigh_and_go_with_their_tasks(desk: Desk) -> None:
    def face(number: int) -> dict[str, str]:
        return {"branch": f"feat/{number}", "pr": f"https://e.org/pull/{number}"}

    for number in range(4):
        for who in (desk.ann, desk.bob, desk.ann):
            await desk.granted(who, f"T-{number}", **face(number))
            await desk.beat(who, f"T-{number}", pr=f"https://e.org/pull/{number}9")
            await desk.granted(who, f"T-{number}", branch=f"{who}")
            await desk.release(who, f"T-{number}", pr="https://e.org/pull/5", outcome="released")
        assert await sums(desk) == await weighed(desk)
    await desk.granted(desk.cat, "T-0", **face(9))
    await acting.resolve(desk.store, desk.project, branch="feat/9")
    await desk.granted(desk.cat, "T-1", **face(8))
    await acting.resolve(desk.store, desk.project, pr=face(8)["pr"], outcome="rejected")
    await desk.granted(desk.bob, "T-2", **face(7))
    await desk.break_("T-2", (await desk.show("T-2")).fence)
    await desk.granted(desk.cat, "T-3", **face(6))
    assert await sums(desk) == await weighed(desk)
    assert [key for key in await left(desk) if ":branch:" in key or ":pr:" in key]
    await desk.pass_time(SHORT.max_hold_ms / 1000)
    assert await gone(desk)


@short
async def test_who_makes_up_branches_pays_for_their_keys(desk: Desk) -> None:
    got, long = 0, {"branch": "枝" * 200, "pr": "https://e.org/" + "p" * 480}
    while isinstance(
        outcome := await desk.claim(new_session(), f"fill {got}", **long), results.Granted
    ):
        got += 1
    assert outcome.whose == "bytes"
    assert got <= 7, "the records alone would allow nine"
    assert (await desk.show("fill 0")).holder.branch == long["branch"]


async def test_what_an_older_dibs_left_out_of_the_index_is_found_after_the_sweep(
    desk: Desk,
) -> None:
    await desk.granted(desk.ann, "T-1", branch="feat/one")
    ask, prefix = desk.store.link.command, keys(desk.project)
    await ask("DEL", f"{prefix}:branch:feat/one")
    await ask("HDEL", f"{prefix}:meta", "weighs")
    await desk.store.sweep(desk.project)
    assert await sums(desk) == await weighed(desk)
    ended = await acting.resolve(desk.store, desk.project, branch="feat/one")
    assert isinstance(ended, results.Ended)


@short
async def test_a_list_that_would_weigh_too_much_is_refused_as_a_whole(desk: Desk) -> None:
    limit = desk.store.rules.record_bytes

    async def write(first: int, many: int, body: int) -> Any:
        entries = [
            {"task": f"T-{number}", "title": "one", "body": "x" * body}
            for number in range(first, first + many)
        ]
        return await acting.tasks(desk.store, desk.project, desk.ann, entries)

    refused = await write(0, 20, limit // 10)
    assert isinstance(refused, results.OverQuota), refused
    assert refused.whose == "bytes"
    assert (await acting.backlog(desk.store, desk.project)).tasks == ()
    assert isinstance(await write(0, 2, limit // 10), results.Written)
    size = (await sums(desk))[0]
    assert isinstance(await write(2, 10, limit // 10), results.OverQuota)
    assert (await sums(desk))[0] == size, "none of the list was written"
    assert isinstance(await write(0, 2, 10), results.Written), "a shorter text passes at the limit"
    number = 2
    while isinstance(await write(number, 1, limit // 10), results.Written):
        number += 1
    assert (await sums(desk))[0] < limit
    assert isinstance(await write(2, 1, 10), results.Written), (
        "an entry that gets shorter passes at the limit"
    )
    assert await sums(desk) == await weighed(desk)


@pytest.mark.parametrize("cut", [7, 10_000])
async def test_a_damaged_record_leaves_no_branch_behind(desk: Desk, cut: int) -> None:
    held = await desk.granted(desk.ann, "T-1", branch="feat/one", pr="https://e.org/pull/1")
    assert held.holder.branch
    ask, prefix = desk.store.link.command, keys(desk.project)
    kept = await ask("GET", f"{prefix}:task:T-1")
    await ask("SET", f"{prefix}:task:T-1", kept[: max(0, len(kept) - cut)])
    assert isinstance(await desk.break_("T-1", 1), results.Ended)
    if cut > 7:  # the branch is unreadable: the lookup itself finds out
        face = {"pr": "https://e.org/pull/1", "branch": "feat/one"}
        assert isinstance(await acting.resolve(desk.store, desk.project, **face), results.Unmatched)
    await desk.store.sweep(desk.project)
    assert await sums(desk) == await weighed(desk)
    assert [key for key in await left(desk) if ":branch:" in key or ":pr:" in key] == []
