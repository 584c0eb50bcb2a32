"""Compare the store's records, indexes and events with the model's."""

import json
import math
from typing import Any

import redis
from tests.proofs.facts import FACTS, hold_facts, strange, tenure_facts
from tests.proofs.records import HELD, ModelTenure
from tests.proofs.reference_model import Model

from dibs.store import Rules

META = ("fence", "epoch")
"""Fields of META that count as 0 if absent."""
LEAST_EVENT = math.ceil(Rules().event_bytes / Rules().events_kept)
"""The bytes that one event counts for at least."""


class Audit:
    """A reader of one project's raw keys."""

    def __init__(self, raw: redis.Redis, project: str) -> None:
        self.raw: Any = raw  # it decodes to text; its types allow for bytes too
        self.prefix = "dibs:{" + project + "}:"
        self.last_event = "-"
        self.told = 0

    def check(self, model: Model) -> None:
        """Raise AssertionError at any difference."""
        found = self.read()
        counted, losers = found.pop("queued", set()), found.pop("losers", set())
        waited_for = {name for name, tenure in model.tasks.items() if tenure.queue}
        assert waited_for <= counted, f"no sweep would visit the queues of {waited_for - counted}"
        lost = {session for session, losses in model.losses.items() if losses}
        assert lost <= losers, f"no sweep would visit the losses of {lost - losers}"
        self._learn_epoch(model, found.get("epoch", 0))
        expected = self.expected(model)
        self._check_history(model, found)
        self._leave_out_the_old(model, found, expected)
        assert found == expected, differences(found, expected)
        self._check_events(model)

    @staticmethod
    def _learn_epoch(model: Model, epoch: int) -> None:
        """Adopt the store's epoch for a project that a list or a hold began: an act's reply has
        only milliseconds, the script took microseconds."""
        if 0 < epoch - model.epoch < 1000:
            model.epoch = epoch

    @staticmethod
    def _check_history(model: Model, found: dict[str, Any]) -> None:
        """Check the index of the history: every archived tenure by its end, and otherwise only
        tenures of current records, among them each ended one that no other index by end has."""
        history = found.pop("history", {})
        lies = {
            f"{past.fence} {task}": past.ended
            for task, pasts in model.history.items()
            for past in pasts
        }
        records = {f"{tenure.fence} {task}": tenure for task, tenure in model.tasks.items()}
        assert lies.items() <= history.items(), f"the archive has {lies}, its index {history}"
        # An expired tenure stays in the index until a sweep, even if a claim dropped it before.
        timely = {m for m, ended in history.items() if ended + model.rules.history_ms > model.now}
        assert timely - lies.keys() <= records.keys(), (
            f"the index has {history}, the records are {records}"
        )
        indexed = {name for index in ("lapsed", "done", "ended") for name in found.get(index, [])}
        for member, tenure in records.items():
            task = member.partition(" ")[2]
            kept = tenure.ended + model.rules.history_ms > model.now
            if tenure.state not in HELD and task not in indexed and kept:
                assert history.get(member) == tenure.ended, f"{member} is in no index"

    @staticmethod
    def _leave_out_the_old(model: Model, *facts: dict[str, Any]) -> None:
        """Drop from both sides, in the indexes by end, the tasks that outlive their retention
        because they are listed or on hold: a sweep removes them there, and an act may put them
        back."""
        kept = {*model.entries, *model.holds} & set(model.tasks)
        old = {task for task in kept if model.aged(model.tasks[task])}
        for each in facts:
            for index in ("lapsed", "done", "ended"):
                if names := [name for name in each.pop(index, []) if name not in old]:
                    each[index] = names

    def left(self) -> set[str]:
        """Return the kinds of keys that the project has."""
        keys = self.raw.keys(glob_free(self.prefix) + "*")
        kinds = {key.removeprefix(self.prefix).partition(":")[0] for key in keys}
        return kinds - {"avoided"}

    def begin_anew(self, model: Model) -> None:
        """Expect no events of a deleted project: its stream was deleted too."""
        self.told, self.last_event = len(model.events), "-"

    def read(self) -> dict[str, Any]:
        keys = sorted(self.raw.keys(glob_free(self.prefix) + "*"))
        pipeline = self.raw.pipeline(transaction=False)
        for key in keys:
            read_key(pipeline, key.removeprefix(self.prefix), key)
        values = dict(zip(keys, pipeline.execute(), strict=True))
        self._check_lives(keys)
        found: dict[str, Any] = {}
        for key, value in values.items():
            name = key.removeprefix(self.prefix)
            kind = name.partition(":")[0]
            if name == "meta":
                found["fence"] = int(value.get("fence", 0))
                found["epoch"] = int(value.get("epoch", 0))
                if "hold" in value:
                    found["hold"] = hold_facts(json.loads(value["hold"]))
                self._check_sums(value)
            elif kind not in ("events", "avoided"):  # "avoided" is a counter for people
                found[name] = FACTS.get(kind, strange)(value)
        return {name: value for name, value in found.items() if value or name not in META}

    def _check_sums(self, meta: dict[str, str]) -> None:
        """Check that META's sums of bytes are those of all records and of all events."""
        keys = self.raw.keys(glob_free(self.prefix + "task:") + "*")
        names = [key.removeprefix(self.prefix + "task:") for key in keys]
        sizes = [len(self.raw.get(key).encode()) for key in keys]
        weighed = sum(
            s + 5 * len(name.encode()) + 300 for name, s in zip(names, sizes, strict=True)
        )
        for key in self.raw.keys(glob_free(self.prefix + "tenures:") + "*"):
            more = 3 * len(key.removeprefix(self.prefix + "tenures:").encode()) + 300
            weighed += sum(len(each.encode()) + more for each in self.raw.lrange(key, 0, -1))
        for kind in ("listing", "text"):
            for key in self.raw.keys(glob_free(self.prefix + kind + ":") + "*"):
                weighed += len(self.raw.get(key).encode())
        listed = self.raw.zrange(self.prefix + "listed", 0, -1)
        weighed += sum(200 + 5 * len(task.encode()) for task in listed)
        for kind in ("branch", "pr"):
            prefix = f"{self.prefix}{kind}:"
            for key in self.raw.keys(glob_free(prefix) + "*"):
                size = len(key.removeprefix(prefix).encode()) + 100
                weighed += sum(size + len(task.encode()) for task in self.raw.smembers(key))
        records, events, _ = map(int, meta["weighs"].split())
        assert records == weighed, f"records have {weighed} bytes, not {records}"
        told = 0
        for _, fields in self.raw.xrange(self.prefix + "events"):
            size = sum(len(name.encode()) + len(text.encode()) for name, text in fields.items())
            told += max(size + 64, LEAST_EVENT)
        assert events == told, f"events have {told} bytes, not {events}"

    def _check_lives(self, keys: list[str]) -> None:
        """Check that no key has an expiry, since a store may evict a key that has one."""
        pipeline = self.raw.pipeline(transaction=False)
        for key in keys:
            pipeline.pttl(key)
        mortal = [key for key, ms in zip(keys, pipeline.execute(), strict=True) if ms >= 0]
        mortal = [key for key in mortal if ":avoided:" not in key]
        assert not mortal, f"a store that evicts keys with an expiry could evict {mortal}"

    def expected(self, model: Model) -> dict[str, Any]:
        known: dict[str, Any] = {name: getattr(model, name) for name in META if model.epoch}
        expected = {name: number for name, number in known.items() if number}
        indexes: dict[str, tuple[str, ...]] = {"live": HELD}
        indexes |= {state: (state,) for state in ("parked", "review", "lapsed", "done")}
        indexes["ended"] = ("released", "abandoned", "broken", "rejected", "retried")
        for index, states in indexes.items():
            if names := sorted(name for name, t in model.tasks.items() if t.state in states):
                expected[index] = names
        if model.endings:
            expected["endings"] = {f"{fence} {who} {task}" for fence, who, task in model.endings}
        expected |= self.expected_of_the_list(model) | self.expected_of_people(model)
        for name, tenure in model.tasks.items():
            expected[f"task:{name}"] = tenure_facts(tenure) | listed(model, name)
            if tenure.state in HELD:
                expected.setdefault(f"held:{tenure.owner}", []).append(name)
            if tenure.queue:
                expected[f"queue:{name}"] = [(t.joined, t.until, t.session) for t in tenure.queue]
            self.add_faces(expected, name, tenure)
        for session, losses in model.losses.items():
            if losses:
                expected[f"lost:{session}"] = sorted(
                    (loss.task, loss.fence, loss.reason, loss.open) for loss in losses.values()
                )
        sets = ("held:", "branch:", "pr:")
        return {key: sorted(v) if key.startswith(sets) else v for key, v in expected.items()}

    @staticmethod
    def add_faces(expected: dict[str, Any], name: str, tenure: ModelTenure) -> None:
        """Add the task to the indexes of its latest two tenures' branches and pull requests."""
        for field in ("branch", "pr"):
            tenures = [each for each in (tenure, tenure.previous) if each]
            for value in {getattr(each, field) for each in tenures} - {""}:
                expected.setdefault(f"{field}:{value}", []).append(name)

    def expected_of_the_list(self, model: Model) -> dict[str, Any]:
        expected: dict[str, Any] = {}
        every = sorted(
            model.entries, key=lambda t: (model.entries[t].priority, model.entries[t].order)
        )
        lists = {"listed": every, "ready": model.in_order("ready")}
        lists["blocked"] = model.in_order("blocked")
        for task in lists["ready"]:
            for tag in model.entries[task].tags:
                lists.setdefault(f"ready:{tag}", []).append(task)
        expected |= {name: tasks for name, tasks in lists.items() if tasks}
        for task, entry in model.entries.items():
            expected[f"listing:{task}"] = entry
            expected[f"task:{task}"] = {"state": "new"} | listed(model, task)
            for need in entry.needs:
                expected.setdefault(f"needed:{need}", []).append(task)
        missing = {task: len(model.missing(task)) for task in model.entries if model.missing(task)}
        expected |= {"missing": missing} if missing else {}
        return {k: sorted(v) if k.startswith("needed:") else v for k, v in expected.items()}

    def expected_of_people(self, model: Model) -> dict[str, Any]:
        """Return the expected keys of failed tasks, holds and the history."""
        expected: dict[str, Any] = {}
        if failed := sorted(model.failed()):
            expected["failed"] = failed
        holds = {task: hold for task, hold in model.holds.items() if task}
        if holds:
            expected["holds"] = holds
            expected["on-hold"] = sorted(holds)
        if "" in model.holds:
            expected["hold"] = model.holds[""]
        for task in holds:
            expected[f"task:{task}"] = {"state": "new"} | listed(model, task)
        return expected | {f"tenures:{task}": past for task, past in model.history.items()}

    def _check_events(self, model: Model) -> None:
        """Check that the stream has each transition since the last check once, in any order."""
        start = "-" if self.last_event == "-" else "(" + self.last_event
        entries = self.raw.xrange(self.prefix + "events", start, "+")
        told = sorted((e["type"], e["task"], e["ref"], int(e["fence"])) for _, e in entries)
        expected = sorted((k, task, who[:10], f) for k, task, who, f in model.events[self.told :])
        assert told == expected, f"events: the store has {told}, the contract says {expected}"
        self.told = len(model.events)
        if entries:
            self.last_event = entries[-1][0]


def glob_free(text: str) -> str:
    return "".join(f"[{char}]" if char in "[]*?\\" else char for char in text)


def read_key(pipeline: Any, name: str, key: str) -> None:
    kind = name.partition(":")[0]
    if kind in ("task", "listing", "text"):
        pipeline.get(key)
    elif kind in ("lost", "queue", "meta", "missing", "holds"):
        pipeline.hgetall(key)
    elif kind in (
        "live",
        "lapsed",
        "done",
        "ended",
        "endings",
        "losers",
        "listed",
        "ready",
        "blocked",
        "failed",
        "on-hold",
    ):
        pipeline.zrange(key, 0, -1)
    elif kind == "history":
        pipeline.zrange(key, 0, -1, withscores=True)
    elif kind == "tenures":
        pipeline.lrange(key, 0, -1)
    elif kind in ("held", "parked", "review", "queued", "needed", "branch", "pr"):
        pipeline.smembers(key)
    else:
        pipeline.type(key)


def listed(model: Model, task: str) -> dict[str, Any]:
    entry, hold = model.entries.get(task), model.holds.get(task)
    return {
        "listed": "" if not entry else "dropped" if entry.dropped else "1",
        "most": entry.attempts if entry else 0,
        "hold": hold.until or 2**53 - 1 if hold else 0,
    }


def differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    keys = [k for k in sorted({*found, *expected}) if found.get(k) != expected.get(k)]
    lines = [f"{key}\n  store: {found.get(key)}\n  model: {expected.get(key)}" for key in keys]
    return "the store and the contract differ in\n" + "\n".join(lines)
