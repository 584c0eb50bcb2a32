"""The problems of refused acts: a task that is not free and the reason, or a limit."""

from typing import Any

import msgspec

from dibs import messages, responses, results
from dibs.model import Claim, Free
from dibs.problems import ProblemError

_CODES = {
    "held": "held",
    "reserved": "held",
    "cooling": "cooling",
    "done": "done",
    "blocked": "blocked",
    "on-hold": "on-hold",
    "failed": "failed",
}


def nothing_ready(result: results.NothingReady) -> ProblemError:
    """Return the problem of a claim with `next` when no task is ready."""
    counts = {
        "held": result.held,
        "parked": result.parked,
        "review": result.review,
        "blocked": result.blocked,
        "on_hold": result.on_hold,
        "failed": result.failed,
        "cooling": result.cooling,
    }
    return responses.problem(
        "nothing-ready",
        messages.nothing_ready(result),
        result,
        retry_after=result.retry_after_s,
        counts=counts,
        **responses.losses(result.lost),
    )


def waiting(result: results.Waiting) -> ProblemError:
    """Return the problem of a claim with `next` while too many tasks wait for people."""
    return responses.problem(
        "quota",
        messages.waiting(result),
        result,
        whose="waiting",
        limit=result.limit,
        counts={"parked": result.parked, "review": result.review, "failed": result.failed},
        **responses.losses(result.lost),
    )


def limited(result: results.OverQuota | results.Full | results.RateLimited) -> ProblemError:
    """Return the problem of an act that exceeds a limit."""
    match result:
        case results.RateLimited():
            return responses.rate_limited(result)
        case results.Full(lost, why):
            detail = why or messages.NO_ROOM
            return responses.problem("full", detail, result, **responses.losses(lost))
        case results.OverQuota(whose, limit, lost):
            facts = {"whose": whose, "limit": limit, **responses.losses(lost)}
            return responses.problem("quota", messages.quota(result), result, **facts)


def conflict(result: results.Conflict, *, one: bool, every: bool) -> ProblemError:
    """Return the problem of a refused claim: of `one` task, of `every` named task, or of any."""
    refusals, lost = result.refusals, result.lost
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
                "code": _CODES[refusal.reason],
                "retry_after": refusal.retry_after_s,
                "claim": _without_queue(refusal.claim),
                **({"queue": _queue(refusal)} if refusal.position else {}),
            }
            for refusal in refusals
        ]
    code = _CODES[first.reason]
    facts.update(responses.losses(lost))
    return responses.problem(code, detail, result, retry_after=retry_after, **facts)


def _reasons(refusal: results.Refusal) -> dict[str, Any]:
    """Return the facts of a refusal beyond the claim: unmet needs, a hold, or failed tenures."""
    match refusal.reason:
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
    """Return a claim without its queue, for a list of conflicts.

    32 queues of 100 tickets would be a megabyte.
    """
    if isinstance(claim, Free):
        return responses.builtin(claim)
    return responses.builtin(msgspec.structs.replace(claim, queue=()))


def _queue(refusal: results.Refusal) -> dict[str, int | None]:
    """Return the caller's place, and the seconds until its turn if each before it uses a ttl."""
    position, claim = refusal.position or 1, refusal.claim
    ttl = claim.ttl if isinstance(claim, Claim) else 0
    wait = (refusal.retry_after_s or 0) + (position - 1) * ttl
    return {"position": position, "length": claim.waiters, "expected_wait": wait}
