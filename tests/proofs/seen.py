"""The model's claims as callers see them: the facts that decide something."""

from typing import TYPE_CHECKING

from tests.proofs.records import HELD, ModelLoss

if TYPE_CHECKING:
    from tests.proofs.queues import Queues
    from tests.proofs.tenures import Tenures

REF_CHARS = 10


def seconds(ms: int) -> int:
    """Return whole seconds, rounded up."""
    return -(-ms // 1000)


def state(model: "Tenures", task: str) -> str:
    tenure = model.known(task)
    overdue = bool(tenure and model.overdue(tenure))
    if tenure and tenure.state in (*HELD, "done") and not overdue:
        return tenure.state
    if model.on_hold(task):
        return "on-hold"
    if tenure and model.used_up(task, overdue):
        return "failed"
    if tenure and (overdue or tenure.state == "lapsed") and not model.aged(tenure):
        return "lapsed"
    return model.standing(task) or "free"


def task(model: "Queues", name: str) -> dict[str, object]:
    tenure = model.known(name)
    if not tenure:
        return {"task": name, "state": state(model, name)}
    seen = {
        "task": name,
        "state": state(model, name),
        "grants": tenure.grants,
        "lapses": tenure.lapses + model.overdue(tenure),
        "waiters": len(model.waiting(tenure)),
    }
    if seen["state"] in ("free", "ready", "blocked", "on-hold", "failed"):
        return seen | {"attempt": tenure.failures + model.overdue(tenure) + 1}
    before = tenure.previous
    return seen | {
        "fence": tenure.fence,
        "ref": tenure.owner[:REF_CHARS],
        "label": tenure.label,
        "note": tenure.note,
        "mine": tenure.owner == model.me,
        "ttl": tenure.ttl // 1000,
        "expires_in": max(0, seconds(model.deadline(tenure) - model.now))
        if seen["state"] != "done"
        else 0,
        "stale": seen["state"] == "held" and model.now - tenure.beat > tenure.ttl // 2,
        "attempt": tenure.failures + model.overdue(tenure) + 1,
        "previous": before and (before.outcome, before.owner[:REF_CHARS], before.note),
    }


def refusal(model: "Queues", name: str, verdict: str, until: int | None) -> dict[str, object]:
    tenure = model.tasks.get(name)
    sessions = [ticket.session for ticket in model.waiting(tenure)] if tenure else []
    return {
        "verdict": verdict,
        "claim": task(model, name),
        "retry_after": until and max(1, seconds(until - model.now)),
        "position": sessions.index(model.me) + 1 if model.me in sessions else None,
    }


def loss(one: ModelLoss) -> tuple[str, int, str, str, str]:
    return one.task, one.fence, one.reason, one.by, one.note
