"""Limits on the cost of board viewers: bytes, memory, and reads of the store."""

import asyncio
import contextlib
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.board.conftest import Team
from tests.board.test_feed import FeedReader, FeedService, service
from tests.harness import acting
from tests.harness.processes import until
from tests.harness.services import Running, new_session

from dibs import results
from dibs.acts import list_
from dibs.board import feed as feeds
from dibs.board.board_query import BoardQuery
from dibs.board.claim_cache import PART, Readings
from dibs.board.feed import Crowded, Feeds
from dibs.board.live_pages import ALL, Key
from dibs.claims import Bounds, Claims
from dibs.model import Project, Task
from dibs.store import board_tasks
from dibs.store.store import Store

__all__ = ["service"]
MB = 1_000_000

PROJECTS = 20
READ_ONE = 10
"""The least number of commands for reading one project."""


def memory(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Start a service with a full project, each of whose claims has the longest note."""
    folder = str(tmp_path_factory.mktemp("crowded"))
    with Running("--data-dir", folder) as running:
        team = Team(running)
        team.many(2000, note='"&' * 500, branch='"' * 200, url="https://x.example/" + '"' * 480)
        yield team
        running.stop()


@pytest.mark.long
def test_a_page_of_the_worst_notes_is_smaller_than_a_megabyte(crowded: Team) -> None:
    for query in ("", "?page=2", "?page=10", "?state=held&sort=task"):
        status, html, _ = crowded.service.ask("GET", f"/p/{crowded.project}{query}")
        assert status == 200
        assert html.count("<tr role") + html.count("<tr hidden role") >= 200
        assert len(html.encode()) < MB


def test_pages_that_nobody_reads_cost_little_memory(crowded: Team) -> None:
    pid = crowded.service.pid
    for page in ("", "?page=2"):
        crowded.service.ask("GET", f"/p/{crowded.project}{page}")
    before, held = memory(pid), []
    with contextlib.ExitStack() as sockets:
        for _ in range(12):
            one = sockets.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.settimeout(10)
            one.connect(("127.0.0.1", crowded.service.port))
            path = f"/p/{crowded.project}"
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert one.recv(1)
            held.append(one)
        assert memory(pid) - before <= 20 * MB
        status, _ = crowded.service.claim("T-1", project="another")
        assert status == 201


def test_pages_that_are_asked_for_again_and_again_leave_no_memory_behind(crowded: Team) -> None:
    pages = [f"/p/{crowded.project}{query}" for query in ("", "?page=2")]
    for page in pages:
        crowded.service.ask("GET", page)
    before = memory(crowded.service.pid)
    for page in pages * 30:
        assert crowded.service.ask("GET", page)[0] == 200
    assert memory(crowded.service.pid) - before <= 15 * MB


@pytest.mark.long
def test_a_glance_at_all_projects_costs_as_much_whatever_they_hold(tmp_path: Path) -> None:
    with Running("--data-dir", str(tmp_path / "d")) as running:
        path = str(tmp_path / "d" / "valkey.sock")
        with redis.Redis(unix_socket_path=path, decode_responses=True) as store:
            for number in range(PROJECTS):
                assert running.claim("T-1", project=f"many.{number}")[0] == 201
            until(
                lambda: f"many.{PROJECTS - 1}" in running.ask("GET", "/")[1],
                "the page has them all",
            )
            few = commands_of_readings(running, store)
            team = Team(running)
            for number in range(PROJECTS):
                team.project = f"many.{number}"
                team.many(300)
            many = commands_of_readings(running, store)
            # A read that began before the count has fewer commands; one with a sweep has more.
            assert min(many) <= max(few) + 5


def commands_of_readings(running: Running, store: redis.Redis) -> list[int]:
    """Return the number of commands for each of several reads of all projects, plus the service's
    own commands. A page from a recent cached read takes fewer and does not count."""
    found: list[int] = []

    def was_read_often() -> bool:
        store.config_resetstat()
        running.ask("GET", "/")
        stats: Any = store.info("commandstats")
        calls = sum(each["calls"] for each in stats.values())
        found.extend([calls] if calls >= READ_ONE * PROJECTS else [])
        return len(found) >= 4

    until(was_read_often, "the projects are read")
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the reads of each project, full or partial, and the largest page size requested."""
    counted = Counter[str]()
    asked = list_.page

    async def page(store: Store, project: Project, *more: Any, **how: Any) -> Any:
        kind = "live" if "held" in how["states"] else "done"
        counted[f"{project} {kind}"] += 1
        counted["most"] = max(counted["most"], how["limit"])
        return await asked(store, project, *more, **how)

    monkeypatch.setattr(list_, "page", page)
    return counted


async def fill(store: Store, project: Project, number: int) -> None:
    for first in range(0, number, 25):
        names = [Task(f"T-{n:04}") for n in range(first, first + 25)]
        outcome = await acting.claim(store, project, new_session(), names, mode="all", ttl_s=3600)
        assert isinstance(outcome, results.Granted), outcome


@pytest.fixture
async def large(service: FeedService) -> Feeds:
    """Return the feeds of a service whose one project has 1,000 claims."""
    await fill(service.store, service.project, 1000)
    return Feeds(Claims(service.store, service.broadcaster, Bounds()))


async def test_a_large_board_is_read_in_parts_that_hold_nobody_up(
    service: FeedService, large: Feeds, reads: Counter[str]
) -> None:
    snapshot = await large.of(service.project).snapshot()
    assert snapshot.total == 1000
    assert reads["most"] == PART == 200
    assert 1 <= reads[f"{service.project} live"] <= 6


async def test_all_pages_and_viewers_of_a_large_board_share_one_reading(
    service: FeedService, large: Feeds, reads: Counter[str]
) -> None:
    feed = large.of(service.project)
    viewers = []
    for number in range(1, 6):
        key = Key(number=number)
        viewers.append(FeedReader(feed, (await feed.snapshot(key)).id, key))
    async with asyncio.timeout(5):
        while not all(viewer.told for viewer in viewers):
            await asyncio.sleep(0.01)
    assert 1 <= reads[f"{service.project} live"] <= 6
    for viewer in viewers:
        await viewer.leave()


async def test_a_large_board_that_is_asked_for_again_is_right_without_a_whole_reading(
    service: FeedService, large: Feeds, reads: Counter[str]
) -> None:
    feed = large.of(service.project)
    await feed.snapshot()
    reads.clear()
    for task in ("A-1", "A-2"):
        await acting.claim(service.store, service.project, new_session(), [Task(task)])
    look = BoardQuery(q="A-")
    shown = (await feed.snapshot(Key(look))).rows
    assert [row.task for row, _ in shown] == ["A-1", "A-2"]
    assert not reads[f"{service.project} live"]


async def test_what_changes_while_a_large_board_is_read_is_not_missed(
    service: FeedService, large: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Readings._part
    parts = 0

    async def part(self: Readings, store: Store, project: Project, cursor: str) -> Any:
        nonlocal parts
        parts += 1
        if parts == 4:  # its place, among the soonest deadlines, has been read already
            await acting.claim(store, project, new_session(), [Task("late")], ttl_s=60)
        return await asked(self, store, project, cursor)

    monkeypatch.setattr(Readings, "_part", part)
    snapshot = await large.of(service.project).snapshot(Key(BoardQuery(q="late")))
    assert [row.task for row, _ in snapshot.rows] == ["late"]


async def test_only_so_many_rows_are_kept_and_followed(
    service: FeedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "ROWS_KEPT", 480)
    all_feeds = Feeds(Claims(service.store, service.broadcaster, Bounds()))
    names = [Project(f"{service.project}.{number}") for number in range(6)]
    for name in names:
        await fill(service.store, name, 50)
    viewers = []
    for name in names[:3]:  # 50 rows and 50 rendered rows; a rendered row counts as two
        snapshot = await all_feeds.of(name).snapshot()
        viewers.append(FeedReader(await all_feeds.to_follow(name, ALL), snapshot.id))
        await asyncio.sleep(0)
    for name in names[3:]:
        assert (await all_feeds.of(name).snapshot()).total == 50
    with pytest.raises(Crowded, match="450 rows"):
        await all_feeds.to_follow(names[4], ALL)
    assert all_feeds._kept <= 480 + 150
    for viewer in viewers:
        await viewer.leave()
    await all_feeds.to_follow(names[4], ALL)


async def test_only_so_many_pages_of_a_board_are_followed(
    service: FeedService, large: Feeds
) -> None:
    feed = large.of(service.project)
    viewers = []
    for number in range(feeds.PAGES):
        key = Key(BoardQuery(q=f"T-0{number}"))
        viewers.append(FeedReader(feed, (await feed.snapshot(key)).id, key))
        await asyncio.sleep(0)
    another = Key(BoardQuery(q="T-09"))
    assert (await feed.snapshot(another)).rows, "the page can still be read"
    with pytest.raises(Crowded):
        await large.to_follow(service.project, another)
    await viewers[0].leave()
    await large.to_follow(service.project, another)
    for viewer in viewers[1:]:
        await viewer.leave()


async def test_pages_that_nobody_looks_at_are_forgotten(service: FeedService, large: Feeds) -> None:
    feed = large.of(service.project)
    for number in range(1, 6):
        await feed.snapshot(Key(number=number))
    assert len(feed._pages) <= feeds.UNSEEN


def test_a_board_that_cannot_be_followed_says_so(service_of_few: Running) -> None:
    team = Team(service_of_few)
    team.many(225)
    streams = []
    for number in range(feeds.PAGES + 1):
        one = socket.create_connection(("127.0.0.1", service_of_few.port), timeout=10)
        streams.append(one)
        path = f"/p/{team.project}/stream?q=T-{number}"
        one.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        status = one.recv(12).decode()
        assert status.endswith("429" if number == feeds.PAGES else "200")
    for one in streams:
        one.close()


@pytest.fixture
def service_of_few(tmp_path: Path) -> Any:
    """Start a separate service with low limits."""
    with Running("--data-dir", str(tmp_path / "d")) as running:
        yield running
        running.stop()


def written(team: Team, number: int, **entry: Any) -> None:
    """Add `number` tasks to the list, each with the longest texts."""
    for first in range(0, number, 100):
        entries = [{"task": f"{n:04}" + '"' * 196, **entry} for n in range(first, first + 100)]
        team.write(*entries)


@pytest.mark.long
def test_pages_of_the_worst_lists_are_bounded(tmp_path: Path) -> None:
    with Running("--data-dir", str(tmp_path / "d"), env={"DIBS_MAX_BODY": "1048576"}) as running:
        team = Team(running)
        needs = [f"{n}" + '"' * 199 for n in range(9)]
        worst = {"title": '"&' * 100, "body": "<" * 1000, "tags": ['"&' * 25]}
        written(team, 400, **worst)
        for number in range(200):
            who, name = f"s{number:03}", f"{number:04}" + '"' * 196
            team.claim(who, name, branch='"' * 200)
            team.release(who, name, "abandoned", note='"&' * 500)
        team.project += ".blocked"
        written(team, 400, **worst, needs=needs)
        for project in (team.project.removesuffix(".blocked"), team.project):
            _, html, _ = running.ask("GET", f"/p/{project}")
            assert html.count("data-task=") == 200
            assert len(html.encode()) < 1.5 * MB
        running.stop()


async def test_of_a_long_list_a_board_reads_a_part_of_each_kind(
    service: FeedService, large: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [Task(f"N-{number:04}") for number in range(1200)]
    for first in range(0, 1200, 400):
        entries = [{"task": name} for name in names[first : first + 400]]
        await acting.tasks(service.store, service.project, new_session(), entries)
    looked, most = board_tasks.look, 0

    async def look(*given: Any, **more: Any) -> Any:
        nonlocal most
        found = await looked(*given, **more)
        most = max(most, len(found.tasks))
        return found

    monkeypatch.setattr(board_tasks, "look", look)
    feed = large.of(service.project)
    snapshot = await feed.snapshot(Key(BoardQuery(state="ready")))
    assert [row.task for row, _ in snapshot.rows] == names[:200]
    assert snapshot.counts.ready == 1200
    assert most == PART
    assert feed.kept <= 1000 + PART + 2 * 200
