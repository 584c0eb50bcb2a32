"""The requests of each act on a connection: a generator that yields requests and gets replies."""

import itertools
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from bench.wires import PROJECT, WIRES

MINE = 5
"""The number of claims of a session that renews all of them."""
LISTED = 200
RELEASES = 3_000
"""The number of claims made in advance for the release act, on all connections together."""
_SALT = random.SystemRandom().randrange(1 << 48)


@dataclass(frozen=True, slots=True)
class Before:
    """A request that prepares the measurement and is not counted."""

    request: bytes


@dataclass(frozen=True, slots=True)
class Lane:
    """One connection's part of the load."""

    wire: Any
    number: int
    lanes: int

    def who(self, turn: int = 0) -> str:
        """Return a session: a version 4 UUID, different in every lane, turn and run."""
        x = blake2b(b"%d %d %d" % (_SALT, self.number, turn), digest_size=15).hexdigest()
        return f"{x[:8]}-{x[8:12]}-4{x[12:15]}-8{x[15:18]}-{x[18:]}"

    def holder(self, turn: int) -> str:
        """Return the holder of claim number `turn`; a session has `MINE`, a lease any number."""
        return self.who(0 if self.wire.leased else turn // MINE)

    def task(self, turn: int) -> str:
        """Return a task name that no other call uses."""
        return f"T-{_SALT:x}.{self.number}.{turn}"


Script = Generator[Any, bytes, None]


def _set_up(lane: Lane, who: str) -> Script:
    for request in lane.wire.setup(who):
        yield Before(request)


def _claimed(lane: Lane, who: str, turn: int) -> Generator[Any, bytes, tuple[str, str]]:
    task = lane.task(turn)
    reply = yield Before(lane.wire.claim(task, who))
    return task, lane.wire.proof(reply)


def claim(lane: Lane) -> Script:
    """Claim free tasks; each with another session where sessions need no setup."""
    yield from _set_up(lane, lane.who())
    for turn in itertools.count():
        yield lane.wire.claim(lane.task(turn), lane.who(0 if lane.wire.leased else turn))


def next_(lane: Lane) -> Script:
    """Claim the next task of a list, each time with another session."""
    for turn in itertools.count():
        yield lane.wire.next(lane.who(turn))


def refused(lane: Lane) -> Script:
    """Claim a task that another session holds."""
    other = Lane(lane.wire, 0xFFFF, lane.lanes)
    yield from _set_up(lane, other.who())
    yield from _set_up(lane, lane.who())
    yield from _claimed(other, other.who(), 0)
    request = lane.wire.claim(other.task(0), lane.who())
    while True:
        yield request


def beat(lane: Lane) -> Script:
    """Send heartbeats for one claim."""
    yield from _set_up(lane, lane.who())
    task, proof = yield from _claimed(lane, lane.who(), 0)
    request = lane.wire.beat(task, lane.who(), proof)
    while True:
        yield request


def beat_all(lane: Lane) -> Script:
    """Send heartbeats for all claims of a session."""
    yield from _set_up(lane, lane.who())
    tasks = []
    for turn in range(MINE):
        task, _ = yield from _claimed(lane, lane.who(), turn)
        tasks.append(task)
    turns = itertools.cycle(lane.wire.beat_all(lane.who(), tasks))
    while True:
        yield next(turns)


def release(lane: Lane) -> Script:
    """Release claims that were made in advance."""
    yield from _set_up(lane, lane.who())
    had: list[tuple[str, str]] = []
    for turn in range(RELEASES // lane.lanes):
        claimed = yield from _claimed(lane, lane.holder(turn), turn)
        had += [claimed]
    for turn, (task, proof) in enumerate(had):
        yield lane.wire.release(task, lane.holder(turn), proof)


def cycle(lane: Lane) -> Script:
    """Claim, send a heartbeat, release: three calls."""
    who = lane.who()
    yield from _set_up(lane, who)
    for turn in itertools.count():
        task = lane.task(turn)
        proof = lane.wire.proof((yield lane.wire.claim(task, who)))
        yield lane.wire.beat(task, who, proof)
        yield lane.wire.release(task, who, proof)


def list_(lane: Lane) -> Script:
    """List a project with 200 claims."""
    yield from _set_up(lane, lane.who())
    for turn in range(lane.number, LISTED, lane.lanes):
        yield from _claimed(lane, lane.holder(turn), turn)
    request = lane.wire.list_()
    while True:
        yield request


def show(lane: Lane) -> Script:
    """Read one claim."""
    yield from _set_up(lane, lane.who())
    task, _ = yield from _claimed(lane, lane.who(), 0)
    request = lane.wire.show(task)
    while True:
        yield request


ACTS: dict[str, Callable[[Lane], Script]] = {
    "claim": claim,
    "refused": refused,
    "beat": beat,
    "beat-all": beat_all,
    "release": release,
    "cycle": cycle,
    "list": list_,
    "show": show,
}


OF_LISTS: dict[str, Callable[[Lane], Script]] = {"next": next_}
"""Acts that only dibs has; see list.py."""


def script(wire: str, act: str, number: int, lanes: int, project: str = "") -> Script:
    """Return the requests of connection `number` of `lanes`."""
    name = project or (f"bench.list-{_SALT:x}" if act == "list" else PROJECT)
    return (ACTS | OF_LISTS)[act](Lane(WIRES[wire](name), number, lanes))


def good(wire: str, act: str) -> tuple[int, ...]:
    """Return the statuses of a successful answer to the act."""
    return (WIRES[wire].taken,) if act == "refused" else (200, 201)
