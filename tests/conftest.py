"""Fixtures for every test: a desk that claims on the fake and on a real store, with a clock."""

import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
import time_machine
from fakeredis import FakeAsyncRedis
from tests.harness import acting, oversight
from tests.harness.services import new_session
from tests.tools.clock import SteppedClock

from dibs import results
from dibs.acts import heartbeat as beating
from dibs.acts import release as releasing
from dibs.claims import Bounds, Claims
from dibs.model import Claim, Fence, Free, Project, Session, Task
from dibs.store import Rules, Store
from dibs.store.broadcast import EventBroadcaster
from dibs.store.local.embedded import EmbeddedStore
from dibs.store.redis.blocking import BlockingLink
from dibs.store.redis.link import ClientLink, PipelineLink

_numbers = itertools.count(1)
Stepped = tuple[EmbeddedStore, SteppedClock]
"""A real store, and the clock that its server reads."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the ini option of the oversight, and `--short`."""
    oversight.options(parser)
    says = "as in `make test`: skip the proofs marked `long`, and run some cases of each test"
    parser.addoption("--short", action="store_true", help=says)


def pytest_configure(config: pytest.Config) -> None:
    """Register the oversight: no test leaves a process behind, and every run is bounded."""
    oversight.begin(config)


FIRST = (
    *("proofs/test_boundaries.py", "client/test_bounds.py", "ops/test_failover.py"),
    *("abuse/test_abuse.py", "ops/test_start.py", "board/test_live.py", "board/test_access.py"),
    *("proofs/test_state_machine.py", "client/test_hooks.py", "ops/test_image.py"),
    *("client/test_words_of_others.py", "store/test_disk.py", "board/test_finding.py"),
    *(
        "ops/test_replicas.py",
        "ops/test_hardening.py",
        "ops/test_telemetry.py",
        "races/test_races.py",
    ),
    *("client/test_parts.py", "perf/test_costs.py", "ops/test_front.py", "board/test_bounds.py"),
    *(
        "client/test_install.py",
        "ops/test_admission.py",
        "client/test_run.py",
        "ops/test_stop_and_go.py",
    ),
    *(
        "board/test_first_paint.py",
        "board/test_break.py",
        "ops/test_serving.py",
        "http/test_smuggling.py",
    ),
    *(
        "client/test_trust.py",
        "client/test_bad_input.py",
        "board/test_pages.py",
        "http/test_access.py",
    ),
    *("store/test_embedded.py", "store/test_repair.py", "proofs/test_generated_calls.py"),
)
"""The slowest files, slowest first (`make test ARGS=--durations=0`). They start first, so that no
worker is left with one of them after the others have finished.
"""
CASES_MOST = 12
"""The number of cases of one test that `--short` runs at most; the same cases each time."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start with the slowest files, each in order; with `--short` deselect the long proofs."""
    rank = {file: number for number, file in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get("/".join(item.path.parts[-2:]), len(FIRST)))
    if config.getoption("short"):
        left_out = not_short(items)
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def not_short(items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """Return the long proofs, and the cases beyond CASES_MOST of each test.

    The cases are a random sample (seeded by the test's name), not every n-th one: parametrized
    cases come in a regular order, such as store by store, so every second or third case might leave
    out one of two stores.
    """
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out = {item for item in items if item.get_closest_marker("long")}
    for test, some in cases.items():
        if len(some) > CASES_MOST:
            left_out |= set(some) - set(random.Random(test).sample(some, CASES_MOST))
    return left_out


class Desk:
    """A place to claim in a test: one project of one store, three sessions, the store's clock."""

    def __init__(self, store: Store, clock: Any) -> None:
        self.store, self.clock = store, clock
        self.project = Project(f"desk.{next(_numbers)}")
        self.ann, self.bob, self.cat = new_session(), new_session(), new_session()
        self.labels = {self.ann: "ann", self.bob: "bob", self.cat: "cat"}

    async def pass_time(self, seconds: float) -> None:
        """Let time pass in steps of 4 s at most, each followed by a tick of the lease clock."""
        while seconds > 0:
            step = min(seconds, 4.0)
            await self.jump(step)
            await self.store.tick()
            seconds -= step

    async def jump(self, seconds: float) -> None:
        """Step the store's clock at once, as an outage or a wrong clock would."""
        if not isinstance(self.clock, SteppedClock):
            self.clock.shift(seconds)
            return
        self.clock.step(seconds)
        # A server caches the time of its last event loop briefly: wait until it sees the step.
        for _ in range(1000):
            now_s, _ = await self.store.link.command("TIME")
            if abs(int(now_s) - time.time() - self.clock.offset_s) < 1.5:
                return
        raise TimeoutError("the store's clock does not follow the step")

    async def claim(self, who: Session, *tasks: str, **wish: Any) -> Any:
        """Claim as `who`."""
        wish.setdefault("label", self.labels.get(who, ""))
        return await acting.claim(
            self.store, self.project, who, [Task(task) for task in tasks], **wish
        )

    async def granted(self, who: Session, task: str, **wish: Any) -> Claim:
        """Claim as `who`, and assert that the claim is granted."""
        outcome = await self.claim(who, task, **wish)
        assert isinstance(outcome, results.Granted), outcome
        return outcome.claims[0]

    async def refused(self, who: Session, task: str, **wish: Any) -> results.Refusal:
        """Claim as `who`, and assert that the claim is refused."""
        outcome = await self.claim(who, task, **wish)
        assert isinstance(outcome, results.Conflict), outcome
        return outcome.refusals[0]

    async def refused_or_full(self, who: Session, task: str) -> str:
        """Claim as `who`, assert that nothing is granted, and return why: "refused" or "full"."""
        outcome = await self.claim(who, task)
        assert isinstance(outcome, results.Conflict | results.Full), outcome
        return "refused" if isinstance(outcome, results.Conflict) else "full"

    async def beat(
        self, who: Session, task: str | None = None, fence: int | None = None, **k: Any
    ) -> beating.Result:
        """Heartbeat as `who`."""
        name = Task(task) if task else None
        return await acting.heartbeat(
            self.store, self.project, who, name, Fence(fence) if fence else None, **k
        )

    async def release(
        self, who: Session, task: str | None, fence: int | None = None, **k: Any
    ) -> releasing.Result:
        """Release as `who`."""
        name = Task(task) if task else None
        return await acting.release(
            self.store, self.project, who, name, Fence(fence) if fence else None, **k
        )

    async def break_(self, task: str, fence: int, reason: str = "stuck", by: str = "lead") -> Any:
        """Break a claim, as a person."""
        return await acting.break_(
            self.store, self.project, Task(task), Fence(fence), reason=reason, by=by
        )

    async def show(self, task: str, who: Session | None = None) -> Claim | Free:
        """Return the claim on a task, or Free."""
        return await acting.show(self.store, self.project, Task(task), who)

    async def events(self) -> list[str]:
        """Return the project's transitions, each as "type task"."""
        events = await self.store.events.read(self.project, "", 1000)
        return [f"{event.type} {event.task}" for event in events]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stepped]:
    """Yield a real store whose wall clock the tests can step."""
    folder = tmp_path_factory.mktemp("stepped")
    clock = SteppedClock(folder / "clock")
    store = EmbeddedStore.start(folder / "data", env=clock.env)
    yield store, clock
    store.stop()


@pytest.fixture
def rules() -> Rules:
    """Return the default rules without rate limits: a test calls faster than any session."""
    return Rules(rate_per_session=0, rate_per_project=0)


@pytest.fixture(params=["fake", "valkey"])
async def desk(request: pytest.FixtureRequest, rules: Rules) -> AsyncIterator[Desk]:
    """Yield a desk on the fake store, and one on a real store over its socket."""
    if request.param == "fake":
        with time_machine.travel("2026-11-21T12:00:00Z", tick=True) as clock:
            store = Store(ClientLink(FakeAsyncRedis(decode_responses=True)), rules)
            await store.open()
            yield Desk(store, clock)
            await store.close()
    else:
        embedded, clock = request.getfixturevalue("stepped")
        store = Store(PipelineLink.to(embedded.url), rules)
        await store.open()
        yield Desk(store, clock)
        await store.close()


@pytest.fixture
async def store(rules: Rules, stepped: Stepped) -> AsyncIterator[Store]:
    """Yield a real store."""
    store = Store(PipelineLink.to(stepped[0].url), rules)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def claims(store: Store, stepped: Stepped) -> AsyncIterator[Claims]:
    """Yield the service's rules around a real store."""
    broadcaster = EventBroadcaster(store, BlockingLink(PipelineLink.to(stepped[0].url)))
    yield Claims(store, broadcaster, Bounds())
    await broadcaster.close()
