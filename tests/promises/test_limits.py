"""Rules 15, 16: limits are enforced, and a full store refuses new claims first."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import Desk
from tests.harness import acting
from tests.harness.services import new_session

from dibs import model, results
from dibs.model import Project, Session
from dibs.store import Rules, StoreDown
from dibs.store.keys import keys
from dibs.store.local.embedded import EmbeddedStore
from dibs.store.redis.link import PipelineLink
from dibs.store.store import Store

FEW = Rules(claims_per_session=2, claims_per_project=3, rate_per_session=0, rate_per_project=0)


@pytest.mark.parametrize("rules", [FEW])
async def test_a_session_holds_so_many_claims_and_no_more(desk: Desk) -> None:
    await desk.claim(desk.ann, "T-1", "T-2", mode="all")
    outcome = await desk.claim(desk.ann, "T-3")
    assert (type(outcome), outcome.whose, outcome.limit) == (results.OverQuota, "session", 2)
    assert isinstance(await desk.claim(desk.ann, "T-1"), results.Granted)
    await desk.release(desk.ann, "T-2")
    assert isinstance(await desk.claim(desk.ann, "T-3"), results.Granted)


@pytest.mark.parametrize("rules", [FEW])
async def test_lapsed_claims_do_not_count(desk: Desk) -> None:
    await desk.claim(desk.ann, "T-1", "T-2", mode="all", ttl_s=60)
    await desk.granted(desk.bob, "T-3", ttl_s=60)
    assert (await desk.claim(desk.cat, "T-4")).whose == "project"
    await desk.pass_time(61)
    assert isinstance(await desk.claim(desk.cat, "T-4"), results.Granted)
    assert isinstance(await desk.claim(desk.ann, "T-5"), results.Granted)


@pytest.mark.parametrize("rules", [FEW])
async def test_all_of_beyond_the_quota_grants_nothing(desk: Desk) -> None:
    outcome = await desk.claim(desk.ann, "T-1", "T-2", "T-3", mode="all")
    assert isinstance(outcome, results.OverQuota)
    assert (await desk.show("T-1")).state == "free"


@pytest.mark.parametrize("rules", [Rules(rate_per_session=5, burst_ms=2000, rate_per_project=0)])
async def test_a_session_that_asks_too_often_is_told_when_to_ask_again(desk: Desk) -> None:
    outcomes = [await desk.claim(desk.ann, "T-1") for _ in range(20)]
    limited = [one for one in outcomes if isinstance(one, results.RateLimited)]
    assert 6 <= len(limited) <= 9
    assert isinstance(await desk.claim(desk.bob, "T-2"), results.Granted), "only ann is limited"
    await desk.pass_time(limited[-1].retry_after_s)
    assert isinstance(await desk.claim(desk.ann, "T-1"), results.Granted)


@pytest.mark.parametrize("rules", [Rules(rate_per_session=5, burst_ms=2000, rate_per_project=40)])
async def test_a_rate_is_kept_however_long_a_session_goes_on(desk: Desk) -> None:
    async def now_s() -> float:
        seconds, micros = await desk.store.link.command("TIME")
        return int(seconds) + int(micros) / 1e6

    began, passed = await now_s(), 0
    for _ in range(24):
        outcomes = [await desk.claim(desk.ann, "T-1") for _ in range(4)]
        passed += sum(isinstance(one, results.Granted) for one in outcomes)
        await desk.pass_time(0.5)
    took_s = await now_s() - began
    assert min(5 * took_s, 24 * 4) - 1 <= passed <= 5 * (2 + took_s) + 1


@pytest.mark.parametrize("rules", [Rules(rate_per_session=5, burst_ms=2000, rate_per_project=40)])
async def test_what_a_store_keeps_of_a_rate_goes_by_itself(desk: Desk) -> None:
    await desk.claim(desk.ann, "T-1")
    kept = await desk.store.link.command("KEYS", f"dibs:{{{desk.project}}}:rates:*")
    lives = [await desk.store.link.command("PTTL", key) for key in kept]
    assert [0 < life <= 12_000 for life in lives] == [True], dict(zip(kept, lives, strict=True))


@pytest.mark.parametrize("rules", [Rules(rate_per_session=0, rate_per_project=5)])
async def test_the_rate_of_a_project_is_shared_by_its_sessions(desk: Desk) -> None:
    outcomes = await asyncio.gather(*(desk.claim(new_session(), f"T-{n}") for n in range(20)))
    limited = [one for one in outcomes if isinstance(one, results.RateLimited)]
    assert limited
    assert {one.whose for one in limited} == {"project"}


A_SHARE = replace(FEW, claims_per_session=9, claims_per_project=9, claims_per_address=2)


@pytest.mark.parametrize("rules", [A_SHARE])
async def test_one_address_has_a_share_of_the_project_and_gets_it_back_however_claims_end(
    desk: Desk,
) -> None:
    async def claim(who: Session, task: str) -> object:
        outcome = await desk.claim(who, task, ttl_s=60, address="7.7.7.7")
        return outcome.whose if isinstance(outcome, results.OverQuota) else type(outcome)

    async def full() -> None:
        for task in ("T-1", "T-2"):
            assert await claim(desk.ann, task) is results.Granted
        assert await claim(desk.bob, "T-3") == "address"
        assert await claim(desk.ann, "T-1") is results.Granted, "a renewal is not a new claim"
        assert isinstance(await desk.claim(desk.bob, "T-3", address="7.7.7.8"), results.Granted)
        assert isinstance(await desk.claim(desk.bob, "T-4"), results.Granted), (
            "a caller without an address has no share"
        )
        await desk.release(desk.bob, None)

    await full()
    await desk.release(desk.ann, "T-1", outcome="done")
    await desk.release(desk.ann, None)
    await desk.claim(desk.ann, "T-1", reopen=True)
    await desk.release(desk.ann, "T-1")
    await full()
    await desk.break_("T-1", (await desk.show("T-1")).fence)
    await desk.beat(desk.ann, "T-2", state="parked", ttl_s=60)
    await desk.pass_time(61)
    assert await claim(desk.bob, "T-5") is results.Granted
    assert await claim(desk.cat, "T-6") is results.Granted
    assert isinstance(await desk.beat(desk.ann, "T-2"), results.Renewed), (
        "a holder may renew beyond the address's share"
    )
    await desk.release(desk.bob, None)
    assert await claim(desk.bob, "T-5") == "address"
    await desk.release(desk.ann, None)
    await desk.release(desk.cat, None)
    await full()


async def use_up(desk: Desk) -> None:
    """Use up the project's rate of every kind of call, as strangers."""
    for act in (desk.claim, desk.beat, desk.release):
        for _ in range(200):
            if isinstance(await act(new_session(), "T-stranger"), results.RateLimited):
                break
        else:
            pytest.fail("the rate limit is never reached")
    await desk.show("T-1")


@pytest.mark.parametrize("rules", [Rules(rate_per_session=0, rate_per_project=1)])
async def test_no_rate_of_others_keeps_a_holder_from_its_claim(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=60)
    await use_up(desk)
    for _ in range(20):
        assert isinstance(await desk.beat(desk.ann, "T-1", held.fence), results.Renewed)
        assert isinstance(await desk.beat(desk.ann), results.Renewed)
        assert (await desk.granted(desk.ann, "T-1", ttl_s=60)).fence == held.fence
    for tasks, mode in ((("T-2", "T-1"), "any"), (("T-1",), "all")):
        claims = (await desk.claim(desk.ann, *tasks, mode=mode, ttl_s=60)).claims
        assert [(claim.task, claim.fence) for claim in claims] == [("T-1", held.fence)]
    await desk.pass_time(70)
    await use_up(desk)
    assert (await desk.beat(desk.ann, "T-1")).claims[0].fence == held.fence, (
        "the lapsed claim is revived"
    )
    assert isinstance(await desk.release(desk.ann, "T-1", held.fence), results.Ended)


@pytest.mark.parametrize("rules", [Rules(rate_per_session=0, rate_per_project=1)])
async def test_who_holds_something_claims_no_more_for_it_than_the_rate_of_the_project(
    desk: Desk,
) -> None:
    await desk.granted(desk.ann, "T-1")
    await use_up(desk)
    for tasks, mode in ((("T-2",), "one"), (("T-1", "T-2"), "all")):
        outcome = await desk.claim(desk.ann, *tasks, mode=mode)
        assert (type(outcome), outcome.whose) == (results.RateLimited, "project")
    assert (await desk.show("T-2")).state == "free"


@pytest.mark.parametrize("rules", [Rules(rate_per_session=5, rate_per_project=0)])
async def test_a_session_that_claims_too_often_can_still_keep_what_it_has(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    while not isinstance(await desk.claim(desk.ann, "T-2"), results.RateLimited):
        pass
    assert isinstance(await desk.beat(desk.ann, "T-1", held.fence), results.Renewed)
    assert isinstance(await desk.release(desk.ann, "T-1", held.fence), results.Ended)


@pytest.mark.parametrize("rules", [Rules(rate_per_session=1, rate_per_project=1)])
async def test_what_only_reads_writes_nothing_not_even_a_rate(desk: Desk) -> None:
    for _ in range(20):
        await desk.show("T-1", desk.ann)
        await acting.list_(desk.store, desk.project, desk.ann, states=["held"], limit=10)
    assert await desk.store.link.command("KEYS", f"dibs:[{{]{desk.project}}}*") == []


async def test_a_service_that_has_no_room_grants_nothing_new_while_holders_go_on(
    desk: Desk,
) -> None:
    held = await desk.granted(desk.ann, "T-1")
    desk.store.room = lambda: "The disk is nearly full."
    refused = await desk.claim(desk.bob, "T-2")
    assert (type(refused), refused.why) == (results.Full, "The disk is nearly full.")
    assert isinstance(await desk.claim(desk.bob, "T-1", queue=True), results.Full)
    assert isinstance(await desk.claim(desk.bob, "T-1"), results.Conflict), (
        "a refusal stores nothing"
    )
    assert (await desk.granted(desk.ann, "T-1")).fence == held.fence
    assert isinstance(await desk.claim(desk.ann, "T-1", "T-2", mode="all"), results.Full)
    assert isinstance(await desk.claim(desk.ann, "T-2", "T-1", mode="any"), results.Granted)
    assert isinstance(await desk.beat(desk.ann), results.Renewed)
    assert isinstance(await desk.release(desk.ann, "T-1", held.fence), results.Ended)
    desk.store.room = lambda: ""
    await desk.granted(desk.bob, "T-2")


async def test_a_service_without_room_takes_up_no_project(desk: Desk) -> None:
    desk.store.room = lambda: "The disk is nearly full."
    desk.project = Project(f"late.{desk.project}")
    assert isinstance(await desk.claim(desk.ann, "T-1"), results.Full)
    assert desk.project not in await desk.store.projects()


async def test_a_store_that_may_lose_claims_is_given_no_new_ones(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1")
    other = await desk.granted(desk.bob, "T-2")
    await desk.break_("T-2", other.fence)
    desk.store.unsafe = "The store evicts claims."
    for wish in ({}, {"queue": True}):
        with pytest.raises(StoreDown, match="evicts") as down:
            await desk.claim(desk.bob, "T-1" if wish else "T-3", **wish)
        assert not down.value.sent
    assert (await desk.show("T-3")).state == "free"
    assert (await desk.granted(desk.ann, "T-1")).fence == held.fence
    assert isinstance(await desk.beat(desk.ann), results.Renewed)
    assert [loss.task for loss in (await desk.beat(desk.bob)).lost] == ["T-2"], (
        "a refused call does not use up the notice"
    )


@pytest.fixture(params=[0, 1000], ids=["without rates", "with rates"])
async def cramped(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    """Yield a desk on its own store, which the test fills."""
    embedded = EmbeddedStore.start(tmp_path / "data")
    rules = Rules(rate_per_session=request.param, rate_per_project=request.param)
    store = Store(PipelineLink.to(embedded.url), rules)
    await store.open()
    yield Desk(store, None)
    await store.close()
    embedded.stop()


async def test_a_full_store_refuses_new_claims_while_holders_go_on(cramped: Desk) -> None:
    held = await cramped.granted(cramped.ann, "T-1")
    other = await cramped.granted(cramped.ann, "T-2")
    await cramped.store.link.command("CONFIG", "SET", "maxmemory", "1")
    assert isinstance(await cramped.claim(cramped.bob, "T-9"), results.Full)
    refused = await cramped.claim(cramped.bob, "T-1")
    assert isinstance(refused, results.Conflict), "a refusal can still name the holder"
    assert isinstance(await cramped.claim(cramped.bob, "T-1", queue=True), results.Full)
    assert isinstance(await cramped.claim(cramped.ann, "T-1"), results.Granted)
    outcome = await cramped.beat(cramped.ann, "T-1", held.fence, state="parked", note="x" * 900)
    assert outcome.claims[0].state == "parked"
    assert isinstance(await cramped.beat(cramped.ann), results.Renewed)
    await cramped.release(cramped.ann, "T-1", held.fence, outcome="done", note="y" * 900)
    await cramped.break_("T-2", other.fence)
    assert (await cramped.show("T-9")).state == "free"
    await cramped.store.link.command("CONFIG", "SET", "maxmemory", "0")
    assert isinstance(await cramped.claim(cramped.bob, "T-9"), results.Granted)


@pytest.mark.parametrize("act", ["beat", "release", "resolve", "claim", "sweep"])
async def test_what_others_have_is_found_after_an_act_in_a_full_store(
    cramped: Desk, act: str
) -> None:
    """A full store refuses a write even if the value is already stored."""
    pr, desk = "https://example.org/pull/7", cramped
    for task in ("T-1", "T-2"):
        await desk.granted(desk.ann, task)
        await desk.beat(desk.ann, task, state="review", pr=pr)
    mine = await desk.granted(desk.bob, "T-3")
    await desk.store.link.command("CONFIG", "SET", "maxmemory", "1")
    if act == "beat":
        await desk.beat(desk.bob, "T-3", mine.fence, pr=pr)
    elif act == "release":
        await desk.release(desk.bob, "T-3", mine.fence, pr=pr)
    elif act == "resolve":
        given = {"task": "T-3", "pr": pr, "outcome": "rejected"}
        await acting.resolve(desk.store, desk.project, **given)
    elif act == "claim":
        assert isinstance(await desk.claim(desk.bob, "T-3", pr=pr), results.Granted)
    else:
        await desk.store.link.command("HDEL", f"{keys(desk.project)}:meta", "weighs")
        await desk.store.sweep(desk.project)
    found = await acting.list_(desk.store, desk.project, states=model.STATES, pr=pr, limit=9)
    assert {claim.task for claim in found.claims} >= {"T-1", "T-2"}
    assert {claim.task for claim in found.claims} <= {"T-1", "T-2", "T-3"}


async def test_a_full_store_does_not_let_a_claim_slip_in_behind_a_lapse(cramped: Desk) -> None:
    rules = replace(cramped.store.rules, ttl_ms=50, grace_ms=10)
    cramped.store = Store(cramped.store.link, rules)
    await cramped.store.open()
    await cramped.granted(cramped.ann, "T-1")
    await cramped.store.link.command("CONFIG", "SET", "maxmemory", "1")
    while (await cramped.refused_or_full(cramped.bob, "T-1")) == "refused":
        await asyncio.sleep(0.02)
    assert (await cramped.show("T-1")).state == "lapsed"
