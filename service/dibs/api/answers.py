"""From what an act came to, to the answer that is sent."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, assert_never

import msgspec

from dibs import outcomes as o
from dibs.api import sentences, wire
from dibs.api.problems import ProblemError
from dibs.claims import Wish
from dibs.words import Claim, Fence, Free, Loss, Task

Answer = wire.Reply
LISTED_NOTE_CHARS = 300
_CODES = {"held": "held", "turn": "held", "cooling": "cooling", "done": "done"}


def ok(value: object, lost: Sequence[Loss] = (), status: int = 200) -> Answer:
    """Answer with `value`, and with what the session lost lately."""
    return wire.Reply(wire.with_losses(value, lost), wire.JSON, status)


def wants(headers: Mapping[str, str], media_type: str) -> bool:
    """Say if a caller names `media_type` and does not name JSON before it."""
    named = [part.split(";")[0].strip().lower() for part in headers.get("accept", "").split(",")]
    if media_type not in named:
        return False
    return wire.JSON not in named or named.index(media_type) < named.index(wire.JSON)


def claimed(
    outcome: o.Granted | o.Contended | o.OverQuota | o.NoRoom | o.RateLimited, wish: Wish
) -> Answer:
    """Answer a claim."""
    match outcome:
        case o.Granted(claims, new, lost):
            status = 201 if new else 200
            if wish.mode == "all":
                ordered = sorted(claims, key=lambda claim: wish.tasks.index(claim.task))
                return ok({"claims": ordered}, lost, status)
            return ok(claims[0], lost, status)
        case o.Contended():
            raise _contended(outcome, wish)
        case o.OverQuota(whose, limit, lost):
            facts = {"whose": whose, "limit": limit, **_losses(lost)}
            raise _problem("quota", sentences.quota(outcome), outcome, **facts)
        case o.NoRoom(lost, why):
            raise _problem("full", why or sentences.NO_ROOM, outcome, **_losses(lost))
        case o.RateLimited():
            raise rate_limited(outcome)
        case never:
            assert_never(never)


def kept(
    outcome: o.Kept | o.NotMine | o.RateLimited, task: Task | None, fence: Fence | None
) -> Answer:
    """Answer a heartbeat."""
    match outcome:
        case o.Kept(claims, lost):
            if task is not None:
                return ok(claims[0], lost)
            return ok({"claims": claims, "lost": lost})
        case o.NotMine():
            raise _not_mine(outcome, task, fence)
        case o.RateLimited():
            raise rate_limited(outcome)
        case never:
            assert_never(never)


def ended(
    outcome: o.Ended | o.NotMine | o.RateLimited, task: Task | None, fence: Fence | None
) -> Answer:
    """Answer a release."""
    match outcome:
        case o.Ended(releases, lost):
            return ok({"released": releases} if task is None else releases[0], lost)
        case o.NotMine():
            raise _not_mine(outcome, task, fence)
        case o.RateLimited():
            raise rate_limited(outcome)
        case never:
            assert_never(never)


def broken(outcome: o.Ended | o.Moved, fence: Fence) -> Answer:
    """Answer a break."""
    match outcome:
        case o.Ended(releases):
            return ok(releases[0])
        case o.Moved(now):
            detail = sentences.moved(now, fence)
            raise _problem("fence-moved", detail, outcome, claim=wire.builtin(now))
        case never:
            assert_never(never)


def listed(page: o.Page, *, plain: bool) -> Answer:
    """Answer a list."""
    if plain:
        text = wire.table(page.claims) + "".join(map(sentences.damaged_line, page.damaged))
        if page.cursor:
            text += f"More: ask again with cursor={page.cursor}\n"
        return wire.Reply(text.encode(), wire.TEXT)
    now = datetime.now(UTC).replace(microsecond=0)
    claims = [*map(_in_a_list, page.claims)]
    damaged = {"damaged": page.damaged} if page.damaged else {}
    rest = {"seq": page.seq, "cursor": page.cursor, "server_time": now}
    return ok({"claims": claims, **rest, **damaged})


def _in_a_list(claim: Claim) -> Claim:
    """Return a claim as a list tells it: of a long note its beginning."""
    if claim.note is None or len(claim.note) <= LISTED_NOTE_CHARS:
        return claim
    return msgspec.structs.replace(claim, note=claim.note[: LISTED_NOTE_CHARS - 1] + "…")


def shown(shown: Claim | Free, fence: Fence | None) -> Answer:
    """Answer for one task."""
    if fence is None:
        return ok(shown)
    # A lapsed claim may still be revived, but its holder must not build on that: not current.
    live = isinstance(shown, Claim) and shown.state in ("held", "parked", "done")
    current = live and isinstance(shown, Claim) and shown.fence == fence
    return ok({**wire.builtin(shown), "current": current})


def rate_limited(outcome: o.RateLimited) -> ProblemError:
    """Say when to ask again."""
    return _problem(
        "rate-limited",
        sentences.rate_limited(outcome),
        outcome,
        retry_after=outcome.retry_after_s,
        whose=outcome.whose,
    )


def _not_mine(outcome: o.NotMine, task: Task | None, fence: Fence | None) -> ProblemError:
    facts: dict[str, Any] = {"task": task, "claim": wire.builtin(outcome.now)}
    if outcome.loss:
        loss = wire.builtin(outcome.loss)
        facts.update(reason=loss["reason"], by=loss["by"], at=loss["at"], note=loss["note"])
    code = "lost" if outcome.loss else "not-holder"
    detail = sentences.not_mine(outcome, str(task), fence)
    return _problem(code, detail, outcome, **facts, **_losses(outcome.lost))


def _problem(code: str, detail: str, outcome: o.Negative, **facts: Any) -> ProblemError:
    """Say no, and whether an earlier try of the same call may have been a yes."""
    if outcome.unsure:
        return ProblemError(code, f"{detail} {sentences.UNSURE}", outcome="unknown", **facts)
    return ProblemError(code, detail, **facts)


def _contended(outcome: o.Contended, wish: Wish) -> ProblemError:
    refusals, lost = outcome.refusals, outcome.lost
    waits = [refusal.retry_after_s for refusal in refusals]
    known = [wait for wait in waits if wait is not None]
    if wish.mode == "all":
        retry_after = max(known) if len(known) == len(waits) else None
    else:
        retry_after = min(known, default=None)
    first = refusals[0]
    facts: dict[str, Any] = {"task": first.claim.task, "claim": wire.builtin(first.claim)}
    if wish.mode == "one":
        detail = sentences.refused(first)
        if first.position is not None:
            facts["queue"] = _queue(first)
    else:
        detail = " ".join(sentences.refused(refusal) for refusal in refusals[:3])
        facts["conflicts"] = [
            {
                "task": refusal.claim.task,
                "code": _CODES[refusal.verdict],
                "retry_after": refusal.retry_after_s,
                "claim": _without_queue(refusal.claim),
            }
            for refusal in refusals
        ]
    code = _CODES[first.verdict]
    facts.update(_losses(lost))
    return _problem(code, detail, outcome, retry_after=retry_after, **facts)


def _without_queue(claim: Claim) -> Any:
    """Return a claim as one of many conflicts tells it: 32 queues of 100 would be a megabyte."""
    return wire.builtin(msgspec.structs.replace(claim, queue=()))


def _queue(refusal: o.Refusal) -> dict[str, int | None]:
    """Our place, and how long it may take if everybody before us uses a whole ttl."""
    position, claim = refusal.position or 1, refusal.claim
    wait = (refusal.retry_after_s or 0) + (position - 1) * claim.ttl
    return {"position": position, "length": claim.waiters, "expected_wait": wait}


def _losses(lost: Sequence[Loss]) -> dict[str, Any]:
    return {"lost": wire.builtin(lost)} if lost else {}
