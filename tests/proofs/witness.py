"""The store's script runs as the model's steps, and the service's outcomes as its answers."""

import inspect
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Any

from tests.proofs.records import Step
from tests.proofs.reference_model import Model

from dibs import results
from dibs.acts import POSTS, SCRIPTS
from dibs.model import Claim, Free, Loss
from dibs.store import StoreDown
from dibs.store.board_tasks import SCRIPT as GLANCE
from dibs.store.clock import Tick
from dibs.store.redis.link import Link
from dibs.store.rules import Rules
from dibs.store.scripts import Script
from dibs.store.store import OVERVIEW, SWEEP, Unindex

BY_SESSIONS = tuple(act.name for act in POSTS.values() if act.caller == "session")
BY_PEOPLE = tuple(act.name for act in POSTS.values() if act.caller != "session")
REPLAYED = (*BY_SESSIONS, *BY_PEOPLE, "show", "sweep")


@dataclass
class ScriptRun:
    """One run of one script; `reply` is None if nobody saw it."""

    act: str
    key: str
    args: list[str]
    reply: list[Any] | None = None
    between: bool = False
    """Run by others, between two tries of the act under test."""


@dataclass
class Recorder:
    """A link that records every script that it carries, and can lose messages."""

    link: Link
    rules: Rules
    runs: list[ScriptRun] = field(default_factory=list)
    lose_request: int = 0
    lose_reply: int = 0
    """The number of the next messages to lose."""
    lost: int = 0
    """The number of lost messages."""
    meanwhile: Callable[[], Awaitable[Any]] | None = None
    """Acts of others before the caller misses the next lost reply."""
    _between: bool = False

    def __post_init__(self) -> None:
        self._names = script_names(self.rules)

    async def command(self, *parts: str | int) -> Any:
        return await Recorded(self, self.link).command(*parts)

    async def replicated(self, *parts: str | int) -> tuple[Any, bool]:
        return await Recorded(self, self.link).replicated(*parts)

    def with_key(self, key: str, run: Callable[[Any], Awaitable[Any]]) -> Awaitable[Any]:
        return self.link.with_key(key, lambda server: run(Recorded(self, server)))

    async def carried(
        self, parts: Sequence[str | int], carry: Callable[[], Awaitable[tuple[Any, bool]]]
    ) -> tuple[Any, bool]:
        if parts[0] not in ("FCALL", "EVALSHA", "EVAL"):
            return await carry()
        run = ScriptRun(
            self._names[str(parts[1])], str(parts[3]), [str(part) for part in parts[4:]]
        )
        run.between = self._between
        losable = run.act in REPLAYED and not self._between
        if losable and self.lose_request:
            self.lose_request -= 1
            self.lost += 1
            raise StoreDown("The request was lost.", sent=True)
        self.runs.append(run)
        try:
            run.reply, enough = await carry()
        except StoreDown:
            raise
        except Exception:
            self.runs.remove(run)  # refused before it ran: unknown, or no memory
            raise
        if losable and self.lose_reply:
            self.lose_reply -= 1
            self.lost += 1
            await self._others()
            raise StoreDown("The reply was lost.", sent=True)
        return run.reply, enough

    async def _others(self) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            self._between = True
            try:
                await meanwhile()
            finally:
                self._between = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)


@dataclass
class Recorded:
    """A recording link to one server."""

    recorder: Recorder
    server: Any

    async def command(self, *parts: str | int) -> Any:
        async def carry() -> tuple[Any, bool]:
            return await self.server.command(*parts), True

        return (await self.recorder.carried(parts, carry))[0]

    async def replicated(self, *parts: str | int) -> tuple[Any, bool]:
        return await self.recorder.carried(parts, lambda: self.server.replicated(*parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.server, name)


def script_names(rules: Rules) -> dict[str, str]:
    """Return the name of each script by its digest, by its text and by its function."""
    declared = (*SCRIPTS.values(), SWEEP, OVERVIEW, GLANCE)
    scripts = [
        Script.load("tick", arguments=Tick._fields),
        Script.load("unindex", arguments=Unindex._fields),
        Script.load("selftest"),
    ]
    scripts += [each.fill(rules) for each in declared]
    functions = {each.library.name: each.name for each in scripts if each.library}
    return functions | {key: script.name for script in scripts for key in (script.sha, script.text)}


def stalls_of(text: str) -> tuple[tuple[int, int], ...]:
    spans = (each.partition(":")[0].split("-") for each in text.split())
    return tuple((int(start), int(end)) for start, end in spans)


def step(run: ScriptRun, now: int, fences: dict[str, int], *, full: bool = False) -> Step:
    """Return a run as the model's step, with the arguments that the model's act has too."""
    stalls, request, session = stalls_of(run.args[2]), run.args[3], run.args[4]
    name = {"break": "break_", "tasks": "tasks_"}.get(run.act, run.act)
    given, act = given_of(run), getattr(Model, name, None)
    args = asked(act, given, now) if act else {}  # the model has no acts that only read
    full = full or given.get("closed") == "full"
    losses_us = tuple(int(each.partition(":")[2]) for each in run.args[2].split())
    lost_us = int(run.args[1])
    return Step(name, args, now, stalls, session, request, fences, full, lost_us, losses_us)


def given_of(run: ScriptRun) -> dict[str, Any]:
    """Return the arguments of a run by name; repeated ones as a list."""
    if run.act not in SCRIPTS:
        return {}
    names = SCRIPTS[run.act].arguments
    given: dict[str, Any] = dict(zip(names, run.args, strict=False))
    if names[-1] in _SEVERAL:
        given[names[-1]] = run.args[len(names) - 1 :]
    elif len(names) != len(run.args):
        raise ValueError(f"{run.act} has other arguments: {run.args}")
    return given


def asked(act: Callable[..., Any], given: dict[str, Any], now: int) -> dict[str, Any]:
    """Return the arguments of the model's act: texts, except for numbers, flags and lists."""
    found: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(act).parameters.items())[1:]:
        if read := _READ.get(name):
            found[name] = read(given, now)
        else:
            none = isinstance(parameter.annotation, UnionType)
            found[name] = given[name] or (None if none else "")
    return found


def _flag(name: str) -> Callable[[dict[str, Any], int], bool]:
    return lambda given, _: bool(given[name] == "1")


def _number(name: str) -> Callable[[dict[str, Any], int], int | None]:
    return lambda given, _: int(given[name]) if given[name] else None


_READ: dict[str, Callable[[dict[str, Any], int], Any]] = {
    **{name: _flag(name) for name in ("reopen", "queue", "hold", "dry")},
    "fence": _number("fence"),
    "ttl": _number("ttl_ms"),
    "until": lambda given, now: now + int(given["for_ms"]) if given["for_ms"] else None,
    "tasks": lambda given, _: given["tasks"][::2],
    "entries": lambda given, _: [entry_of(json.loads(entry)) for entry in given["entries"]],
}
"""Readers of the arguments that are not text, by the model's name."""
_SEVERAL = ("tasks", "entries")


def entry_of(kept: dict[str, str]) -> dict[str, Any]:
    """Return an entry of the list as the model has it: the given fields, and those that matter."""
    given: dict[str, Any] = {"task": kept["task"]}
    given |= {name: kept[name] for name in ("title", "drop") if name in kept}
    for name in ("priority", "attempts"):
        given |= {name: int(kept[name])} if name in kept else {}
    for name in ("needs", "tags"):
        if name in kept:
            given[name] = tuple(filter(None, kept[name].split("\n")))
    return given


def replayable(run: ScriptRun) -> bool:
    """Return whether an act ran to its end: no other run changes a claim."""
    return run.act in REPLAYED and run.reply is not None and run.reply[0] not in _NOT_RUN


_NOT_RUN = ("stalled", "rate-limited")


def step_of(run: ScriptRun, *, full: bool = False) -> Step:
    """Return the step of a run whose reply was seen."""
    assert run.reply is not None
    fences = {}
    if run.reply[0] == "granted":
        for view in map(json.loads, run.reply[4 : 4 + int(run.reply[3])]):
            fences[view["task"]] = int(view["fence"])
    return step(run, int(run.reply[1]), fences, full=full)


def views(run: ScriptRun) -> list[dict[str, str]]:
    """Return the records in a reply."""
    assert run.reply is not None
    tag, rest = run.reply[0], run.reply[2:]
    shown = {"granted": rest[2:], "kept": rest[1:], "shown": rest[:1]}.get(tag, [])
    if tag == "refused":
        shown = [refusal[1] for refusal in rest[1:]]
    return [json.loads(view) for view in shown if view]


def claim_said(said: Claim | Free) -> dict[str, Any]:
    """Return the facts of a claim that matter, as `seen.task` does."""
    if isinstance(said, Free) and not said.grants:
        return {"task": said.task, "state": said.state}
    facts = {
        "task": said.task,
        "state": said.state,
        "grants": said.grants,
        "lapses": said.lapses,
        "waiters": said.waiters,
    }
    facts["attempt"] = said.attempt
    if isinstance(said, Free) or said.state in ("free", "ready", "on-hold", "failed"):
        return facts
    before = said.previous
    return facts | {
        "fence": said.fence,
        "ref": said.holder.ref,
        "label": said.holder.label or "",
        "note": said.note or "",
        "mine": said.mine,
        "ttl": said.ttl,
        "expires_in": said.expires_in,
        "stale": said.stale,
        "previous": before and (before.outcome, before.holder.ref, before.note or ""),
    }


def loss_said(loss: Loss) -> tuple[Any, ...]:
    by = loss.by.label or "" if loss.by else ""
    return loss.task, loss.fence, loss.reason, by, loss.note or ""


def said(outcome: object) -> tuple[str, Any, list[Any]]:
    """Return an outcome in the model's form: (answer, facts, lost)."""
    lost = sorted(loss_said(loss) for loss in getattr(outcome, "lost", ()))
    return (*(_said_of_the_list(outcome) or _said(outcome)), lost)


def _said_of_the_list(outcome: object) -> tuple[str, Any] | None:
    match outcome:
        case results.NothingReady(held, parked, review, blocked, on_hold, failed, cooling, wait):
            return "nothing", (held, parked, review, blocked, on_hold, failed, cooling, wait)
        case results.Waiting(limit, parked, review, failed):
            return "waiting", (limit, parked, review, failed)
        case results.Ambiguous(tasks):
            return "ambiguous", tasks
        case results.Unmatched():
            return "unknown", None
        case results.HeldBack(_, hold, already):
            return "held-back", (hold.by, hold.reason, already)
        case results.StillHeld(now):
            return "held", claim_said(now)
        case results.Written(changes):
            return "listed", list(changes)
        case results.Circle(path):
            return "cycle", list(path)
        case _:
            return None


def _said(outcome: object) -> tuple[str, Any]:
    match outcome:
        case results.Granted(claims, new):
            return "granted", (new, _all(claims))
        case results.Conflict(refusals):
            return "refused", [_refusal(refusal) for refusal in refusals]
        case results.OverQuota(whose):
            return "quota", whose
        case results.Full():
            return "full", None
        case results.Renewed(claims):
            return "kept", _all(claims)
        case results.NotMine(why, now, loss):
            return "not-mine", (why, claim_said(now), loss and loss_said(loss))
        case results.Ended(releases):
            return "ended", [(each.task, each.state, each.already) for each in releases]
        case results.Moved(now):
            return "moved", claim_said(now)
        case Claim() | Free():
            return "shown", claim_said(outcome)
        case other:
            raise ValueError(f"the model has no such outcome: {other}")


def _all(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    return [claim_said(claim) for claim in claims]


def _refusal(refusal: results.Refusal) -> dict[str, Any]:
    return {
        "verdict": refusal.reason,
        "claim": claim_said(refusal.claim),
        "retry_after": refusal.retry_after_s,
        "position": refusal.position,
    }
