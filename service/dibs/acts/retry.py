"""retry: a person with an admin key lets a failed or done task be tried again."""

from typing import NamedTuple, assert_never

from pydantic import Field

from dibs import decision_messages, responses, results
from dibs.acts.act import Act, Call
from dibs.acts.holding import releases, shown
from dibs.acts.people import NOBODY, Reason, moved
from dibs.claims import Claims
from dibs.requests import Fence, Request, Task
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.scripts import Declaration

Result = results.Ended | results.Moved | results.StillHeld


class RetryRequest(Request):
    """POST retry: a task, and the fence of its last tenure if that must not have changed."""

    task: Task = Field(description="The task to try again.")
    fence: Fence | None = Field(
        None,
        description="The fence of its last tenure; any other is `fence-moved`.",
    )
    reason: Reason = Field(description="The reason; shown with the event.")


class Arguments(NamedTuple):
    """The arguments of retry.lua."""

    task: str
    fence: str
    reason: str
    by: str


SCRIPT = Declaration("retry", Arguments, rates="none", lasting="ended")


async def run(claims: Claims, call: Call[RetryRequest]) -> Result:
    """Let a task be tried again."""
    return await again(claims.store, call)


async def again(store: Store, call: Call[RetryRequest]) -> Result:
    """See run. Raises StoreDown."""
    request, project = call.request, call.project
    arguments = Arguments(request.task, str(request.fence or ""), request.reason, call.by or NOBODY)
    tag, read, rest = await store.run(SCRIPT, project, None, arguments, call.key)
    match tag:
        case "moved":
            return results.Moved(shown(read, project, request.task, rest[1]), unsure=read.unsure)
        case "held":
            return results.StillHeld(
                shown(read, project, request.task, rest[1]), unsure=read.unsure
            )
        case _:
            return results.Ended(releases(rest[1:]))


def answer(result: Result, request: RetryRequest) -> Reply:
    """Return the answer to a retry, or raise its problem."""
    match result:
        case results.Ended(ended):
            return responses.ok(ended[0])
        case results.Moved():
            raise moved(result, request.fence)
        case results.StillHeld(now):
            facts = {"task": request.task, "claim": responses.builtin(now)}
            raise responses.problem("held", decision_messages.still_held(now), result, **facts)
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
