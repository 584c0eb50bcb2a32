"""The store: runs scripts, and keeps the projects and the public names of sessions."""

import hmac
import itertools
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from dibs.model import Project, Session
from dibs.store import health, selftest, server_info
from dibs.store.clock import LeaseClock
from dibs.store.collisions import CollisionCounter
from dibs.store.counts import Counts, Overview, Pulse
from dibs.store.events import EventLog
from dibs.store.format import UnsupportedStore, check_format, settled
from dibs.store.keys import keys
from dibs.store.records import ReplyDecoder
from dibs.store.redis.failures import Damaged, StoreDown, StoreFull, said
from dibs.store.redis.link import Link
from dibs.store.rules import Rules
from dibs.store.scripts import Declaration, Script, run_replicated, run_script

log = logging.getLogger("dibs.store")

INDEX = "dibs:projects"
"""The projects that have claims or a list, by when a process put each there."""
_DAY_MS = 86_400_000
_SWEPT = (
    *(":live", ":lapsed", ":done", ":ended", ":endings", ":losers", ":queued", ":damaged"),
    *(":listed", ":deliveries", ":history"),
)
"""What the sweeper goes by: a project with none of these keys has nothing that is kept."""
_ATTEMPTS = 3
_SECRET = re.compile("[0-9a-f]{64}")
_TURNS = (
    "Several servers answer INFO by turns: a failover between them goes unnoticed, and claims have "
    "no more time for it."
)
_CLOCK_JUMPS = (
    "The store's clock jumped during each try. If that goes on, the operator has to look at the "
    "time synchronization of its host."
)
_DAMAGED_MOST = 1_000
"""Damaged tasks that are remembered, so that each is in the log once."""
_NEWS_S = 0.25
"""Before a session is told that it never had a claim, the last look at the clock is this young."""
_KNOWN_S = 600.0
"""How long a process trusts that the index of projects has one it claimed in."""


class Unindex(NamedTuple):
    """The arguments of unindex.lua."""

    project: str
    before_ms: str


class _Overview(NamedTuple):
    done_ms: str


class _Sweep(NamedTuple):
    pressed: str


SWEEP = Declaration("sweep", _Sweep, rates="none")
OVERVIEW = Declaration("overview", _Overview, rates="none")


class Store:
    """Claims in a Redis or Valkey: each act on them is one atomic script."""

    def __init__(self, link: Link, rules: Rules) -> None:
        self.link, self.rules = link, rules
        self.clock = LeaseClock(link, rules.stall_ms)
        self.collisions = CollisionCounter(link, keys)
        self.events = EventLog(link, self.clock)
        self._unindex = Script.load("unindex", arguments=Unindex._fields)
        self._scripts: dict[str, Script] = {}
        self._secret = b""
        self._keyed = hmac.new(self._secret, digestmod="sha256")
        self._known: dict[Project, float] = {}
        self._requests = itertools.count(1)
        self._damaged: set[tuple[Project, str]] = set()
        self._ticked_s = -_NEWS_S
        self.room: Callable[[], str] = lambda: ""
        """Says in a sentence why no new claim may be granted now, or ''. Holders go on."""
        self.unsafe = ""
        """Why the store may lose live claims, in a sentence, or '': it is given no new ones."""

    async def open(self) -> None:
        """Check the store and its data's format, fetch the secret for refs, look at the clock.

        Raises StoreDown, or UnsupportedStore.
        """
        await self.clock.look()
        if refusal := server_info.unfit(self.clock.shown) or await selftest.lacks(self.link):
            raise UnsupportedStore(refusal)
        await self._identify()
        await self.tick()

    async def _identify(self) -> None:
        """Check that the data is of our format, and hash sessions as every service on it does.

        Raises StoreDown, or UnsupportedStore.
        """
        await check_format(self.link)
        ours = self._secret.hex() or secrets.token_hex(32)
        kept = await settled(self.link, "dibs:secret", ours)
        if not _SECRET.fullmatch(kept):
            raise UnsupportedStore(
                "The store's dibs:secret is damaged, so that no session can be told from another. "
                "Delete that key while a dibs runs, which puts its own back; or restore a backup."
            )
        self._secret = bytes.fromhex(kept)
        self._keyed = hmac.new(self._secret, digestmod="sha256")

    async def memory(self) -> tuple[int, int]:
        """Return what the store's servers use, and may use (0: no limit), in bytes."""
        return await health.memory(self.link)

    async def health(self) -> health.Health:
        """Return how well the store keeps claims now. Raises StoreDown."""
        try:
            found = await health.check(self.link)
        except StoreDown as down:
            if why := self.room():
                raise StoreDown(f"{down.reason} {why}", sent=down.sent) from down
            raise
        except ResponseError as error:
            why = f"The store answers with an error: {said(error)}."
            raise StoreDown(why, sent=False) from error
        if self.clock.taking_turns:
            found = replace(found, reasons=[*found.reasons, _TURNS])
        if why := self.room():
            found = replace(found, status="full", reasons=[why, *found.reasons])
        return found

    async def close(self) -> None:
        """Drop the connections. Claims stay: they are not the service's."""
        await self.link.close()

    async def tick(self) -> str:
        """Look at the lease clock. Returns why time was lost, or ''."""
        await self.clock.look()
        self.unsafe = server_info.unsafe(self.clock.shown)
        why = await self.clock.tick()
        self._ticked_s = time.monotonic()
        try:
            await self._identify()  # it may be another store's data by now, or a newer version's
        except UnsupportedStore as unfit:
            self.clock.stale = True
            raise StoreDown(str(unfit), sent=False) from None
        if why:
            self._known.clear()  # the store may have come back without what we put in it
        return why

    def hashed(self, session: Session) -> str:
        """Return what the store knows of a session: a keyed hash. Its start is the holder's ref."""
        keyed = self._keyed.copy()  # what the key does to it is worked out once
        keyed.update(session.encode())
        return keyed.hexdigest()[:32]

    def new_request(self) -> str:
        """Return a name for a request that has none."""
        return f"{self.clock.process}-{next(self._requests)}"

    async def sweep(self, project: Project, *, pressed: bool = False) -> tuple[bool, Counts]:
        """Write down passed deadlines. Returns if there is more to do, and what there is.

        `pressed`: the store has little memory left, and history gives way.
        """
        _, _, rest = await self.run(SWEEP, project, arguments=_Sweep("1" if pressed else ""))
        more, gone, damaged, *counts = rest
        self.note_damaged(project, damaged)
        if gone:
            # Who claims there now has put it into the list anew, if that is not just now.
            long_ago = self.clock.reading.wall_ms - int(2 * _KNOWN_S * 1000)
            arguments = Unindex(project, str(long_ago))
            if await run_script(self.link, self._unindex, INDEX, arguments):
                self._known.pop(project, None)
        return more == "1", Counts(*map(int, counts))

    async def overview(self, project: Project) -> Overview:
        """Return a project at a glance."""
        _, read, rest = await self.run(OVERVIEW, project, arguments=_Overview(str(_DAY_MS)))
        *numbers, on_hold, changed = rest
        held, parked, review, lapsed, done, failed, ready, blocked = map(int, numbers)
        at = read.reading.instant(int(changed)) if changed else None
        return Overview(
            *(project, held, parked, review, lapsed, done, failed, ready, blocked),
            *(on_hold == "1", at),
        )

    async def pulse(self, project: Project) -> Pulse:
        """Return what the last 24 hours came to."""
        day_ago = self.clock.reading.lease_ms - _DAY_MS
        seconds_, micros = await self.link.command("TIME")
        done = await self.link.command("ZCOUNT", f"{keys(project)}:done", day_ago, "+inf")
        now_ms = int(seconds_) * 1000 + int(micros) // 1000
        return Pulse(now_ms, int(done), await self.collisions.count(project, now_ms))

    async def write_collisions(self) -> None:
        """Write down what this process counted since the last time."""
        await self.collisions.flush(self.clock.reading.wall_ms)

    async def projects(self) -> list[Project]:
        """Return the projects that have claims, or recently had some, sorted."""
        rules = self.rules
        kept = max(rules.done_retention_ms, rules.retention_ms, rules.history_ms, rules.max_hold_ms)
        now_ms = self.clock.reading.wall_ms
        long_ago = str(now_ms - kept - _DAY_MS)
        aged = await self.link.command("ZRANGEBYSCORE", INDEX, "-inf", long_ago)
        for project in aged:
            # Nobody claimed there for long, but the sweeper may still have to do with it.
            if await self.link.command("EXISTS", *(keys(project) + part for part in _SWEPT)):
                await self.link.command("ZADD", INDEX, "XX", str(now_ms), project)
        await self.link.command("ZREMRANGEBYSCORE", INDEX, "-inf", long_ago)
        return sorted(map(Project, await self.link.command("ZRANGE", INDEX, 0, -1)))

    async def latest_projects(self, most: int) -> tuple[list[Project], int]:
        """Return the projects that were claimed in last, at most `most`, and how many there are."""
        names = await self.link.command("ZREVRANGE", INDEX, 0, most - 1)
        return list(map(Project, names)), int(await self.link.command("ZCARD", INDEX))

    def closed(self) -> str:
        """Return why nothing new is granted now, as claim.lua knows it; or ''."""
        return "unsafe" if self.unsafe else "full" if self.room() else ""

    def knows(self, project: Project) -> bool:
        """Say if the project was recently put into the index by this process."""
        return self._known.get(project, -_KNOWN_S) + _KNOWN_S > time.monotonic()

    async def make_known(self, project: Project, *, closed: bool) -> bool:
        """Put the project into the index, unless nothing new is granted; say if it is there.

        This comes before a claim, so that the index never lacks a project that has one. It is a key
        of its own, in another slot: no script could write it.
        """
        closed = closed or bool(self.closed())
        try:
            if not closed:
                await self._command("ZADD", INDEX, str(self.clock.reading.wall_ms), project)
        except StoreFull:
            closed = True
        if closed:  # a project that has claims is known, and its holders may renew them
            return await self._command("ZSCORE", INDEX, project) is not None
        self._known[project] = time.monotonic()
        return True

    async def _command(self, *parts: str | int) -> Any:
        """Run one command before an act, once more if need be; the act itself was not sent."""
        try:
            return await self.link.command(*parts)
        except StoreDown:
            self.clock.stale = True
        try:
            return await self.link.command(*parts)
        except StoreDown as down:
            raise StoreDown(down.reason, sent=False) from down

    def _script(self, declared: Declaration) -> Script:
        script = self._scripts[declared.name] = declared.fill(self.rules)
        return script

    async def run(
        self,
        declared: Declaration,
        project: Project,
        session: Session | None = None,
        arguments: Sequence[str] | Callable[[], Sequence[str]] = (),
        request: str = "",
    ) -> tuple[str, ReplyDecoder, list[Any]]:
        """Run a script, once more if the connection was lost: each is safe to run twice.

        Return its tag, what reads the rest, and the rest. `arguments` that depend on what a look at
        the store shows are made after the look. Raises StoreDown, or StoreFull.
        """
        request = request or self.new_request()
        who = self.hashed(session) if session else ""
        script = self._scripts.get(declared.name) or self._script(declared)
        sent = looked = ran = lost = False
        for _ in range(_ATTEMPTS):
            ours = False
            try:
                if self.clock.stale:
                    await self.tick()
                reading, ours = self.clock.reading, True
                given = arguments() if callable(arguments) else arguments
                args = [*reading.args, request, who, *given]
                if self.link.replicas and declared.lasting:
                    reply, enough = await run_replicated(self.link, script, keys(project), args)
                else:
                    reply, enough = await run_script(self.link, script, keys(project), args), True
            except Damaged:
                raise
            except StoreDown as down:
                self.clock.stale = True
                sent = sent or (ours and down.sent)
                if lost:
                    raise StoreDown(down.reason, sent=sent or ran) from down
                lost = True
                continue
            if not enough and reply[0] == declared.lasting:
                raise StoreDown(
                    f"Fewer than {self.link.replicas} of the store's replicas have confirmed it.",
                    sent=True,
                )
            if reply[0] == "stalled" or (not looked and self._is_news(reply, given)):
                self.clock.stale = looked = True
                ran = ran or reply[0] != "stalled"  # it may have told the session of a loss
                continue
            reader = ReplyDecoder(project, who, int(reply[1]), reading, unsure=sent)
            if reply[0] == "damaged":
                raise self._damaged_record(reader, *reply[2:])
            return reply[0], reader, reply[2:]
        raise StoreDown(_CLOCK_JUMPS, sent=sent or ran)

    def _is_news(self, reply: Sequence[Any], given: Any) -> bool:
        """Say if a claim with a fence, which somebody had, is not known: a failover that took it is
        news to this process until it looks."""
        lacks = reply[0] == "not-mine" and reply[4] == "not-holder" and bool(given.fence)
        return lacks and self._ticked_s + _NEWS_S < time.monotonic()

    def _damaged_record(self, read: ReplyDecoder, lost: list[str], task: str) -> Damaged:
        """Say that nobody can read the record of `task`."""
        self.note_damaged(read.project, [task])
        return Damaged(
            f"The store's record of {task} is damaged, so nobody knows who has it.",
            sent=read.unsure,
            task=task,
            lost=tuple(map(read.loss, lost)),
        )

    def note_damaged(self, project: Project, tasks: Sequence[str]) -> None:
        """One line for each task whose record nobody can read."""
        for task in tasks:
            if (project, task) not in self._damaged and len(self._damaged) < _DAMAGED_MOST:
                self._damaged.add((project, task))
                log.error("record_damaged project=%s task=%r: break it with fence 1", project, task)
