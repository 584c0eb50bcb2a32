"""Shared by acts: claims in a script's reply, and the refusals of heartbeat and release."""

from collections.abc import Sequence
from typing import Any

from dibs import messages, responses, results
from dibs.model import Claim, Fence, Free, Project, Task
from dibs.problems import ProblemError
from dibs.store.records import ReplyDecoder, seconds


def shown(read: ReplyDecoder, project: Project, task: Task, view: str) -> Claim | Free:
    """Return a task from a view in a script's reply; '' is an unknown task."""
    return read.claim(view) if view else Free.unknown(project, task)


def held(claim: Claim | Free) -> Claim:
    """Return a task that a script returned as a claim. Raises TypeError if it is free."""
    if isinstance(claim, Free):
        raise TypeError(f"the store listed {claim.task!r} as a claim, but it is free")
    return claim


def releases(rows: Sequence[Sequence[str]]) -> tuple[results.Release, ...]:
    """Return the ended claims in a script's reply."""
    return tuple(
        results.Release(Task(task), state, already == "1") for task, state, already in rows
    )


def rate_limited(read: ReplyDecoder, rest: list[Any]) -> results.RateLimited:
    """Return whose rate is used up, and for how long."""
    return results.RateLimited(rest[1], max(1, seconds(int(rest[0]))), unsure=read.unsure)


def not_mine(
    read: ReplyDecoder, project: Project, task: Task | None, rest: list[Any]
) -> results.NotMine:
    """Return why the session does not hold a task."""
    told, view, why, loss = rest
    now = shown(read, project, task or Task(""), view)
    known = read.loss(loss) if loss else None
    return results.NotMine(why, now, known, tuple(map(read.loss, told)), unsure=read.unsure)


def refused(
    tag: str, read: ReplyDecoder, rest: list[Any], project: Project, task: Task | None
) -> results.NotMine | results.RateLimited | None:
    """Return why a script refused an act of a holder; None if it did not."""
    if tag == "rate-limited":
        return rate_limited(read, rest)
    return not_mine(read, project, task, rest) if tag == "not-mine" else None


def milliseconds(span_s: int | None) -> str:
    """Return a span in ms as an argument of a script, '' for none."""
    return "" if span_s is None else str(span_s * 1000)


def refusal(
    result: results.NotMine | results.RateLimited, task: Task | None, fence: Fence | None
) -> ProblemError:
    """Return the problem of a session that does not hold the task, or that calls too often."""
    if isinstance(result, results.RateLimited):
        return responses.rate_limited(result)
    facts: dict[str, Any] = {"task": task, "claim": responses.builtin(result.now)}
    if result.loss:
        loss = responses.builtin(result.loss)
        facts.update(reason=loss["reason"], by=loss["by"], at=loss["at"], note=loss["note"])
    code = "lost" if result.loss else "not-holder"
    detail = messages.not_mine(result, str(task), fence)
    return responses.problem(code, detail, result, **facts, **responses.losses(result.lost))
