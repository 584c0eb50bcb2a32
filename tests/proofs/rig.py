"""A real store with a clock that moves only on command, and a service's Store on it.

Every act goes through `Rig.act`: it runs on the store and is replayed in the model, and both must
agree in the answer and in the stored data.
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

from tests.harness import acting
from tests.proofs import seen, stores, witness
from tests.proofs.audit import Audit
from tests.proofs.records import HELD
from tests.proofs.reference_model import Model
from tests.tools.clock import SteppedClock

from dibs import model, results
from dibs.model import Project, Session, Task
from dibs.store import Rules, Store, StoreDown
from dibs.store.redis.store_url import link_to, parse

RULES = Rules(
    ttl_ms=20_000,
    park_ms=40_000,
    review_ms=50_000,
    grace_ms=5_000,
    handover_ms=8_000,
    ticket_ms=15_000,
    max_hold_ms=60_000,
    claims_per_session=2,
    claims_per_project=3,
    tickets_per_task=2,
    rate_per_session=0,
    rate_per_project=0,
    max_attempts=3,
    brief_ms=8_000,
    fresh_ms=4_000,
    stale_ms=2_000,
    tenures_kept=4,
    waiting_most=2,
    retention_ms=70_000,
    done_retention_ms=90_000,
    history_ms=110_000,
)
"""Small numbers, so that a minute reaches every boundary. Other tests cover the rates."""
PROJECT = Project("proof.repo")
INSTANTS = ("due", "grace", "max_hold", "ticket", "window", "stale", "over", "loss", "ending")
"""The instants at which a task changes by time alone."""

Call = Callable[[], Coroutine[Any, Any, Any]]
SLICE_MS = 4_000
"""The longest step that passes as watched time: the service takes a longer one for an outage."""


class FrozenServer:
    """The store's processes and their frozen clock, for many rigs one after the other."""

    def __init__(self, folder: Path) -> None:
        self.clock = SteppedClock(folder / "clock")
        self.store = stores.backing(folder, PROJECT, self.clock)
        self.clock.freeze()
        self._connect()
        self.move(0)

    def _connect(self) -> None:
        self.raw, *others = self.store.clients()
        """The client of the server that has the project."""
        self._all = [self.raw, *others]

    def start(self) -> None:
        """Start what was killed."""
        self.store.start()
        self._connect()
        self.move(0)

    def kill(self) -> None:
        """Kill it as a crash would: at once, in the middle of any command."""
        self.store.kill()
        self._disconnect()

    def fill(self, *, on: bool) -> None:
        """Take all room from the store, or give it back."""
        for client in self._all:
            client.config_set("maxmemory", "1" if on else "0")

    def flush_scripts(self) -> None:
        """Make the store forget its cached scripts, as it may do at any time."""
        for client in self._all:
            client.script_flush()

    def flush_functions(self) -> None:
        """Make the store forget its functions."""
        for client in self._all:
            client.function_flush()

    def move(self, ms: int) -> None:
        """Step the clock, and wait until the store sees it: a server caches the time briefly."""
        self.clock.step(ms / 1000)
        deadline = time.monotonic() + 5
        while any(time_us(client) != self.clock.now_us for client in self._all):
            assert time.monotonic() < deadline, "the store's clock does not follow the step"

    def close(self) -> None:
        self._disconnect()
        self.store.stop()

    def _disconnect(self) -> None:
        for client in self._all:
            client.close()


def time_us(client: Any) -> int:
    """Return the time of a server's clock in microseconds."""
    seconds, micros = client.time()
    return int(seconds * 1_000_000 + micros)


class Rig:
    """One project of one store, driven act by act."""

    met: ClassVar[Counter[str]] = Counter()
    """Counts of results and events over all rigs: a run that met too few proves too little."""

    def __init__(self, server: FrozenServer, rules: Rules = RULES, sessions: int = 4) -> None:
        self.server, self.rules = server, rules
        self.run = asyncio.Runner().run
        server.store.empty()
        self.project = PROJECT
        self.sessions = [Session(str(uuid.uuid4())) for _ in range(sessions)]
        self.model = Model(rules)
        self.audit = Audit(server.raw, self.project)
        self.full = False
        self.closed = ""
        """The reason why the service grants nothing new, or ""."""
        self.lease_least = self.lease_most = 0
        """The bounds within which lease time must be now, by the steps of the clock."""
        self.protected: dict[str, tuple[int, int]] = {}
        """task: (fence, until): the time that an outage has granted to a live claim."""
        self.acknowledged: dict[str, tuple[int, str, int]] = {}
        """task: (fence, session, deadline) of the last reply to any session."""
        self.connect()
        self.run(self.store.open())
        self.lease_least = self.lease_most = self.store.clock.reading.lease_ms

    def connect(self) -> None:
        self.link = witness.Recorder(link_to(parse(self.server.store.url)), self.rules)
        self.store = Store(self.link, self.rules)
        self.store.room = lambda: self.closed

    def close(self) -> None:
        self.fill(on=False)
        self.run(self.store.close())
        self.run.__self__.close()  # type: ignore[attr-defined]

    # Acts

    def act(self, call: Call) -> Any:
        """Run one act until it is answered; check the answer, the stored data, and the list."""
        outcome = self.answered(call)
        asked = [run for run in self.link.runs if not run.between]
        requests = {run.args[3] for run in asked if run.act in witness.BY_SESSIONS}
        assert len(requests) <= 1, f"an act has one request id, also in its retries: {requests}"
        if isinstance(outcome, results.Negative):
            unknown = self.link.lost > 0
            assert outcome.unsure == unknown, f"{outcome}, though {self.link.lost} tries were lost"
        answer = self.replay()
        if answer:
            said = witness.said(outcome)
            assert said == answer, f"the service answered\n  {said}\nthe contract says\n  {answer}"
        self.check()
        return outcome

    def answered(self, call: Call) -> Any:
        """Call until the outcome is known."""
        self.link.runs.clear()
        for _ in range(5):
            self.link.lost = 0
            try:
                return self.run(call())
            except StoreDown as down:
                denied = not down.sent
            ran = any(run.act in witness.REPLAYED for run in self.link.runs)
            assert not (denied and ran), "the act ran, but the service denies it"
        raise AssertionError("the store is up, but the service cannot reach it")

    def replay(self) -> Any:
        """Replay the runs since the last call in the model; return its last answer."""
        answer = None
        for run in self.link.runs:
            if not witness.replayable(run):
                continue
            step = witness.step_of(run, full=self.full)
            self._check_clock(step.now)
            self._check_grants(step, max(self.server.clock.now_us, int(run.args[0])))
            told = len(self.model.events)
            answer = self.model.run(step)
            self.met[f"act: {run.act}"] += 1
            self.met.update(kinds(answer) + [event[0] for event in self.model.events[told:]])
            assert run.reply is not None
            assert run.reply[0] == answer[0], (
                f"{step} resulted in {run.reply[0]}, not in {answer[0]}"
            )
            self._note_deadlines(run)
        return answer

    def check(self) -> None:
        """Check the stored data against the model, and the list against both."""
        self.audit.check(self.model)
        self._check_list()
        self._check_backlog()

    def claim(self, who: int, *tasks: str, **wish: Any) -> Any:
        store, names = self.store, [Task(task) for task in tasks]
        wish = {"label": f"s{who}", "request": uuid.uuid4().hex, **wish}
        return self.act(
            lambda: acting.claim(store, self.project, self.sessions[who], names, **wish)
        )

    def next(self, who: int, **wish: Any) -> Any:
        return self.claim(who, mode="next", **wish)

    def write(self, who: int, *entries: dict[str, Any], **wish: Any) -> Any:
        wish = {"request": uuid.uuid4().hex, **wish}
        store, session = self.store, self.sessions[who]
        return self.act(lambda: acting.tasks(store, self.project, session, entries, **wish))

    def beat(self, who: int, task: str | None = None, fence: Any = None, **wish: Any) -> Any:
        wish = {"request": uuid.uuid4().hex, **wish}
        session = self.sessions[who]
        name = Task(task) if task else None
        return self.act(
            lambda: acting.heartbeat(self.store, self.project, session, name, fence, **wish)
        )

    def release(self, who: int, task: str | None = None, fence: Any = None, **wish: Any) -> Any:
        wish = {"request": uuid.uuid4().hex, **wish}
        session = self.sessions[who]
        name = Task(task) if task else None
        return self.act(
            lambda: acting.release(self.store, self.project, session, name, fence, **wish)
        )

    def break_(self, task: str, fence: Any, *, hold: bool = False) -> Any:
        return self.act(
            lambda: acting.break_(
                *(self.store, self.project, Task(task), fence),
                reason="stuck",
                by="a person",
                hold=hold,
            )
        )

    def hold(self, task: str | None, until: int | None, reason: str = "wait") -> Any:
        name = Task(task) if task else None
        return self.act(
            lambda: acting.hold(
                self.store, self.project, name, reason=reason, by="a person", until=until
            )
        )

    def unhold(self, task: str | None) -> Any:
        name, wish = Task(task) if task else None, {"reason": "go on", "by": "a person"}
        return self.act(lambda: acting.unhold(self.store, self.project, name, **wish))

    def resolve(self, outcome: str, **given: Any) -> Any:
        as_ = "opened" if outcome == "opened" else ""
        given["outcome"] = "merged" if as_ else outcome
        return self.act(lambda: acting.resolve(self.store, self.project, as_=as_, **given))

    def retry(self, task: str, fence: Any) -> Any:
        wish = {"reason": "once more", "by": "a person"}
        name = Task(task)
        return self.act(lambda: acting.retry(self.store, self.project, name, fence, **wish))

    def show(self, task: str, who: int | None = None) -> Any:
        session = None if who is None else self.sessions[who]
        return self.act(lambda: acting.show(self.store, self.project, Task(task), session))

    def sweep(self) -> None:
        told = len(self.model.events)
        self.answered(lambda: self.store.sweep(self.project))
        self.replay()
        if self.model.finished():
            left = self.audit.left()
            if not left:
                self.met["a project is gone"] += 1
                self.model.epoch = 0
                self.audit.begin_anew(self.model)
            news = told < len(self.model.events) or self.model.fence >= self.server.clock.now_us
            assert news or left != {"meta", "events"}, "the events of a finished project are left"
        self.check()

    def who(self, owner: str) -> int:
        """Return the number of the session with this hash."""
        return [self.store.hashed(session) for session in self.sessions].index(owner)

    # Time and trouble

    def tick(self) -> str:
        why = self.answered(self.store.tick)
        self._check_clock(self.store.clock.reading.lease_ms)
        return str(why)

    def pass_time(self, ms: int) -> None:
        """Let time pass that the service watches."""
        if self.store.clock.stale:
            self.tick()
        while ms > 0:
            passed = min(ms, SLICE_MS)
            self.server.move(passed)
            self.lease_least += passed
            self.lease_most += passed
            self.tick()
            ms -= passed

    def pass_until(self, task: str, instant: str, off_ms: int) -> None:
        """Let time pass until `off_ms` after one of INSTANTS."""
        tenure = self.model.tasks[task]
        due = self.model.deadline(tenure)
        freed = max(tenure.ended, tenure.turns_from, due + self.rules.grace_ms)
        at = {
            "due": due,
            "grace": due + self.rules.grace_ms,
            "max_hold": tenure.since + self.rules.max_hold_ms,
            "stale": tenure.beat + tenure.ttl // 2,
            "ticket": tenure.queue[0].until if tenure.queue else 0,
            "window": freed + self.rules.handover_ms,
            "over": (tenure.ended or due) + self.model.rules_kept(tenure.state == "done"),
            "loss": max((loss.kept_until for loss in self.losses(task)), default=0),
            "ending": min(self.model.endings.values(), default=0) + self.rules.retention_ms,
        }[instant]
        self.tick()
        self.pass_time(max(0, at + off_ms - self.store.clock.reading.lease_ms))

    def losses(self, task: str) -> list[Any]:
        """Return the losses of a task that a session may still be told."""
        return [each[task] for each in self.model.losses.values() if task in each]

    def jump(self, ms: int) -> None:
        """Step the clock unwatched: a step back, or one of over five seconds, is an outage."""
        self.tick()
        self.server.move(ms)
        if 0 <= ms <= self.rules.stall_ms:
            self.lease_least += ms
            self.lease_most += ms
            self.tick()
        else:
            self.lease_most += self.rules.stall_ms
            self._protect()
            self.tick()
            self._check_protected()

    def restart(self) -> None:
        """Kill the store with SIGKILL, and start it again on its data."""
        full, self.full = self.full, False
        self.server.kill()
        self.server.start()
        self.audit.raw = self.server.raw
        self._protect()
        if full:
            self.fill(on=True)
        self.tick()  # as the service does every second
        self._check_protected()

    def crash_during(self, call: Call, turns: int, *, after: bool = False) -> None:
        """Kill the store `turns` of the event loop after an act began; then call the act again.

        With `after`, the act has been sent and the store has run it (it answers on another
        connection), but nobody reads the answer. The stored data shows whether the act took effect:
        all of it or nothing.
        """
        self.tick()

        async def race() -> None:
            asking = asyncio.ensure_future(call())
            for _ in range(turns):
                await asyncio.sleep(0)
            if after:
                while not self.link.runs and not asking.done():
                    await asyncio.sleep(0)
                await asyncio.sleep(0)  # commands of one turn are sent at its end
                self.server.raw.ping()
                asking.cancel()
            self.server.kill()
            await asyncio.gather(asking, return_exceptions=True)

        self.link.runs.clear()
        full, self.full = self.full, False
        self.run(race())
        self.server.start()
        self.audit.raw = self.server.raw
        self.full = full
        self.replay()
        self._resolve([run for run in self.link.runs if run.reply is None])
        self._protect()
        self.fill(on=full)
        self.act(call)

    def _resolve(self, unanswered: list[witness.ScriptRun]) -> None:
        """Find out which of the runs without an answer took effect."""
        for run in unanswered:
            if run.act in witness.REPLAYED and not self._agrees(self.model):
                after = deepcopy(self.model)
                observed_us, lost_us = map(int, run.args[:2])
                now = (max(self.server.clock.now_us, observed_us) - lost_us) // 1000
                fences = Foretold(after, max(self.server.clock.now_us, observed_us))
                after.run(witness.step(run, now, fences, full=self.full))
                if self._agrees(after):
                    self.met["a crash after an act"] += 1
                    self.model = after
        self.audit.check(self.model)
        self.met["a crash"] += 1

    def _agrees(self, model: Model) -> bool:
        try:
            self.audit.check(model)
        except AssertionError:
            return False
        return True

    def others_have_it_between_two_tries(self, task: str, whose: list[int]) -> None:
        """Lose the next act's first reply; before its retry, these hold the task in turn."""
        store, name = self.store, Task(task)

        async def meanwhile() -> None:
            for who in whose:
                session, request = self.sessions[who], uuid.uuid4().hex
                await acting.claim(
                    store, self.project, session, [name], label=f"s{who}", request=request
                )
                await acting.release(store, self.project, session, name, request=request + "r")

        self.link.lose_reply, self.link.meanwhile = 1, meanwhile

    def restart_service(self) -> None:
        """Replace the service's process by another."""
        self.run(self.store.close())
        self.connect()
        self.run(self.store.open())
        self._check_clock(self.store.clock.reading.lease_ms)

    def fill(self, *, on: bool) -> None:
        """Take all room from the store, or give it back."""
        self.server.fill(on=on)
        self.full = on

    def _protect(self) -> None:
        """Record the live claims: after an outage each has a ttl from its end (rule 13). Claims
        written in this very millisecond are exempt, since here the clock stands still during a
        restart."""
        now = self.store.clock.reading.lease_ms
        self.protected.clear()
        for task, tenure in self.model.tasks.items():
            if tenure.state in HELD and self.model.deadline(tenure) > now > tenure.beat:
                self.protected[task] = (tenure.fence, now + tenure.ttl)
                if self.model.deadline(tenure) <= now + tenure.ttl - 1_000:
                    self.met["a claim under way met an outage"] += 1

    def _check_protected(self) -> None:
        """Check that each claim that met the outage has at least a ttl left."""
        for task, (fence, _) in list(self.protected.items()):
            claim = self.show(task)
            if claim.state in HELD and claim.fence == fence:
                ttl = self.model.tasks[task].ttl // 1000
                assert claim.expires_in >= ttl, (
                    f"after an outage {task!r} has less than its ttl left"
                )
            else:
                assert claim.state != "lapsed", f"{task!r} lapsed in an outage"

    # Invariants

    def _check_clock(self, now: int) -> None:
        bounds = f"{self.lease_least} to {self.lease_most}"
        assert self.lease_least <= now <= self.lease_most, f"lease time is {now}, not {bounds}"
        self.lease_least = self.lease_most = now

    def _check_grants(self, step: Any, time_us: int) -> None:
        last = self.model.fence
        for task, fence in step.fences.items():
            last = max(last + 1, time_us)
            assert fence == last, f"fence {fence} of {task!r} is not {last}"
            before = self.model.tasks.get(task)
            if before is None or before.state not in (*HELD, "lapsed"):
                continue
            for name, known in (("an outage", self.protected), ("a reply", self.acknowledged)):
                fence_then, *_, until = known.get(task, (0, 0))
                if fence_then == before.fence and before.owner != step.session:
                    assert step.now >= until, (
                        f"{task!r} was claimed by another before {name} allowed it"
                    )

    def _note_deadlines(self, run: witness.ScriptRun) -> None:
        for view in witness.views(run):
            if view.get("state") in HELD:
                until = int(view["due"]) + self.rules.grace_ms
                self.acknowledged[view["task"]] = (int(view["fence"]), view["owner"], until)

    def _check_list(self) -> None:
        """Check that the list has every claim once, and that `seq` is the last event."""
        states, cursor, claims, seq = model.STATES, "", [], ""
        while True:
            page = self.run(
                acting.list_(self.store, self.project, states=states, limit=2, cursor=cursor)
            )
            claims += [witness.claim_said(claim) for claim in page.claims]
            assert len(claims) <= len(self.model.tasks), f"the list never ends: {claims}"
            seq, cursor = page.seq, page.cursor or ""
            if not cursor:
                break
        self.model.look(witness.step_of(self.link.runs[-1]))
        reference = self.model
        known = [
            task
            for task, one in reference.tasks.items()
            if one.state != "done" or not reference.aged(one)
        ]
        expected = [seen.task(reference, task) for task in known]
        expected = [c for c in expected if c["state"] in states]
        assert sorted(claims, key=by_task) == sorted(expected, key=by_task), "the list is wrong"
        last = self.audit.last_event
        assert seq.partition("-")[2] == ("0-0" if last == "-" else last), (
            "seq is not the last event"
        )

    def _check_backlog(self) -> None:
        """Check that the backlog has each listed task once, in the order of `next`."""
        found, cursor = [], ""
        while True:
            query = {"limit": 2, "cursor": cursor}
            page = self.run(acting.backlog(self.store, self.project, **query))
            found += [(task.task, task.state) for task in page.tasks]
            cursor = page.cursor or ""
            if not cursor:
                break
        entries = self.model.entries
        order = sorted(entries, key=lambda task: (entries[task].priority, entries[task].order))
        shown = [(task, seen.state(self.model, task)) for task in order]
        expected = [(task, now) for task, now in shown if not entries[task].dropped]
        assert found == expected, f"the list shows {found}, not {expected}"


class Foretold(dict[str, int]):
    """The fences of the model's next grants: the clock in µs, and never one twice."""

    def __init__(self, model: Model, time_us: int) -> None:
        self.model, self.time_us = model, time_us

    def __missing__(self, task: str) -> int:
        return max(self.model.fence + 1, self.time_us)


def kinds(answer: Any) -> list[str]:
    """Return the names under which an answer is counted."""
    word, facts, lost = answer
    named: dict[str, Callable[[], list[str]]] = {
        "refused": lambda: [f"refused: {refusal['verdict']}" for refusal in facts],
        "quota": lambda: [f"quota: {facts}"],
        "not-mine": lambda: [f"not-mine: {facts[0]}"],
        "ended": lambda: ["ended: already" if each[2] else "ended" for each in facts],
        "granted": lambda: ["granted: new" if facts[0] else "granted: mine"],
    }
    more = named[word]() if word in named else [word]
    return more + ["told of a loss"] * len(lost)


def by_task(claim: dict[str, Any]) -> str:
    return str(claim["task"])
