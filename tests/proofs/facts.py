"""The store's raw values as facts that compare with the model's."""

import json
from typing import Any

from tests.proofs.lists import ModelEntry
from tests.proofs.records import ModelHold, ModelTenure, PastTenure


def losses_facts(value: dict[str, str]) -> list[Any]:
    losses = map(json.loads, value.values())
    return sorted((e["task"], int(e["fence"]), e["reason"], "open" in e) for e in losses)


def queue_facts(value: dict[str, str]) -> list[Any]:
    tickets = [(*map(int, text.split(" ")[:3]), who) for who, text in value.items()]
    return [(joined, until, who) for _, joined, until, who in sorted(tickets)]


def strange(value: Any) -> str:
    return f"an unexpected key: {value}"


def hold_facts(kept: dict[str, str]) -> ModelHold:
    until = kept.get("until_ms")
    return ModelHold(kept["by"], kept["reason"], int(until) if until else None, int(kept["at"]))


def tenures_facts(kept: list[str]) -> list[PastTenure]:
    return [past_of(json.loads(each)) for each in kept]


def past_of(kept: dict[str, str]) -> PastTenure:
    ended = int(kept["ended"])
    return PastTenure(
        fence=int(kept["fence"]),
        outcome=kept["outcome"],
        ended=ended,
        attempt=int(kept.get("attempt", 1)),
        held=int(kept.get("worked", ended - int(kept["since"]))),
        parked=int(kept.get("parked", 0)),
    )


def entry_facts(kept: dict[str, str]) -> ModelEntry:
    return ModelEntry(
        order=int(kept["order"]),
        title=kept.get("title", ""),
        priority=int(kept.get("priority", "2")),
        needs=tuple(filter(None, kept.get("needs", "").split("\n"))),
        tags=tuple(filter(None, kept.get("tags", "").split("\n"))),
        attempts=int(kept.get("attempts", 0)),
        dropped="dropped" in kept,
    )


def task_facts(rec: dict[str, str]) -> dict[str, Any]:
    list_facts = {"listed": rec.get("listed", ""), "most": int(rec.get("most", 0))}
    list_facts["hold"] = int(rec.get("hold", 0))
    if rec["state"] == "new":
        return {"state": "new"} | list_facts
    numbers = ("fence", "ttl", "due", "since", "beat")
    facts: dict[str, Any] = {name: int(rec[name]) for name in numbers}
    facts |= {"state": rec["state"], "owner": rec["owner"], "lapses": int(rec.get("lapses", 0))}
    facts |= {"label": rec.get("label", ""), "note": rec.get("note", "")}
    facts |= {"grants": int(rec.get("grants", 1)), "failures": int(rec.get("failures", 0))}
    facts |= list_facts | {"merged": "merged" in rec}
    facts |= {"open_until": int(rec.get("open_until", 0))}
    return facts | {"ended": int(rec.get("ended", 0)), "turns_from": int(rec.get("turns_from", 0))}


def tenure_facts(tenure: ModelTenure) -> dict[str, Any]:
    names = "fence ttl due since beat grants state owner lapses failures label note merged ended"
    names += " turns_from open_until"
    return {name: getattr(tenure, name) for name in names.split()}


FACTS: dict[str, Any] = {
    "task": lambda value: task_facts(json.loads(value)),
    "listing": lambda value: entry_facts(json.loads(value)),
    "holds": lambda value: {task: hold_facts(json.loads(kept)) for task, kept in value.items()},
    "tenures": tenures_facts,
    "history": lambda kept: {member: int(at) for member, at in kept},
    "lost": losses_facts,
    "queue": queue_facts,
    "missing": lambda value: {task: int(many) for task, many in value.items()},
    **dict.fromkeys(("listed", "ready", "blocked"), list),
    **dict.fromkeys(
        (
            "failed",
            "on-hold",
            "held",
            "live",
            "lapsed",
            "done",
            "parked",
            "ended",
            "needed",
            "branch",
            "pr",
            "review",
        ),
        sorted,
    ),
    **dict.fromkeys(("endings", "queued", "losers"), set),
}
