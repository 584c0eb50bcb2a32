"""Servers behind one address that answer INFO in turn are not taken for restarts each time."""

import itertools
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from tests.conftest import Desk, Stepped

from dibs.store import Rules, Store
from dibs.store.redis.link import Link, PipelineLink


class Turning:
    """A link whose INFO reports the next run id of `runs` each time."""

    def __init__(self, link: PipelineLink) -> None:
        self._link = link
        self.runs = itertools.cycle(["a" * 40])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    async def servers(self) -> Sequence[Link]:
        return [self]

    async def command(self, *parts: str | int) -> Any:
        reply = await self._link.command(*parts)
        if parts == ("INFO",):
            return re.sub(r"run_id:\w*", f"run_id:{next(self.runs)}", reply)
        return reply


@pytest.fixture
async def turning(stepped: Stepped) -> AsyncIterator[tuple[Desk, Turning]]:
    """Yield a desk on such a store."""
    embedded, clock = stepped
    link = Turning(PipelineLink.to(embedded.url))
    store = Store(link, Rules(rate_per_session=0, rate_per_project=0))
    await store.open()
    desk = Desk(store, clock)
    await desk.pass_time(40)  # until the runs that other tests showed are forgotten
    yield desk, link
    await store.close()


async def why_each(desk: Desk, looks: int) -> list[str]:
    """Tick `looks` times, a second apart; return the reason why each tick lost time."""
    found = []
    for _ in range(looks):
        await desk.jump(1)
        found.append(await desk.store.tick())
    return found


@pytest.mark.parametrize("count", [2, 3, 5])
async def test_servers_that_take_turns_do_not_keep_claims_for_ever(
    turning: tuple[Desk, Turning], count: int
) -> None:
    desk, link = turning
    link.runs = itertools.cycle(str(number) * 40 for number in range(count))
    await desk.granted(desk.ann, "T-1", ttl_s=10)
    whys = await why_each(desk, 12 + count)
    assert whys.count("restart") <= count + 3, whys
    assert whys[-3:] == ["turns"] * 3
    assert desk.store.clock.taking_turns
    assert any("in turn" in reason for reason in (await desk.store.health()).reasons)
    await why_each(desk, 45)
    await desk.granted(desk.bob, "T-1")


async def test_a_restart_is_noticed_among_servers_that_take_turns(
    turning: tuple[Desk, Turning],
) -> None:
    desk, link = turning
    link.runs = itertools.cycle(["a" * 40, "b" * 40])
    assert (await why_each(desk, 12))[-1] == "turns"
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await why_each(desk, 50)
    link.runs = itertools.cycle(["c" * 40, "b" * 40])  # "a" restarted as "c"
    assert (await why_each(desk, 4)).count("restart") == 1
    assert (await desk.show("T-1")).expires_in > 50


async def test_a_failover_and_back_and_again_is_an_interruption_each_time(
    turning: tuple[Desk, Turning],
) -> None:
    desk, link = turning
    for run in ("b", "a", "b"):
        link.runs = itertools.cycle([run * 40])
        assert (await why_each(desk, 3))[0] == "restart"
    await why_each(desk, 40)
    link.runs = itertools.cycle(["a" * 40])
    assert await why_each(desk, 1) == ["restart"], "that run was not seen recently"


async def test_a_service_that_may_not_see_the_run_does_not_disturb_one_that_may(
    turning: tuple[Desk, Turning],
) -> None:
    desk, link = turning
    link.runs = itertools.cycle(["a" * 40])
    await why_each(desk, 1)
    link.runs = itertools.cycle(["a" * 40, ""])
    assert await why_each(desk, 6) == [""] * 6
