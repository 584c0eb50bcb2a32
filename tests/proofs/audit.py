"""Whether what lies in the store is what the model remembers: every record, index and event."""

import json
import math
from typing import Any

import redis
from tests.proofs.model import Model
from tests.proofs.records import HELD, Tenure

from dibs.store import Rules

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
        expected = self.expected(model)
        assert found == expected, differences(found, expected)
        self._check_events(model)

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
            kind, _, rest = name.partition(":")
            if kind == "task":
                found[name] = task_facts(json.loads(value))
            elif kind == "lost":
                losses = [json.loads(text) for text in value.values()]
                found[name] = sorted(
                    (loss["task"], int(loss["fence"]), loss["reason"], "open" in loss)
                    for loss in losses
                )
            elif kind == "queue":
                tickets = [(*map(int, text.split(" ")[:3]), who) for who, text in value.items()]
                found[name] = [(joined, until, who) for _, joined, until, who in sorted(tickets)]
            elif kind == "held" or kind in ("live", "lapsed", "done", "parked", "ended"):
                found[name] = sorted(value)
            elif kind == "endings" or name in ("queued", "losers"):
                found[name] = set(value)
            elif name == "meta":
                found["fence"] = int(value.get("fence", 0))
                self._check_sums(value)
            elif kind not in ("events", "avoided"):  # the latter counts what people are shown
                found[name] = f"a key that nobody asked for: {rest}"
        return found

    def _check_sums(self, meta: dict[str, str]) -> None:
        """What META says that records and events weigh is what they weigh one by one."""
        keys = self.raw.keys(glob_free(self.prefix + "task:") + "*")
        names = [key.removeprefix(self.prefix + "task:") for key in keys]
        sizes = [len(self.raw.get(key).encode()) for key in keys]
        weighed = sum(
            s + 5 * len(name.encode()) + 300 for name, s in zip(names, sizes, strict=True)
        )
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
        expected: dict[str, Any] = {}
        if model.epoch:
            expected["fence"] = model.fence
        indexes = {"live": HELD, "parked": ("parked",), "lapsed": ("lapsed",), "done": ("done",)}
        indexes["ended"] = ("released", "abandoned", "broken")
        for index, states in indexes.items():
            if names := sorted(name for name, t in model.tasks.items() if t.state in states):
                expected[index] = names
        if model.endings:
            expected["endings"] = {f"{fence} {who} {task}" for fence, who, task in model.endings}
        for name, tenure in model.tasks.items():
            expected[f"task:{name}"] = tenure_facts(tenure)
            if tenure.state in HELD:
                expected.setdefault(f"held:{tenure.owner}", []).append(name)
            if tenure.queue:
                expected[f"queue:{name}"] = [(t.joined, t.until, t.session) for t in tenure.queue]
        for session, losses in model.losses.items():
            if losses:
                expected[f"lost:{session}"] = sorted(
                    (loss.task, loss.fence, loss.reason, loss.open) for loss in losses.values()
                )
        return {key: sorted(v) if key.startswith("held:") else v for key, v in expected.items()}

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
    if kind == "task":
        pipeline.get(key)
    elif kind in ("lost", "queue", "meta"):
        pipeline.hgetall(key)
    elif kind in ("live", "lapsed", "done", "ended", "endings", "losers"):
        pipeline.zrange(key, 0, -1)
    elif kind in ("held", "parked", "queued"):
        pipeline.smembers(key)
    else:
        pipeline.type(key)


def task_facts(rec: dict[str, str]) -> dict[str, Any]:
    numbers = ("fence", "ttl", "due", "since", "beat")
    facts: dict[str, Any] = {name: int(rec[name]) for name in numbers}
    facts |= {"state": rec["state"], "owner": rec["owner"], "lapses": int(rec.get("lapses", 0))}
    facts |= {"label": rec.get("label", ""), "note": rec.get("note", "")}
    facts["grants"] = int(rec.get("grants", 1))
    return facts | {"ended": int(rec.get("ended", 0)), "turns_from": int(rec.get("turns_from", 0))}


def tenure_facts(tenure: Tenure) -> dict[str, Any]:
    names = "fence ttl due since beat grants state owner lapses label note ended turns_from"
    return {name: getattr(tenure, name) for name in names.split()}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    keys = [k for k in sorted({*found, *expected}) if found.get(k) != expected.get(k)]
    lines = [f"{key}\n  store: {found.get(key)}\n  model: {expected.get(key)}" for key in keys]
    return "the store and the contract differ in\n" + "\n".join(lines)
