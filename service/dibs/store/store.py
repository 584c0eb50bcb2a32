"""One typed function for each act on the store. Nobody else knows a key or counts an argument."""

import base64
import hmac
import itertools
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from redis.exceptions import ResponseError

from dibs import outcomes as o
from dibs.likeness import skeleton
from dibs.store import health, selftest, shown
from dibs.store.clock import Facts, LeaseClock
from dibs.store.failures import Damaged, StoreDown, StoreFull, Unwilling, said
from dibs.store.link import Link, Script, run_replicated, run_script
from dibs.store.records import Counts, Reader, event, seconds
from dibs.store.rules import Rules
from dibs.store.tally import Tally
from dibs.words import Claim, Event, Fence, Free, Project, Refused, Session, Task

log = logging.getLogger("dibs.store")

FORMAT = "2"
"""The version of the data in the store. It changes when an older service would misread a record."""
_HOLDING = ("heartbeat", "release")
"""What those do who hold something: no budget of others limits it."""
_UNLIMITED = ("break", "show", "list", "sweep", "overview")
"""What needs a key, only reads (see dibs.readers), or is the service's own."""
_LASTING = {"claim": "granted", "release": "ended", "break": "ended"}
"""Acts that a failover must not forget, each with the answer that says something was done."""
_DAY_MS = 86_400_000
_SWEPT = (":live", ":lapsed", ":done", ":ended", ":endings", ":losers", ":queued", ":damaged")
"""What the sweeper goes by: a project with none of these keys has nothing that it could drop."""
_ATTEMPTS = 3
_CURSOR = re.compile(r"[1-4] ([0-9]{1,16}|[+-]inf) .{0,600}", re.DOTALL)
_EPOCH = re.compile("[0-9]{1,16}")
_SECRET = re.compile("[0-9a-f]{64}")
_TURNS = (
    "Several servers answer INFO by turns: a failover between them goes unnoticed, and claims have "
    "no more time for it."
)
PLACE_CHARS = 12
"""Of the keyed hash of an address, which a claim is counted by; nothing else is kept of it."""

_DAMAGED_MOST = 1_000
"""Damaged tasks that are remembered, so that each is in the log once."""
_NEWS_S = 0.25
"""Before a session is told that it never had a claim, the last look at the clock is this young."""
_KNOWN_S = 600.0
"""How long a process trusts that the index of projects has one it claimed in."""


class Unfit(Exception):
    """The store cannot be used as it is; the message is a sentence that says why."""


class Reset(Exception):
    """The events asked for are not (or no longer) in the stream."""


@dataclass(frozen=True, slots=True)
class Overview:
    """A project at a glance: how many claims are in each state now."""

    project: Project
    held: int
    parked: int
    lapsed: int
    done: int
    """In the last 24 hours, unlike the others."""
    changed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Pulse:
    """What happened in a project in the last 24 hours, and the store's time."""

    now_ms: int
    done: int
    avoided: int
    """Claims refused because somebody else had the task, or had done it; see Tally."""


class Store:
    """Claims in a Redis or Valkey, one atomic script per act."""

    def __init__(self, link: Link, rules: Rules) -> None:
        self.link, self.rules = link, rules
        self.clock = LeaseClock(link, rules.stall_ms)
        self.tally = Tally(link, keys)
        holding = replace(rules, holding=1)
        unlimited = replace(rules, rate_per_session=0, rate_per_project=0)
        self._scripts = {
            "claim": Script.load("claim", rules),
            **{name: Script.load(name, holding) for name in _HOLDING},
            **{name: Script.load(name, unlimited) for name in _UNLIMITED},
        }
        self._unlist = Script.load("unlist")
        self._secret = b""
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

        Raises StoreDown, or Unfit.
        """
        await self.clock.look()
        if refusal := shown.unfit(self.clock.shown) or await selftest.lacks(self.link):
            raise Unfit(refusal)
        await self._identify()
        await self.tick()

    async def _identify(self) -> None:
        """Check that the data is of our format, and hash sessions as every service on it does.

        Raises StoreDown, or Unfit.
        """
        found = await self._settled("dibs:format", FORMAT)
        if found != FORMAT:
            raise Unfit(
                f"The store holds data of format {found}; this dibs reads format {FORMAT}. "
                "Run the version of dibs that wrote it, or give this one a store of its own."
            )
        ours = self._secret.hex() or secrets.token_hex(32)
        kept = await self._settled("dibs:secret", ours)
        if not _SECRET.fullmatch(kept):
            raise Unfit(
                "The store's dibs:secret is damaged, so that no session can be told from another. "
                "Delete that key while a dibs runs, which puts its own back; or restore a backup."
            )
        self._secret = bytes.fromhex(kept)

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
        self.unsafe = shown.unsafe(self.clock.shown)
        why = await self.clock.tick()
        self._ticked_s = time.monotonic()
        try:
            await self._identify()  # it may be another store's data by now, or a newer version's
        except Unfit as unfit:
            self.clock.stale = True
            raise StoreDown(str(unfit), sent=False) from None
        if why:
            self._known.clear()  # the store may have come back without what we put in it
        return why

    def hashed(self, session: Session) -> str:
        """Return what the store knows of a session: a keyed hash. Its start is the holder's ref."""
        return hmac.digest(self._secret, session.encode(), "sha256").hex()[:32]

    def new_request(self) -> str:
        """Return a name for a request that has none."""
        return f"{self.clock.process}-{next(self._requests)}"

    async def claim(
        self,
        project: Project,
        session: Session,
        tasks: Sequence[Task],
        *,
        mode: str = "one",
        ttl_s: int | None = None,
        reopen: bool = False,
        queue: bool = False,
        label: str = "",
        branch: str = "",
        url: str = "",
        note: str = "",
        request: str = "",
        address: str = "",
        address_waits_s: int = 0,
    ) -> o.Granted | o.Contended | o.OverQuota | o.NoRoom | o.RateLimited:
        """Take a task (mode `one`), the first free of several (`any`), or every one (`all`).

        `address` is counted for, where it is known; while `address_waits_s` is not 0 it is granted
        nothing new. Raises StoreDown, also where the store is unsafe and the claim would be new.
        """
        place = self.hashed(Session(address))[:PLACE_CHARS] if address else ""
        waits = "address" if address_waits_s else ""

        def act() -> list[str]:
            closed = self._closed() or waits
            wish = [mode, _ms(ttl_s), _flag(reopen), _flag(queue), closed, place]
            return [*wish, label, branch, url, note, *_with_likeness(tasks, project)]

        unsafe = self.unsafe
        if not (self._knows(project) or await self._make_known(project, closed=bool(waits))):
            if unsafe:
                raise Unwilling(unsafe)
            if waits:
                return o.RateLimited("address", address_waits_s)
            return o.NoRoom(why=self.room())
        tag, read, rest = await self._act("claim", project, self.hashed(session), act, request)
        if tag == "rate-limited":
            return _rate_limited(read, rest)
        if tag == "address":
            return o.RateLimited("address", address_waits_s, unsure=read.unsure)
        if tag == "unsafe":
            raise Unwilling(self.unsafe or unsafe, sent=read.unsure)
        lost = tuple(map(read.loss, rest[0]))
        match tag:
            case "granted":
                claims = tuple(_held(read.claim(view)) for view in rest[2:])
                return o.Granted(claims, int(rest[1]), lost)
            case "refused":
                refusals = tuple(read.refusal(*refusal) for refusal in rest[1:])
                for refusal in refusals:
                    self.tally.avoided(project, read.session, refusal.claim)
                return o.Contended(refusals, lost, unsure=read.unsure)
            case "full":
                return o.NoRoom(lost, self.room(), unsure=read.unsure)
            case _:
                return o.OverQuota(rest[1], int(rest[2]), lost, unsure=read.unsure)

    async def heartbeat(
        self,
        project: Project,
        session: Session,
        task: Task | None = None,
        fence: Fence | None = None,
        *,
        ttl_s: int | None = None,
        state: str = "",
        note: str = "",
        request: str = "",
    ) -> o.Kept | o.NotMine | o.RateLimited:
        """Push back the deadline of one claim, or of all that the session has in the project."""
        act = [task or "", str(fence or ""), _ms(ttl_s), state, note]
        tag, read, rest = await self._act("heartbeat", project, self.hashed(session), act, request)
        if tag == "rate-limited":
            return _rate_limited(read, rest)
        if tag == "not-mine":
            return self._not_mine(read, project, task, rest)
        claims = tuple(_held(read.claim(view)) for view in rest[1:])
        return o.Kept(claims, tuple(map(read.loss, rest[0])))

    async def release(
        self,
        project: Project,
        session: Session,
        task: Task | None,
        fence: Fence | None = None,
        *,
        outcome: str = "released",
        note: str = "",
        pr: str = "",
        request: str = "",
    ) -> o.Ended | o.NotMine | o.RateLimited:
        """End one claim, or (`task` None) all that the session has; or leave the task's queue."""
        act = [task or "", str(fence or ""), outcome, note, pr]
        tag, read, rest = await self._act("release", project, self.hashed(session), act, request)
        if tag == "rate-limited":
            return _rate_limited(read, rest)
        if tag == "not-mine":
            return self._not_mine(read, project, task, rest)
        return o.Ended(_releases(rest[1:]), tuple(map(read.loss, rest[0])))

    async def break_(
        self, project: Project, task: Task, fence: Fence, *, reason: str, by: str
    ) -> o.Ended | o.Moved:
        """End somebody's claim, if `fence` is still the current one."""
        act = [task, str(fence), reason, by]
        tag, read, rest = await self._act("break", project, "", act)
        if tag == "moved":
            return o.Moved(_shown(read, project, task, rest[1]), unsure=read.unsure)
        return o.Ended(_releases(rest[1:]))

    async def show(
        self, project: Project, task: Task, session: Session | None = None
    ) -> Claim | Free:
        """Return one task as it is now."""
        hashed = self.hashed(session) if session else ""
        _, read, rest = await self._act("show", project, hashed, [task])
        return _shown(read, project, task, rest[0])

    async def list_(
        self,
        project: Project,
        session: Session | None = None,
        *,
        states: Sequence[str],
        text: str = "",
        holder: str = "",
        limit: int,
        cursor: str = "",
    ) -> o.Page:
        """Return a page of claims, as one snapshot. `cursor` is the one the page before gave.

        Raises Refused for a cursor that no page gave.
        """
        hashed = self.hashed(session) if session else ""
        act = [",".join(states), _lower(text), holder, str(limit), _open_cursor(cursor)]
        _, read, rest = await self._act("list", project, hashed, act)
        seq, onwards, damaged, *views = rest
        self._note_damaged(project, damaged)
        claims = tuple(_held(read.claim(view)) for view in views)
        return o.Page(claims, seq, _seal_cursor(onwards) if onwards else None, tuple(damaged))

    async def sweep(self, project: Project) -> tuple[bool, Counts]:
        """Write down passed deadlines. Returns if there is more to do, and what there is."""
        _, _, rest = await self._act("sweep", project, "", [])
        more, gone, damaged, *counts = rest
        self._note_damaged(project, damaged)
        if gone:
            # Who claims there now has put it into the list anew, if that is not just now.
            long_ago = time_ms(self.clock.facts) - int(2 * _KNOWN_S * 1000)
            wish = [project, str(long_ago)]
            if await run_script(self.link, self._unlist, "dibs:projects", wish):
                self._known.pop(project, None)
        return more == "1", Counts(*map(int, counts))

    async def overview(self, project: Project) -> Overview:
        """Return a project at a glance."""
        day = [str(_DAY_MS)]
        _, read, rest = await self._act("overview", project, "", day)
        held, parked, lapsed, done, changed = rest
        at = read.facts.instant(int(changed)) if changed else None
        return Overview(project, int(held), int(parked), int(lapsed), int(done), at)

    async def pulse(self, project: Project) -> Pulse:
        """Return what the last 24 hours came to."""
        day_ago = self.clock.facts.lease_ms - _DAY_MS
        seconds_, micros = await self.link.command("TIME")
        done = await self.link.command("ZCOUNT", f"{keys(project)}:done", day_ago, "+inf")
        now_ms = int(seconds_) * 1000 + int(micros) // 1000
        return Pulse(now_ms, int(done), await self.tally.count(project, now_ms))

    async def write_tally(self) -> None:
        """Write down what this process counted since the last time."""
        await self.tally.flush(time_ms(self.clock.facts))

    async def projects(self) -> list[Project]:
        """Return the projects that have (or lately had) claims, sorted."""
        kept = max(self.rules.done_retention_ms, self.rules.retention_ms, self.rules.max_hold_ms)
        now_ms = time_ms(self.clock.facts)
        long_ago = str(now_ms - kept - _DAY_MS)
        aged = await self.link.command("ZRANGEBYSCORE", "dibs:projects", "-inf", long_ago)
        for project in aged:
            # Nobody claimed there for long, but the sweeper may still have to do with it.
            if await self.link.command("EXISTS", *(keys(project) + part for part in _SWEPT)):
                await self.link.command("ZADD", "dibs:projects", "XX", str(now_ms), project)
        await self.link.command("ZREMRANGEBYSCORE", "dibs:projects", "-inf", long_ago)
        return sorted(map(Project, await self.link.command("ZRANGE", "dibs:projects", 0, -1)))

    async def latest_projects(self, most: int) -> tuple[list[Project], int]:
        """Return the projects that were claimed in last, at most `most`, and how many there are."""
        names = await self.link.command("ZREVRANGE", "dibs:projects", 0, most - 1)
        return list(map(Project, names)), int(await self.link.command("ZCARD", "dibs:projects"))

    async def events(self, project: Project, after: str, limit: int) -> list[Event]:
        """Return the events after the id `after`, at most `limit`; '' means from the oldest kept.

        Raises Reset when the stream cannot go on from there without a gap.
        """
        epoch = await self._epoch(project)
        start = "-"
        if after:
            given, _, entry = after.partition("-")
            # Epoch 0 is before a project's first event: whichever that is, nothing is missed.
            if given not in (epoch, "0") or not await self._reachable(project, entry):
                raise Reset
            start = "(" + entry
        stream = keys(project) + ":events"
        entries = await self.link.command("XRANGE", stream, start, "+", "COUNT", limit)
        return [event(epoch, entry, flat, self.clock.facts) for entry, flat in entries]

    async def latest(self, project: Project, most: int) -> list[Event]:
        """Return the last events, the newest first."""
        epoch = await self._epoch(project)
        stream = f"{keys(project)}:events"
        entries = await self.link.command("XREVRANGE", stream, "+", "-", "COUNT", most)
        return [event(epoch, entry, flat, self.clock.facts) for entry, flat in entries]

    async def stream_end(self, project: Project) -> tuple[str, str]:
        """Return the epoch of a project's stream ('0' before its first event) and its last id."""
        epoch = await self._epoch(project)
        stream = keys(project) + ":events"
        last = await self.link.command("XREVRANGE", stream, "+", "-", "COUNT", 1)
        return epoch, last[0][0] if last else "0-0"

    async def _epoch(self, project: Project) -> str:
        """Return when the project's stream began; '0' before that, and where nobody can read it."""
        epoch = await self.link.command("HGET", keys(project) + ":meta", "epoch") or ""
        return str(epoch) if _EPOCH.fullmatch(epoch) else "0"

    async def _reachable(self, project: Project, entry: str) -> bool:
        """Return if all that came after `entry` is still kept."""
        try:
            flat = await self.link.command("XINFO", "STREAM", keys(project) + ":events")
        except ResponseError as error:
            if "no such key" not in str(error):
                raise
            return entry == "0-0"
        told = dict(zip(flat[::2], flat[1::2], strict=True))
        if entry == "0-0":
            return bool(told.get("entries-added") == told["length"])
        first, last = told["first-entry"], told["last-generated-id"]
        return bool(first) and stream_id(first[0]) <= stream_id(entry) <= stream_id(last)

    def _closed(self) -> str:
        """Return why nothing new is granted now, as claim.lua knows it; or ''."""
        return "unsafe" if self.unsafe else "full" if self.room() else ""

    def _knows(self, project: Project) -> bool:
        """Say if the project was put into the index lately, by this process."""
        return self._known.get(project, -_KNOWN_S) + _KNOWN_S > time.monotonic()

    async def _make_known(self, project: Project, *, closed: bool) -> bool:
        # Before the first claim, so that the index never lacks a project that has one. It is a
        # key of its own, in another slot: no script could write it.
        closed = closed or bool(self._closed())
        seen_ms = str(time_ms(self.clock.facts))
        try:
            if not closed:
                await self._command("ZADD", "dibs:projects", seen_ms, project)
        except StoreFull:
            closed = True
        if closed:  # a project that has claims is known, and its holders may renew them
            return await self._command("ZSCORE", "dibs:projects", project) is not None
        self._known[project] = time.monotonic()
        return True

    async def _settled(self, key: str, first: str) -> str:
        """Return what stands at `key`; whoever comes first puts `first` there."""
        found = await self.link.command("GET", key)
        if found is None:  # only then write: a full store must not keep a service from starting
            await self.link.command("SET", key, first, "NX")
            found = await self.link.command("GET", key)
        return str(found)

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

    async def _act(
        self,
        name: str,
        project: Project,
        session: str,
        act: Sequence[str] | Callable[[], Sequence[str]],
        request: str = "",
    ) -> tuple[str, Reader, list[Any]]:
        """Run a script, once more if the connection was lost: each is safe to run twice.

        An `act` that depends on what a look at the store shows is called after the look.
        """
        request = request or self.new_request()
        script = self._scripts[name]
        sent = looked = False
        for attempt in range(_ATTEMPTS):
            ours = False
            try:
                if self.clock.stale:
                    await self.tick()
                facts, ours = self.clock.facts, True
                given = act() if callable(act) else act
                args = [*facts.args, request, session, *given]
                if self.link.replicas and name in _LASTING:
                    reply, enough = await run_replicated(self.link, script, keys(project), args)
                else:
                    reply, enough = await run_script(self.link, script, keys(project), args), True
            except Damaged:
                raise
            except StoreDown as down:
                self.clock.stale = True
                sent = sent or (ours and down.sent)
                if attempt > 0:
                    raise StoreDown(down.reason, sent=sent) from down
                continue
            if not enough and reply[0] == _LASTING[name]:
                raise StoreDown(
                    f"Fewer than {self.link.replicas} of the store's replicas have confirmed it.",
                    sent=True,
                )
            if not looked and reply[0] == "not-mine" and reply[4] == "not-holder" and given[1]:
                # A failover that took the claim is news to this process until it looks.
                looked = True
                if self._ticked_s + _NEWS_S < time.monotonic():
                    self.clock.stale = True
                    continue
            if reply[0] == "stalled":
                self.clock.stale = True
                continue
            reader = Reader(project, session, int(reply[1]), facts, self.rules.grace_ms)
            reader.unsure = sent
            if reply[0] == "damaged":
                raise self._damaged_record(reader, *reply[2:])
            return reply[0], reader, reply[2:]
        raise StoreDown("The store's clock does not hold still.", sent=sent)

    def _damaged_record(self, read: Reader, lost: list[str], task: str) -> Damaged:
        """Say that nobody can read the record of `task`."""
        self._note_damaged(read.project, [task])
        return Damaged(
            f"The store's record of {task} is damaged, so nobody knows who has it.",
            sent=read.unsure,
            task=task,
            lost=tuple(map(read.loss, lost)),
        )

    def _note_damaged(self, project: Project, tasks: Sequence[str]) -> None:
        """One line for each task whose record nobody can read."""
        for task in tasks:
            if (project, task) not in self._damaged and len(self._damaged) < _DAMAGED_MOST:
                self._damaged.add((project, task))
                log.error("record_damaged project=%s task=%r: break it with fence 1", project, task)

    def _not_mine(
        self, read: Reader, project: Project, task: Task | None, rest: list[Any]
    ) -> o.NotMine:
        told, view, why, loss = rest
        now = _shown(read, project, task or Task(""), view)
        known = read.loss(loss) if loss else None
        lost = tuple(map(read.loss, told))
        return o.NotMine(why, now, known, lost, unsure=read.unsure)


def keys(project: Project) -> str:
    """Return what every key of a project starts with: a hash tag, so that all are in one slot."""
    return "dibs:{" + project + "}"


def time_ms(facts: Facts) -> int:
    """Return the store's wall clock at the last look, in ms."""
    return facts.witness_us // 1000


def _shown(read: Reader, project: Project, task: Task, view: str) -> Claim | Free:
    return read.claim(view) if view else Free(project=project, task=task)


def _held(claim: Claim | Free) -> Claim:
    if isinstance(claim, Free):
        raise TypeError(f"the store listed {claim.task!r} as a claim, but it is free")
    return claim


def _releases(rows: Sequence[Sequence[str]]) -> tuple[o.Release, ...]:
    return tuple(o.Release(Task(task), state, already == "1") for task, state, already in rows)


def _rate_limited(read: Reader, rest: list[Any]) -> o.RateLimited:
    return o.RateLimited(rest[1], max(1, seconds(int(rest[0]))), unsure=read.unsure)


def _ms(span_s: int | None) -> str:
    return "" if span_s is None else str(span_s * 1000)


def _with_likeness(tasks: Sequence[Task], project: Project) -> list[str]:
    """Return each task with what it resembles others by behind it, '' for its lower case."""
    args: list[str] = []
    for task in tasks:
        like = skeleton(task, project)
        args += task, "" if like == _lower(task) else like
    return args


def _flag(on: bool) -> str:
    return "1" if on else ""


def _lower(text: str) -> str:
    """Lower the letters that Lua's string.lower lowers, and no others."""
    if text.isascii():
        return text.lower()
    return "".join(char.lower() if char.isascii() else char for char in text)


def _seal_cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _open_cursor(cursor: str) -> str:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.urlsafe_b64decode(padded.encode()).decode()
    except ValueError:
        text = "?"
    if text and not _CURSOR.fullmatch(text):
        raise Refused("This is not a cursor that a list gave; start without one.")
    return text


def stream_id(text: str) -> tuple[int, int]:
    """Return a stream entry's id as numbers that compare."""
    ms, _, seq = text.partition("-")
    return int(ms), int(seq or 0)
