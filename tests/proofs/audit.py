"""Whether what lies in the store is what the model remembers: every record, index and event."""

import json
import math
from typing import Any

import redis
from tests.proofs.facts import FACTS, hold_facts, strange, tenure_facts
from tests.proofs.records import HELD, ModelTenure
from tests.proofs.reference_model import Model

from dibs.store import Rules

META = ("fence", "epoch")
"""Numbers of META that are 0 where there is none."""
LEAST_EVENT = math.ceil(Rules().event_bytes / Rules().events_kept)
"""What an event counts for at least, in bytes."""


class Audit:
    """Reads one project's keys as they are."""

    def __init__(self, raw: redis.Redis, project: str) -> None:
        self.raw: Any = raw  # it answers text; its types allow for bytes too
        self.prefix = "dibs:{" + project + "}:"
        self.last_event = "-"
        self.told = 0

    def check(self, model: Model) -> None:
        """Fail on any difference."""
        found = self.read()
        counted, losers = found.pop("queued", set()), found.pop("losers", set())
        waited_for = {name for name, tenure in model.tasks.items() if tenure.queue}
        assert waited_for <= counted, f"nobody looks at the queues of {waited_for - counted}"
        lost = {session for session, losses in model.losses.items() if losses}
        assert lost <= losers, f"nobody looks at what {lost - losers} lost"
        self._learn_epoch(model, found.get("epoch", 0))
        expected = self.expected(model)
        self._check_history(model, found)
        self._leave_out_the_old(model, found, expected)
        assert found == expected, differences(found, expected)
        self._check_events(model)

    @staticmethod
    def _learn_epoch(model: Model, epoch: int) -> None:
        """Of a project that a list or a hold began the model knows the millisecond, as an answer
        says it; the script the microsecond, and which fence is from before."""
        if 0 < epoch - model.epoch < 1000:
            model.epoch = epoch

    @staticmethod
    def _check_history(model: Model, found: dict[str, Any]) -> None:
        """It names all that lies in it, by when that ended, and of what is still a record no more
        than its ended tenure: all of them that no index by their ends has."""
        history = found.pop("history", {})
        lies = {
            f"{past.fence} {task}": past.ended
            for task, pasts in model.history.items()
            for past in pasts
        }
        records = {f"{tenure.fence} {task}": tenure for task, tenure in model.tasks.items()}
        assert lies.items() <= history.items(), f"{lies} lies there, and {history} is known"
        # What is past its time stays there until the sweep, also where a claim dropped it before.
        timely = {m for m, ended in history.items() if ended + model.rules.history_ms > model.now}
        assert timely - lies.keys() <= records.keys(), f"{history} is kept, of {records}"
        indexed = {name for index in ("lapsed", "done", "ended") for name in found.get(index, [])}
        for member, tenure in records.items():
            task = member.partition(" ")[2]
            kept = tenure.ended + model.rules.history_ms > model.now
            if tenure.state not in HELD and task not in indexed and kept:
                assert history.get(member) == tenure.ended, f"{member} is in no index"

    @staticmethod
    def _leave_out_the_old(model: Model, *facts: dict[str, Any]) -> None:
        """What is kept beyond its retention, because it is listed or on hold, is found there: the
        sweep takes it out of the indexes by its end, and an act may put it back."""
        kept = {*model.entries, *model.holds} & set(model.tasks)
        old = {task for task in kept if model.aged(model.tasks[task])}
        for each in facts:
            for index in ("lapsed", "done", "ended"):
                if names := [name for name in each.pop(index, []) if name not in old]:
                    each[index] = names

    def left(self) -> set[str]:
        """The kinds of keys that there are of the project."""
        keys = self.raw.keys(glob_free(self.prefix) + "*")
        kinds = {key.removeprefix(self.prefix).partition(":")[0] for key in keys}
        return kinds - {"avoided"}

    def begin_anew(self, model: Model) -> None:
        """The events of a project that is gone went with it."""
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
            elif kind not in ("events", "avoided"):  # the latter counts what people are shown
                found[name] = FACTS.get(kind, strange)(value)
        return {name: value for name, value in found.items() if value or name not in META}

    def _check_sums(self, meta: dict[str, str]) -> None:
        """What META says that records and events weigh is what they weigh one by one."""
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
        assert records == weighed, f"records weigh {weighed}, not {records}"
        told = 0
        for _, fields in self.raw.xrange(self.prefix + "events"):
            size = sum(len(name.encode()) + len(text.encode()) for name, text in fields.items())
            told += max(size + 64, LEAST_EVENT)
        assert events == told, f"events weigh {told}, not {events}"

    def _check_lives(self, keys: list[str]) -> None:
        """A store may throw away, before its time, whatever has a life of its own."""
        pipeline = self.raw.pipeline(transaction=False)
        for key in keys:
            pipeline.pttl(key)
        mortal = [key for key, ms in zip(keys, pipeline.execute(), strict=True) if ms >= 0]
        mortal = [key for key in mortal if ":avoided:" not in key]
        assert not mortal, f"a store that evicts what has a life of its own would take {mortal}"

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
        """By its branch and pull request, and those of the tenure before, a task is found."""
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
        """What waits for them, and what they keep back."""
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
        """The stream has each transition once: the ones since the last check, in any order."""
        start = "-" if self.last_event == "-" else "(" + self.last_event
        entries = self.raw.xrange(self.prefix + "events", start, "+")
        told = sorted((e["type"], e["task"], e["ref"], int(e["fence"])) for _, e in entries)
        expected = sorted((k, task, who[:10], f) for k, task, who, f in model.events[self.told :])
        assert told == expected, f"events: the store told {told}, the contract says {expected}"
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
