"""Strangers who read the largest pages, lists, streams and refusals."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

from tests.abuse.strangers import (
    Crowd,
    Target,
    flood,
    get,
    once,
    post,
    somebody,
)

EVENTS = "Accept: text/event-stream"


def _filled(service: Target, until: float, projects: int, claims: int, note: str = "") -> None:
    """Make projects with many claims."""
    wishes = (
        post(
            f"/v1/read.{project}/claim",
            {"all_of": [f"R-{group}-{one}" for one in range(25)], "note": note},
            somebody(),
        )
        for project in range(projects)
        for group in range(claims // 25)
    )
    once(service, wishes, until)


def _repeated(*requests: bytes) -> Iterable[bytes]:
    return itertools.cycle(requests)


def home(service: Target, until: float) -> Counter[str]:
    """Read the page of all projects, with many projects and many claims."""
    _filled(service, until, 60, 200)
    return flood(service, _repeated(get("/")), until)


def boards(service: Target, until: float) -> Counter[str]:
    """Read the page of a project with two thousand claims and the longest notes."""
    _filled(service, until, 1, 2_000, '"' * 1_000)
    return flood(service, _repeated(get("/p/read.0"), get("/p/read.0?page=5")), until)


def unread_boards(service: Target, until: float) -> Counter[str]:
    """Request the same pages, and read no answer."""
    _filled(service, until, 1, 2_000, '"' * 1_000)
    crowd = Crowd(service)
    for page in itertools.islice(itertools.cycle(range(1, 11)), 300):
        crowd.add(get(f"/p/read.0?page={page}"), small=True)
    crowd.keep(300, get("/p/read.0"), b"", until, 0.2)
    return crowd.told


def searches(service: Target, until: float) -> Counter[str]:
    """Request lists and pages whose filter scans all claims and matches none."""
    _filled(service, until, 1, 2_000)
    paths = ("/v1/read.0/claims?state=lapsed", "/p/read.0?q=nothing-is-called-so")
    return flood(service, _repeated(*map(get, paths)), until)


def refusals(service: Target, until: float) -> Counter[str]:
    """Claim any of 32 tasks, all of which have full queues."""
    tasks = [f"A-{number}" for number in range(32)]
    once(service, [post("/v1/any.of/claim", {"all_of": tasks}, somebody())], until)
    waits = (
        post("/v1/any.of/claim", {"task": task, "queue": True, "label": "l" * 64}, somebody())
        for _ in range(100)
        for task in tasks
    )
    once(service, waits, until)
    wishes = (post("/v1/any.of/claim", {"any_of": tasks}, somebody()) for _ in itertools.count())
    return flood(service, wishes, until)


def events(service: Target, until: float) -> Counter[str]:
    """Follow events on a thousand streams of many projects, and change each project."""
    crowd = Crowd(service)
    for number in range(1_000):
        crowd.add(get(f"/v1/streams.{number % 20}/events", EVENTS))
    wishes = (
        post(f"/v1/streams.{n % 20}/claim", {"task": f"E-{n}", "note": "n" * 1_000}, somebody())
        for n in itertools.count()
    )
    return crowd.told + flood(service, wishes, until)


def board_streams(service: Target, until: float) -> Counter[str]:
    """Follow the boards of a hundred projects with many claims, which change all the time."""
    _filled(service, until, 100, 100)
    crowd = Crowd(service)
    for number in range(400):
        crowd.add(get(f"/p/read.{number % 100}/stream", EVENTS))
    wishes = (
        post(f"/v1/read.{n % 100}/claim", {"task": f"S-{n}"}, somebody()) for n in itertools.count()
    )
    return crowd.told + flood(service, wishes, until)


def waits(service: Target, until: float) -> Counter[str]:
    """Wait for tasks that the team holds, and claim others meanwhile."""
    crowd = Crowd(service)
    for number in range(600):
        body = {"task": f"T-{number % 20}", "wait": 25, "queue": True}
        crowd.add(post(f"/v1/{service.team}/claim", body, somebody()))
    wishes: Iterator[bytes] = (
        post(f"/v1/{service.team}/claim", {"task": f"W-{n}"}, somebody()) for n in itertools.count()
    )
    return crowd.told + flood(service, wishes, until)


def totals(service: Target, until: float) -> Counter[str]:
    """Request the resources that never need a key: totals, readiness, the client."""
    paths = ("/metrics", "/readyz", "/openapi.json", "/client/dibs.py", "/skill/SKILL.md")
    return flood(service, _repeated(*map(get, paths)), until, connections=64)
