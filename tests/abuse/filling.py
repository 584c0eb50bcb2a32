"""Strangers who fill the store: with bytes, names, finished tasks and queues."""

import itertools
from collections import Counter
from collections.abc import Iterator

from tests.abuse.strangers import Target, flood, post, somebody

FAT = {"branch": "🐘" * 200, "url": "https://x.example/" + "u" * 480, "note": "🐘" * 1_000}


def _fat(project: str) -> Iterator[bytes]:
    for number in itertools.count():
        tasks = [f"T-{number}-{one}-" + "t" * 150 for one in range(32)]
        body = {"all_of": tasks, "label": "l" * 64, **FAT}
        yield post(f"/v1/{project.format(number)}/claim", body, somebody())


def fat(service: Target, until: float) -> Counter[str]:
    """Claim 32 tasks per request with the largest texts, always in a new project."""
    return flood(service, _fat("fat.{}"), until)


def fat_in_one_project(service: Target, until: float) -> Counter[str]:
    """Do the same in the team's own project, as long as it has room."""
    return flood(service, _fat(service.team), until)


def projects(service: Target, until: float) -> Counter[str]:
    """Make one small claim in each new project."""
    return flood(
        service,
        (post(f"/v1/junk.{n}/claim", {"task": "x"}, somebody()) for n in itertools.count()),
        until,
    )


def tombstones(service: Target, until: float) -> Counter[str]:
    """Claim and finish 32 tasks with the largest note and link, again and again."""
    pr = "https://x.example/" + "p" * 480

    def wishes() -> Iterator[bytes]:
        for number in itertools.count():
            who, tasks = somebody(), [f"D-{number}-{one}" for one in range(32)]
            yield post("/v1/done.there/claim", {"all_of": tasks}, who)
            end = {"all": True, "outcome": "done", "note": FAT["note"], "pr": pr}
            yield post("/v1/done.there/release", end, who)

    return flood(service, wishes(), until, connections=1)


def queues(service: Target, until: float) -> Counter[str]:
    """Let a hundred sessions queue for each task, with the largest names."""

    def wishes() -> Iterator[bytes]:
        for number in itertools.count():
            path, task = f"/v1/wait.{number // 1_000}/claim", f"Q-{number // 100}"
            body = {"task": task, "queue": True, "label": "l" * 64, "branch": "🐘" * 200}
            yield post(path, body, somebody())

    return flood(service, wishes(), until)
