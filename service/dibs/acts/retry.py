"""retry: a person with an admin key lets a task be tried again that failed, or that was done."""

from typing import NamedTuple, assert_never

from dibs import decision_messages, responses
from dibs import results as o
from dibs.acts.act import Act, Call
from dibs.acts.holding import releases, shown
from dibs.acts.people import NOBODY, Reason, moved
from dibs.claims import Claims
from dibs.requests import Fence, Request, Task
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.scripts import Declaration

Outcome = o.Ended | o.Moved | o.StillHeld


class RetryRequest(Request):
    """POST retry: a task, and the fence of its last tenure, where that must not have changed."""

    task: Task
    fence: Fence | None = None
    reason: Reason


class Arguments(NamedTuple):
    """The arguments of retry.lua."""

    task: str
    fence: str
    reason: str
    by: str


SCRIPT = Declaration("retry", Arguments, rates="none", lasting="ended")


async def run(claims: Claims, call: Call[RetryRequest]) -> Outcome:
    """Let a task be tried again."""
    return await again(claims.store, call)


async def again(store: Store, call: Call[RetryRequest]) -> Outcome:
    """See run. Raises StoreDown."""
    request, project = call.request, call.project
    arguments = Arguments(request.task, str(request.fence or ""), request.reason, call.by or NOBODY)
    tag, read, rest = await store.run(SCRIPT, project, None, arguments, call.key)
    match tag:
        case "moved":
            return o.Moved(shown(read, project, request.task, rest[1]), unsure=read.unsure)
        case "held":
            return o.StillHeld(shown(read, project, request.task, rest[1]), unsure=read.unsure)
        case _:
            return o.Ended(releases(rest[1:]))


def answer(outcome: Outcome, request: RetryRequest) -> Reply:
    """Answer a retry."""
    match outcome:
        case o.Ended(ended):
            return responses.ok(ended[0])
        case o.Moved():
            raise moved(outcome, request.fence)
        case o.StillHeld(now):
            facts = {"task": request.task, "claim": responses.builtin(now)}
            raise responses.problem("held", decision_messages.still_held(now), outcome, **facts)
        case never:
            assert_never(never)


ACT = Act(
    name="retry",
    path="retry",
    summary="A person lets a failed or done task be tried again; requires an admin key.",
    request=RetryRequest,
    success={200: ("Release",)},
    problems=("forbidden", "fence-moved", "held"),
    caller="admin",
    run=run,
    answer=answer,
)
