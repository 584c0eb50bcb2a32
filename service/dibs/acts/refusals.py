"""The problems of what is refused: which task stands in the way and why, or which limit."""

from typing import Any

import msgspec

from dibs import messages, responses
from dibs import results as o
from dibs.model import Claim, Free
from dibs.problems import ProblemError

_CODES = {
    "held": "held",
    "turn": "held",
    "cooling": "cooling",
    "done": "done",
    "blocked": "blocked",
    "on-hold": "on-hold",
    "failed": "failed",
}


def nothing_ready(outcome: o.NothingReady) -> ProblemError:
    """Return the problem of a claim of the next where there is none."""
    counts = {
        "held": outcome.held,
        "parked": outcome.parked,
        "review": outcome.review,
        "blocked": outcome.blocked,
        "on_hold": outcome.on_hold,
        "failed": outcome.failed,
        "cooling": outcome.cooling,
    }
    return responses.problem(
        "nothing-ready",
        messages.nothing_ready(outcome),
        outcome,
        retry_after=outcome.retry_after_s,
        counts=counts,
        **responses.losses(outcome.lost),
    )


def waiting(outcome: o.Waiting) -> ProblemError:
    """Return the problem of a claim of the next while too much waits for people."""
    return responses.problem(
        "quota",
        messages.waiting(outcome),
        outcome,
        whose="waiting",
        limit=outcome.limit,
        counts={"parked": outcome.parked, "review": outcome.review, "failed": outcome.failed},
        **responses.losses(outcome.lost),
    )


def limited(outcome: o.OverQuota | o.NoRoom | o.RateLimited) -> ProblemError:
    """Return the problem of an act that a limit stands in the way of."""
    match outcome:
        case o.RateLimited():
            return responses.rate_limited(outcome)
        case o.NoRoom(lost, why):
            detail = why or messages.NO_ROOM
            return responses.problem("full", detail, outcome, **responses.losses(lost))
        case o.OverQuota(whose, limit, lost):
            facts = {"whose": whose, "limit": limit, **responses.losses(lost)}
            return responses.problem("quota", messages.quota(outcome), outcome, **facts)


def contended(outcome: o.Conflict, *, one: bool, every: bool) -> ProblemError:
    """Return the problem of a claim that was refused: of `one`, of `every`, or of any."""
    refusals, lost = outcome.refusals, outcome.lost
    waits = [refusal.retry_after_s for refusal in refusals]
    known = [wait for wait in waits if wait is not None]
    if every:
        retry_after = max(known) if len(known) == len(waits) else None
    else:
        retry_after = min(known, default=None)
    first = refusals[0]
    facts: dict[str, Any] = {"task": first.claim.task, "claim": responses.builtin(first.claim)}
    if one:
        detail = messages.refused(first)
        facts |= _reasons(first)
        if first.position is not None:
            facts["queue"] = _queue(first)
    else:
        detail = " ".join(messages.refused(refusal) for refusal in refusals[:3])
        facts["conflicts"] = [
            {
                "task": refusal.claim.task,
                "code": _CODES[refusal.verdict],
                "retry_after": refusal.retry_after_s,
                "claim": _without_queue(refusal.claim),
                **({"queue": _queue(refusal)} if refusal.position else {}),
            }
            for refusal in refusals
        ]
    code = _CODES[first.verdict]
    facts.update(responses.losses(lost))
    return responses.problem(code, detail, outcome, retry_after=retry_after, **facts)


def _reasons(refusal: o.Refusal) -> dict[str, Any]:
    """Return the facts of a refusal that is about more than who has the task."""
    match refusal.verdict:
        case "blocked":
            return {"needs": responses.builtin(refusal.needs)}
        case "on-hold":
            return {"of": refusal.of, "hold": responses.builtin(refusal.hold)}
        case "failed":
            tenures = responses.builtin(refusal.tenures)
            return {"attempts": refusal.claim.attempt - 1, "tenures": tenures}
        case _:
            return {}


def _without_queue(claim: Claim | Free) -> Any:
    """Return a claim as one of many conflicts tells it: 32 queues of 100 would be a megabyte."""
    if isinstance(claim, Free):
        return responses.builtin(claim)
    return responses.builtin(msgspec.structs.replace(claim, queue=()))


def _queue(refusal: o.Refusal) -> dict[str, int | None]:
    """Our place, and how long it may take if everybody before us uses a whole ttl."""
    position, claim = refusal.position or 1, refusal.claim
    ttl = claim.ttl if isinstance(claim, Claim) else 0
    wait = (refusal.retry_after_s or 0) + (position - 1) * ttl
    return {"position": position, "length": claim.waiters, "expected_wait": wait}
