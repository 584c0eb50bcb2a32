"""Rules 2, 4: a lost reply has no cost, whatever other sessions did before the retry."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.conftest import Desk, Stepped
from tests.harness import acting
from tests.harness.services import new_session

from dibs import results
from dibs.acts import claim, heartbeat
from dibs.model import Task
from dibs.problems import ProblemError
from dibs.store import Rules, Store, StoreDown
from dibs.store import store as store_module
from dibs.store.redis.link import Link, PipelineLink


class Forgetful:
    """A link that loses the reply of the next script, after which others act before the retry."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def command(self, *parts: str | int) -> Any:
        return (await self.replicated(*parts))[0]

    async def replicated(self, *parts: str | int) -> tuple[Any, bool]:
        answer = await self.link.replicated(*parts)
        if self.meanwhile and str(parts[0]).startswith(("EVAL", "FCALL")):
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
            raise StoreDown("The reply was lost.", sent=True)
        return answer

    def with_key(self, key: str, run: Callable[[Any], Awaitable[Any]]) -> Awaitable[Any]:
        return run(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)


class Counter:
    """A desk that may lose the first reply, and one through which others act in between."""

    def __init__(self, link: Forgetful, near: Desk, others: Desk) -> None:
        self.link, self.near, self.others = link, near, others

    def meanwhile(self, *acts: Callable[[], Awaitable[Any]]) -> None:
        async def act() -> None:
            for one in acts:
                await one()

        self.link.meanwhile = act

    def had_by(self, task: str, count: int) -> list[Callable[[], Awaitable[Any]]]:
        """Return acts by which `count` sessions in turn claim and release the task."""

        async def have() -> None:
            who = new_session()
            await self.others.granted(who, task)
            await self.others.release(who, task)

        return [have] * count


@pytest.fixture
def rules() -> Rules:
    return Rules(rate_per_session=0, rate_per_project=0, claims_per_session=3)


@pytest.fixture
async def counter(stepped: Stepped, rules: Rules) -> AsyncIterator[Counter]:
    embedded, clock = stepped
    link, plain = Forgetful(PipelineLink.to(embedded.url)), PipelineLink.to(embedded.url)
    near, others = Store(link, rules), Store(plain, rules)
    await near.open()
    await others.open()
    desk, other_desk = Desk(near, clock), Desk(others, clock)
    other_desk.project = desk.project
    await desk.granted(desk.ann, "known")
    await desk.beat(desk.ann)
    await desk.release(desk.ann, "known")
    yield Counter(link, desk, other_desk)
    await near.close()
    await others.close()


@pytest.mark.parametrize("outcome", ["released", "abandoned"])
@pytest.mark.parametrize("others", [0, 1, 2, 5])
async def test_a_release_is_one_that_was_done_whoever_has_had_the_task_since(
    counter: Counter, outcome: str, others: int
) -> None:
    desk = counter.near
    held = await desk.granted(desk.ann, "T-1")
    counter.meanwhile(*counter.had_by("T-1", others))
    ended = await desk.release(desk.ann, "T-1", held.fence, outcome=outcome)
    assert ended.releases == (results.Release(Task("T-1"), "free", True),)
    again = await desk.release(desk.ann, "T-1", held.fence)
    assert again.releases[0].already, "and to a later retry"


async def test_a_done_task_that_was_reopened_by_others_was_done_all_the_same(
    counter: Counter,
) -> None:
    desk = counter.near
    held = await desk.granted(desk.ann, "T-1")

    async def reopen() -> None:
        who = new_session()
        await counter.others.granted(who, "T-1", reopen=True)
        await counter.others.release(who, "T-1", outcome="done")

    counter.meanwhile(reopen, reopen, reopen)
    ended = await desk.release(desk.ann, "T-1", held.fence, outcome="done")
    assert ended.releases == (results.Release(Task("T-1"), "done", True),)


@pytest.mark.parametrize("others", [0, 1, 2, 5])
async def test_a_break_is_one_that_was_done_whoever_has_had_the_task_since(
    counter: Counter, others: int
) -> None:
    desk = counter.near
    held = await desk.granted(desk.ann, "T-1")
    counter.meanwhile(*counter.had_by("T-1", others))
    ended = await desk.break_("T-1", held.fence)
    assert ended.releases == (results.Release(Task("T-1"), "free", True),)


async def test_a_loss_that_a_lost_reply_told_is_told_by_the_next_try(counter: Counter) -> None:
    desk = counter.near
    held = await desk.granted(desk.ann, "T-1")
    await counter.others.break_("T-1", held.fence)
    counter.meanwhile()
    assert [loss.task for loss in (await desk.beat(desk.ann)).lost] == ["T-1"]
    assert (await desk.beat(desk.ann)).lost == (), "and is told once"


async def test_who_never_ended_it_is_not_told_that_they_did(counter: Counter) -> None:
    desk = counter.near
    held = await desk.granted(desk.ann, "T-1")
    await desk.release(desk.ann, "T-1", held.fence)
    for have in counter.had_by("T-1", 2):
        await have()
    assert isinstance(await desk.release(desk.bob, "T-1", held.fence), results.NotMine)
    assert isinstance(await desk.release(desk.ann, "T-2", held.fence), results.NotMine)
    assert isinstance(await desk.break_("T-1", held.fence), results.Moved)


async def test_a_no_after_an_unanswered_try_says_that_it_may_have_been_a_yes(
    counter: Counter,
) -> None:
    desk, others = counter.near, counter.others
    await desk.granted(desk.cat, "taken")
    held = await desk.granted(desk.ann, "T-1")

    async def break_it() -> None:
        await others.break_("T-1", held.fence)

    async def take_it() -> None:
        await others.granted(desk.bob, "T-1")

    counter.meanwhile(break_it, take_it)
    beat = await desk.beat(desk.ann, "T-1", held.fence)
    assert (beat.why, beat.unsure) == ("lost", True)

    await desk.granted(desk.ann, "T-2")
    counter.meanwhile(*counter.had_by("T-2", 1))
    nameless = await desk.release(desk.ann, "T-2")
    assert (type(nameless), nameless.unsure) == (results.NotMine, True), (
        "without a fence the outcome is unknown"
    )

    counter.meanwhile()
    refused = await desk.claim(desk.ann, "taken")
    assert (type(refused), refused.unsure) == (results.Conflict, True)
    counter.meanwhile()
    moved = await desk.break_("taken", held.fence)
    assert (type(moved), moved.unsure) == (results.Moved, True)

    desk.store.room = lambda: "The disk is full."
    counter.meanwhile()
    full = await desk.claim(desk.ann, "T-4")
    assert (type(full), full.unsure) == (results.Full, True)
    desk.store.room = lambda: ""
    await desk.claim(desk.ann, "Q-1", "Q-2", "Q-3", mode="all")
    counter.meanwhile()
    quota = await desk.claim(desk.ann, "Q-4")
    assert (type(quota), quota.unsure) == (results.OverQuota, True)
    quota = await desk.claim(desk.ann, "Q-4")
    assert (type(quota), quota.unsure) == (results.OverQuota, False), (
        "unsure only after a lost reply"
    )


@pytest.mark.parametrize("unsure", [True, False])
def test_a_problem_says_unknown_where_an_earlier_try_was_unanswered(unsure: bool) -> None:
    wish, beat = acting.asked(()), heartbeat.HeartbeatRequest()
    answers: tuple[Callable[[], object], ...] = (
        lambda: claim.answer(results.OverQuota("session", 3, unsure=unsure), wish),
        lambda: claim.answer(results.Full(unsure=unsure), wish),
        lambda: heartbeat.answer(results.RateLimited("session", 3, unsure=unsure), beat),
    )
    for answer in answers:
        with pytest.raises(ProblemError) as caught:
            answer()
        assert caught.value.body["outcome"] == ("unknown" if unsure else "not-applied")
        assert ("earlier try" in caught.value.body["detail"]) is unsure


class Failing:
    """A link whose store becomes unreachable after it answered `left` acts."""

    def __init__(self, link: Link) -> None:
        self.link, self.left = link, math.inf

    async def command(self, *parts: str | int) -> Any:
        if self.left <= 0:
            raise StoreDown("No connection to the store.", sent=False)
        if str(parts[0]).startswith(("EVAL", "FCALL")):
            self.left -= 1
        return await self.link.command(*parts)

    def with_key(self, key: str, run: Callable[[Any], Awaitable[Any]]) -> Awaitable[Any]:
        return run(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)


async def test_what_ran_is_not_denied_where_the_store_goes_away_before_its_answer_is_sure(
    stepped: Stepped, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The act runs again if a heartbeat names the fence of an unknown claim, since the store may
    have failed over. The first run has reported the session's loss by then."""
    monkeypatch.setattr(store_module, "_NEWS_S", -1.0)
    embedded, clock = stepped
    link = Failing(PipelineLink.to(embedded.url))
    store = Store(link, rules)
    await store.open()
    try:
        desk = Desk(store, clock)
        held = await desk.granted(desk.ann, "T-1")
        await desk.beat(desk.ann)  # the store knows the function from here on
        await desk.break_("T-1", held.fence)
        link.left = 1
        with pytest.raises(StoreDown) as down:
            await desk.beat(desk.ann, "T-2", 7)
        assert down.value.sent, "the call may have had an effect"
        link.left = math.inf
        assert not (await desk.beat(desk.ann)).lost, "it had: the loss was reported"
    finally:
        await store.close()


class FailingOnce(Forgetful):
    """A link on which the script with this number does not reach the store."""

    scripts, number = 0, 0

    async def replicated(self, *parts: str | int) -> tuple[Any, bool]:
        if str(parts[0]).startswith(("EVAL", "FCALL")) and str(parts[3]).startswith("dibs:{"):
            self.scripts += 1
            if self.scripts == self.number:
                raise StoreDown("The connection was lost.", sent=False)
        return await super().replicated(*parts)


async def test_a_connection_that_is_lost_after_a_second_look_is_tried_again(
    stepped: Stepped, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rerun for news of a failover does not use up the one retry after a lost connection."""
    monkeypatch.setattr(store_module, "_NEWS_S", -1.0)
    embedded, clock = stepped
    link = FailingOnce(PipelineLink.to(embedded.url))
    store = Store(link, rules)
    await store.open()
    try:
        desk = Desk(store, clock)
        await desk.granted(desk.ann, "T-1")
        await desk.beat(desk.ann)  # the store knows the function from here on
        link.number = link.scripts + 2
        answer = await desk.beat(desk.ann, "T-2", 7)
        assert link.scripts >= link.number, "the act ran again, and that run was lost"
        assert isinstance(answer, results.NotMine)
        assert answer.why == "not-holder"
    finally:
        await store.close()
