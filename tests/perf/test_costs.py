"""The cost of an act, in counts and ratios that do not depend on how busy the machine is.

`make bench` measures times. These tests count commands, round trips, calls and bytes, which are the
same on every machine.
"""

import asyncio
import json
import sys
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import redis
from bench.echo import app as echo
from tests.harness import acting

from dibs import results
from dibs.app import build
from dibs.model import Claim, Project, Session, Task
from dibs.settings import Settings
from dibs.store import Rules, Store
from dibs.store.local.embedded import EmbeddedStore
from dibs.store.redis.link import PipelineLink

FACTS: dict[str, Any] = {
    "label": "session_01HZX3Q9T7VYB2",
    "branch": "claude/fix-login-redirect-01HZX3",
    "url": "https://claude.ai/code/session_01HZX3Q9T7VYB2",
    "note": "Reads the redirect code; tests first, then the change itself",
}
P = Project("perf.repo")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """Start a store as `dibs serve` starts it."""
    store = EmbeddedStore.start(tmp_path_factory.mktemp("perf") / "data")
    yield store
    store.stop()


@pytest.fixture
def server(embedded: EmbeddedStore) -> Iterator[redis.Redis]:
    """Yield a client of the store, which reads the store's own statistics."""
    client = redis.Redis.from_url(embedded.url, protocol=2)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
async def store(embedded: EmbeddedStore, server: redis.Redis) -> AsyncIterator[Store]:
    """Yield a store client as in the service; its rate limits are checked and never reached."""
    much = dict.fromkeys(("rate_per_session", "rate_per_project", "claims_per_project"), 10**6)
    rules = Rules(**much, record_bytes=64 << 20)
    store = Store(PipelineLink.to(embedded.url), rules)
    await store.open()
    yield store
    await store.close()


def who() -> Session:
    return Session(str(uuid.uuid4()))


async def grant(
    store: Store, task: str, session: Session | None = None, project: Project = P, **facts: str
) -> Claim:
    wish = FACTS | facts
    outcome = await acting.claim(store, project, session or who(), [Task(task)], **wish)
    assert isinstance(outcome, results.Granted), outcome
    return outcome.claims[0]


def commands(server: redis.Redis) -> int:
    """Return the number of commands the store ran since the last reset, scripts' included."""
    stats = server.info("commandstats")
    ours = ("cmdstat_config", "cmdstat_info", "cmdstat_hello", "cmdstat_client")
    return sum(each["calls"] for name, each in stats.items() if not name.startswith(ours))


async def cost(server: redis.Redis, act: Any) -> int:
    """Return the number of commands that one act takes."""
    server.config_resetstat()
    await act
    return commands(server)


@pytest.mark.parametrize(
    ("act", "most"), [("claim", 16), ("refused", 8), ("beat", 11), ("release", 17), ("show", 7)]
)
async def test_an_act_takes_no_more_commands_than_it_did(
    store: Store, server: redis.Redis, act: str, most: int
) -> None:
    async def once(number: int) -> int:
        ann, task = who(), Task(f"T-{number}")
        claim = await grant(store, task, ann)
        acts: dict[str, Callable[[], Awaitable[object]]] = {
            "claim": lambda: grant(store, f"{task}.2"),
            "refused": lambda: acting.claim(store, P, who(), [task], **FACTS),
            "beat": lambda: acting.heartbeat(store, P, ann, task, claim.fence),
            "release": lambda: acting.release(store, P, ann, task, claim.fence),
            "show": lambda: acting.show(store, P, task, ann),
        }
        return await cost(server, acts[act]())

    # The first act loads the script, and an act that begins a new rate interval takes more
    # commands.
    assert min([await once(number) for number in range(4)]) <= most


async def test_no_act_takes_more_commands_in_a_store_with_a_thousand_claims(
    store: Store, server: redis.Redis
) -> None:
    async def costs_once() -> dict[str, int]:
        ann, task = who(), Task(f"T-{uuid.uuid4()}")
        found = {"claim": await cost(server, grant(store, task, ann))}
        found["refused"] = await cost(server, acting.claim(store, P, who(), [task]))
        found["beat"] = await cost(server, acting.heartbeat(store, P, ann, task))
        found["beat all"] = await cost(server, acting.heartbeat(store, P, ann))
        found["show"] = await cost(server, acting.show(store, P, task, ann))
        found["list of 10"] = await cost(server, acting.list_(store, P, states=["held"], limit=10))
        look = acting.list_(store, P, states=["held"], limit=9, branch=task)
        await acting.heartbeat(store, P, ann, task, pr=f"https://e.org/pull/{task}")
        await grant(store, task, ann, branch=task)
        found["by branch"] = await cost(server, look)
        pr = f"https://e.org/pull/{task}"
        found["resolve"] = await cost(server, acting.resolve(store, P, pr=pr, outcome="rejected"))
        found["sweep"] = await cost(server, store.sweep(P))
        found["release"] = await cost(server, acting.release(store, P, ann, task))
        return found

    async def costs() -> dict[str, int]:
        """Return the least of three: the first acts in a rate interval take one or two more."""
        tries = [await costs_once() for _ in range(3)]
        return {act: min(each[act] for each in tries) for act in tries[0]}

    await asyncio.gather(*(grant(store, f"first {number}") for number in range(20)))
    await costs()  # this loads every script
    few = await costs()
    await asyncio.gather(*(grant(store, f"more {number}") for number in range(1_000)))
    assert await costs() == few


async def write(store: Store, *entries: dict[str, Any]) -> None:
    outcome = await acting.tasks(store, P, who(), entries)
    assert isinstance(outcome, results.Written), outcome


async def take(store: Store, session: Session | None = None) -> Claim:
    outcome = await acting.claim(store, P, session or who(), [], mode="next", **FACTS)
    assert isinstance(outcome, results.Granted), outcome
    return outcome.claims[0]


async def test_the_next_costs_as_much_in_a_list_of_three_thousand_as_in_one_of_twenty(
    store: Store, server: redis.Redis
) -> None:
    async def costs() -> dict[str, int]:
        """Return the least of three, as above."""
        tries = []
        for _ in range(3):
            ann, found = who(), dict[str, int]()
            found["next"] = await cost(server, take(store, ann))
            found["mine"] = await cost(server, take(store, ann))
            task = (await take(store, ann)).task
            found["done"] = await cost(server, acting.release(store, P, ann, task, outcome="done"))
            name = f"X-{uuid.uuid4()}"
            found["write"] = await cost(server, write(store, {"task": name, "priority": 4}))
            found["again"] = await cost(server, write(store, {"task": name, "priority": 4}))
            tries.append(found)
        return {act: min(each[act] for each in tries) for act in tries[0]}

    await write(store, *({"task": f"first {number}"} for number in range(20)))
    await costs()  # this loads every script
    few = await costs()
    for first in range(0, 3_000, 500):
        await write(store, *({"task": f"more {first + number}"} for number in range(500)))
    assert await costs() == few
    assert few["next"] <= 28
    assert few["mine"] <= 18
    assert few["again"] <= 9


async def test_a_thousand_dependents_cost_little_more_than_an_event_each(
    store: Store, server: redis.Redis
) -> None:
    async def costs(many: int) -> int:
        """Return the commands that finish a task which `many` others need."""
        need, ann = f"need of {many}", who()
        others = [{"task": f"{need} {number}", "needs": [need]} for number in range(many)]
        await write(store, {"task": need})
        for first in range(0, many, 500):
            await write(store, *others[first : first + 500])
        await grant(store, need, ann)
        return await cost(server, acting.release(store, P, ann, Task(need), outcome="done"))

    await costs(1)  # this loads every script
    few = await costs(2)
    assert await costs(1_000) <= few + 998 + 20


async def test_claims_that_are_made_at_once_leave_together(
    store: Store, server: redis.Redis
) -> None:
    await grant(store, "T-1")
    before = server.info("stats")["total_reads_processed"]
    await asyncio.gather(*(grant(store, f"T-at-once-{number}") for number in range(100)))
    reads = server.info("stats")["total_reads_processed"] - before
    # One round trip per claim would be 100 reads, and 100 syncs of the log.
    assert reads <= 25


@pytest.mark.long
async def test_a_live_claim_with_all_its_facts_takes_at_most_900_bytes(
    store: Store, server: redis.Redis
) -> None:
    async def fill(name: str, count: int) -> None:
        for first in range(0, count, 500):
            tasks = [f"{name}-{number:06}" for number in range(first, first + 500)]
            branch = "claude/fix-login-redirect-"
            await asyncio.gather(*(grant(store, task, branch=branch + task) for task in tasks))

    await fill("warm", 12_000)  # the event stream reaches its full length
    _without_rates(server)
    before = server.info("memory")["used_memory"]
    many = 6_000  # 54,000 keys: from 65,536 keys on, the store's key table doubles
    await fill("kept", many)
    _without_rates(server)
    each = (server.info("memory")["used_memory"] - before) / many
    # About 60 bytes of this index names that look alike, and 110 index the claim by its branch.
    assert each <= 900


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "short": ("T-{:06}", {}),
    "usual": ("T-{:06}", FACTS),
    "long names": ("字" * 190 + "{:06}", {}),
    "long notes": ("T-{:06}", {"note": "\U0001f600" * 1_000}),
    "quotes": ("T-{:06}", {"note": '"' * 1_000, "branch": "\\" * 200}),
    "branches": ("T-{:06}", {"branch": "b/{:06}", "pr": "https://e.org/pull/{:06}"}),
    "long branches": ("字" * 190 + "{:06}", {"branch": "枝" * 190 + "{:06}"}),
    "of one branch": ("T-{:06}", {"branch": "main"}),
}


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
async def test_what_a_project_weighs_is_what_the_store_needs_for_it(
    embedded: EmbeddedStore, server: redis.Redis, shape: str
) -> None:
    rules = Rules(rate_per_session=0, rate_per_project=0, record_bytes=2 << 20, event_bytes=1 << 20)
    store = Store(PipelineLink.to(embedded.url), replace(rules, claims_per_project=10**6))
    await store.open()
    name, facts = SHAPES[shape]
    project = Project("weighs." + shape.replace(" ", "-"))
    for number in range(10_000):
        own = {name: fact.format(number) for name, fact in facts.items()}
        outcome = await acting.claim(store, project, who(), [Task(name.format(number))], **own)
        if isinstance(outcome, results.OverQuota):
            break
    sizes = {
        key.decode(): server.memory_usage(key, samples=0) or 0
        for key in server.scan_iter(f"dibs:{{{project}}}*", count=10_000)
        if b":rates:" not in key
    }
    events = sizes.pop(f"dibs:{{{project}}}:events")
    await store.close()
    assert outcome.whose == "bytes"
    assert events <= 1.05 * rules.event_bytes
    assert 0.7 * rules.record_bytes <= sum(sizes.values()) <= 1.25 * rules.record_bytes


LARGEST = {
    "label": "\u6f22" * 64,
    "branch": "\U0001f642" * 200,
    "url": "https://e.org/" + "\U0001f642" * 480,
    "pr": "https://e.org/" + "\U0001f642" * 480,
    "note": "\U0001f642" * 1_000,
}
HISTORIES: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "tenures of small names": ("T-{0}", "released", {}, 4_000),
    "tenures": ("T-{0}", "released", FACTS, 3_000),
    "done": ("T-{0}", "done", FACTS, 3_000),
    "the largest tenures": ("\U0001f642" * 190 + "{0}", "abandoned", LARGEST, 300),
    "the largest done": ("\U0001f642" * 190 + "{0}", "done", LARGEST, 300),
}
"""Each: a task's name, its outcome, its claim's fields, and more tenures than the budget holds."""


@pytest.mark.long
@pytest.mark.parametrize("kind", HISTORIES)
async def test_a_history_takes_no_more_than_the_budget_of_its_project_and_refuses_nobody(
    embedded: EmbeddedStore, server: redis.Redis, kind: str
) -> None:
    """A stranger's history; a retention of one millisecond stands in for day-old ends."""
    rules = Rules(
        rate_per_session=0,
        rate_per_project=0,
        record_bytes=1 << 20,
        event_bytes=1 << 20,
        retention_ms=1,
        max_attempts=0,
    )
    store = Store(PipelineLink.to(embedded.url), rules)
    await store.open()
    name, outcome, facts, many = HISTORIES[kind]
    project, first = Project("past." + kind.replace(" ", "-")), Task("")
    for number in range(many):
        ann, task = who(), Task(name.format(number))
        first = first or task
        granted = await acting.claim(store, project, ann, [task], **facts)
        assert isinstance(granted, results.Granted), f"{number}: {granted}"
        await acting.release(store, project, ann, task, outcome=outcome)  # type: ignore[arg-type]
        if number % 20 == 0:
            await store.sweep(project)
    sizes = {
        key.decode(): server.memory_usage(key, samples=0) or 0
        for key in server.scan_iter(f"dibs:{{{project}}}*", count=10_000)
        if b":rates:" not in key
    }
    del sizes[f"dibs:{{{project}}}:events"]
    kept = await server_weighs(store, project)
    oldest = (await acting.history(store, project, limit=1)).tenures[0]
    tenures = server.zcard(f"dibs:{{{project}}}:history")
    print(f"{kind}: {tenures} of {many} kept; {kept} bytes counted, {sum(sizes.values())} used")
    await store.close()
    assert kept <= 1.05 * rules.record_bytes
    assert 0.5 * rules.record_bytes <= sum(sizes.values()) <= 1.25 * rules.record_bytes
    assert oldest.task != first, "the oldest tenure was evicted"


async def server_weighs(store: Store, project: Project) -> int:
    """Return the weight of a project's records, as the store counts it."""
    kept = await store.link.command("HGET", f"dibs:{{{project}}}:meta", "weighs")
    return int(kept.split()[0])


def _without_rates(server: redis.Redis) -> None:
    """Delete the rate counters, which would expire within two seconds anyway."""
    for key in server.scan_iter("*:rates:*", count=10_000):
        server.delete(key)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # about the framework's 3.0
async def test_a_claim_over_http_makes_at_most_half_as_many_calls_again_as_the_frameworks_echo(
    embedded: EmbeddedStore, server: redis.Redis
) -> None:
    service = build(Settings(rate_per_session=10**6, rate_per_project=10**6), embedded.url)
    async with service.running():
        threads = threading.active_count()
        for app in (service.asgi, echo):  # caches are filled before the count
            await calls_of(app)
        ours, theirs = await calls_of(service.asgi), await calls_of(echo)
        assert threading.active_count() == threads, "a request used a thread"
    assert ours <= 1.5 * theirs


async def calls_of(app: Any) -> int:
    """Return the number of Python and C functions called while `app` answers one claim, without
    those that asyncio calls: a service's loop is uvloop's."""
    body = json.dumps({"task": str(uuid.uuid4()), **FACTS}).encode()
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/perf.repo/claim",
        "raw_path": b"/v1/perf.repo/claim",
        "query_string": b"",
        "headers": [
            (b"host", b"perf"),
            (b"content-type", b"application/json"),
            (b"dibs-session", who().encode()),
        ],
        "http_version": "1.1",
        "root_path": "",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    calls = Counter[str]()

    def count(frame: FrameType, event: str, arg: object) -> None:
        if not {"asyncio", "selectors.py"}.intersection(Path(frame.f_code.co_filename).parts):
            calls[event] += 1

    sys.setprofile(count)
    try:
        await app(scope, receive, send)
    finally:
        sys.setprofile(None)
    assert sent[0]["status"] == 201, sent
    return calls["call"] + calls["c_call"]
