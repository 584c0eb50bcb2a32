"""The store: runs scripts, and keeps the index of projects and the public names of sessions."""

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
"""Projects that have claims or a list, scored by the time at which a process last added each."""
_DAY_MS = 86_400_000
_SWEPT = (
    *(":live", ":lapsed", ":done", ":ended", ":endings", ":losers", ":queued", ":damaged"),
    *(":listed", ":deliveries", ":history"),
)
"""Keys that the sweeper works through: a project with none of them keeps nothing."""
_ATTEMPTS = 3
_SECRET = re.compile("[0-9a-f]{64}")
_TURNS = (
    "Several servers answer INFO in turn: dibs does not notice a failover between them, and claims "
    "get no extra time for it."
)
_CLOCK_JUMPS = (
    "The store's clock jumped during every attempt. If this persists, the operator must check the "
    "time synchronization of the store's host."
)
_DAMAGED_MOST = 1_000
"""Damaged tasks that a process remembers, so that it logs each of them once."""
_NEWS_S = 0.25
"""Greatest age of the last tick when the service answers a session that it never had a claim."""
_KNOWN_S = 600.0
"""Seconds for which a process trusts that a project it added is still in the index."""


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
    """The claims in a Redis or Valkey: each act on them is one atomic script."""

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
        """Returns why there is no room for new claims, in a sentence, or ''. Holders go on."""
        self.unsafe = ""
        """Why the store may lose live claims, in a sentence, or ''; then no claim is granted."""

    async def open(self) -> None:
        """Check the store and its data's format, read the secret for refs, and tick the clock.

        Raises StoreDown, or UnsupportedStore.
        """
        await self.clock.look()
        if refusal := server_info.unfit(self.clock.shown) or await selftest.lacks(self.link):
            raise UnsupportedStore(refusal)
        await self._identify()
        await self.tick()

    async def _identify(self) -> None:
        """Check the data's format, and load the secret by which all services hash sessions alike.

        Raises StoreDown, or UnsupportedStore.
        """
        await check_format(self.link)
        ours = self._secret.hex() or secrets.token_hex(32)
        kept = await settled(self.link, "dibs:secret", ours)
        if not _SECRET.fullmatch(kept):
            raise UnsupportedStore(
                "The store's dibs:secret is damaged, so sessions cannot be told apart. Delete that "
                "key while a dibs service runs, which then writes its copy back; or restore a "
                "backup."
            )
        self._secret = bytes.fromhex(kept)
        self._keyed = hmac.new(self._secret, digestmod="sha256")

    async def memory(self) -> tuple[int, int]:
        """Return the memory that the store's servers use, and their limit (0: none), in bytes."""
        return await health.memory(self.link)

    async def health(self) -> health.Health:
        """Return the store's durability and room for claims. Raises StoreDown."""
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
        """Drop the connections. Claims stay: they belong to their sessions, not to the service."""
        await self.link.close()

    async def tick(self) -> str:
        """Tick the lease clock. Return why time was lost, or ''. Raises StoreDown."""
        await self.clock.look()
        self.unsafe = server_info.unsafe(self.clock.shown)
        why = await self.clock.tick()
        self._ticked_s = time.monotonic()
        try:
            await self._identify()  # the data may now be another store's, or a newer version's
        except UnsupportedStore as unfit:
            self.clock.stale = True
            raise StoreDown(str(unfit), sent=False) from None
        if why:
            self._known.clear()  # a restarted store may lack the projects that this process added
        return why

    def hashed(self, session: Session) -> str:
        """Return the keyed hash by which the store knows a session. Its start is the ref."""
        keyed = self._keyed.copy()  # the key is hashed once, in _identify
        keyed.update(session.encode())
        return keyed.hexdigest()[:32]

    def new_request(self) -> str:
        """Return an id for a request that came without one."""
        return f"{self.clock.process}-{next(self._requests)}"

    async def sweep(self, project: Project, *, pressed: bool = False) -> tuple[bool, Counts]:
        """Record passed deadlines. Return whether more are due, and the project's counts.

        `pressed`: the store is short of memory, so the sweep drops history.
        """
        _, _, rest = await self.run(SWEEP, project, arguments=_Sweep("1" if pressed else ""))
        more, gone, damaged, *counts = rest
        self.note_damaged(project, damaged)
        if gone:
            # A service that claims there adds the project again every _KNOWN_S, so a score twice
            # as old means that no service relies on the entry.
            long_ago = self.clock.reading.wall_ms - int(2 * _KNOWN_S * 1000)
            arguments = Unindex(project, str(long_ago))
            if await run_script(self.link, self._unindex, INDEX, arguments):
                self._known.pop(project, None)
        return more == "1", Counts(*map(int, counts))

    async def overview(self, project: Project) -> Overview:
        """Return the numbers of a project's claims and tasks by state."""
        _, read, rest = await self.run(OVERVIEW, project, arguments=_Overview(str(_DAY_MS)))
        *numbers, on_hold, changed = rest
        held, parked, review, lapsed, done, failed, ready, blocked = map(int, numbers)
        at = read.reading.instant(int(changed)) if changed else None
        return Overview(
            *(project, held, parked, review, lapsed, done, failed, ready, blocked),
            *(on_hold == "1", at),
        )

    async def pulse(self, project: Project) -> Pulse:
        """Return the counts of the last 24 hours."""
        day_ago = self.clock.reading.lease_ms - _DAY_MS
        seconds_, micros = await self.link.command("TIME")
        done = await self.link.command("ZCOUNT", f"{keys(project)}:done", day_ago, "+inf")
        now_ms = int(seconds_) * 1000 + int(micros) // 1000
        return Pulse(now_ms, int(done), await self.collisions.count(project, now_ms))

    async def write_collisions(self) -> None:
        """Write the collisions counted since the last call to the store. Raises StoreDown."""
        await self.collisions.flush(self.clock.reading.wall_ms)

    async def projects(self) -> list[Project]:
        """Return the projects that have claims, or recently had some, sorted."""
        rules = self.rules
        kept = max(rules.done_retention_ms, rules.retention_ms, rules.history_ms, rules.max_hold_ms)
        now_ms = self.clock.reading.wall_ms
        long_ago = str(now_ms - kept - _DAY_MS)
        aged = await self.link.command("ZRANGEBYSCORE", INDEX, "-inf", long_ago)
        for project in aged:
            # No service claimed there for long, but the sweeper may still have work there.
            if await self.link.command("EXISTS", *(keys(project) + part for part in _SWEPT)):
                await self.link.command("ZADD", INDEX, "XX", str(now_ms), project)
        await self.link.command("ZREMRANGEBYSCORE", INDEX, "-inf", long_ago)
        return sorted(map(Project, await self.link.command("ZRANGE", INDEX, 0, -1)))

    async def latest_projects(self, most: int) -> tuple[list[Project], int]:
        """Return the `most` projects with the latest claims, and the number of all projects."""
        names = await self.link.command("ZREVRANGE", INDEX, 0, most - 1)
        return list(map(Project, names)), int(await self.link.command("ZCARD", INDEX))

    def closed(self) -> str:
        """Return claim.lua's reason (`unsafe` or `full`) why no new claim is granted now, or ''."""
        return "unsafe" if self.unsafe else "full" if self.room() else ""

    def knows(self, project: Project) -> bool:
        """Return whether this process recently added the project to the index."""
        return self._known.get(project, -_KNOWN_S) + _KNOWN_S > time.monotonic()

    async def make_known(self, project: Project, *, closed: bool) -> bool:
        """Add the project to the index unless new claims are refused; return if it is there.

        This runs before a claim, so that the index never lacks a project that has one. The index is
        a separate key in another slot, so claim.lua cannot write it. Raises StoreDown.
        """
        closed = closed or bool(self.closed())
        try:
            if not closed:
                await self._command("ZADD", INDEX, str(self.clock.reading.wall_ms), project)
        except StoreFull:
            closed = True
        if closed:  # the index has every project with claims, and holders may renew theirs
            return await self._command("ZSCORE", INDEX, project) is not None
        self._known[project] = time.monotonic()
        return True

    async def _command(self, *parts: str | int) -> Any:
        """Run one command before an act, with one retry. Raises StoreDown: the act was not sent."""
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
        """Run a script, once more if the connection was lost: every script is safe to run twice.

        Return its tag, the decoder for the rest of its reply, and the rest. A callable `arguments`
        is called after any tick, since its result may depend on what the tick shows.
        Raises StoreDown, Damaged or StoreFull.
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
                    f"Fewer than {self.link.replicas} of the store's replicas confirmed this call.",
                    sent=True,
                )
            if reply[0] == "stalled" or (not looked and self._is_news(reply, given)):
                self.clock.stale = looked = True
                ran = ran or reply[0] != "stalled"  # it may have marked a loss as reported
                continue
            reader = ReplyDecoder(project, who, int(reply[1]), reading, unsure=sent)
            if reply[0] == "damaged":
                raise self._damaged_record(reader, *reply[2:])
            return reply[0], reader, reply[2:]
        raise StoreDown(_CLOCK_JUMPS, sent=sent or ran)

    def _is_news(self, reply: Sequence[Any], given: Any) -> bool:
        """Return whether the reply lacks a claim for which the session has a fence, and the last
        tick is old: this process may not yet know of a failover that lost the claim."""
        lacks = reply[0] == "not-mine" and reply[4] == "not-holder" and bool(given.fence)
        return lacks and self._ticked_s + _NEWS_S < time.monotonic()

    def _damaged_record(self, read: ReplyDecoder, lost: list[str], task: str) -> Damaged:
        """Note and return that the record of `task` cannot be read."""
        self.note_damaged(read.project, [task])
        return Damaged(
            f"The store's record of {task} is damaged, so its holder is unknown.",
            sent=read.unsure,
            task=task,
            lost=tuple(map(read.loss, lost)),
        )

    def note_damaged(self, project: Project, tasks: Sequence[str]) -> None:
        """Log each task whose record cannot be read, once."""
        for task in tasks:
            if (project, task) not in self._damaged and len(self._damaged) < _DAMAGED_MOST:
                self._damaged.add((project, task))
                log.error("record_damaged project=%s task=%r: break it with fence 1", project, task)
