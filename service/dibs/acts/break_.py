"""break: a person with an admin key ends another session's claim, naming the fence they saw."""

from typing import NamedTuple, assert_never

from pydantic import Field

from dibs import responses, results
from dibs.acts.act import Act, Call
from dibs.acts.holding import releases, shown
from dibs.acts.people import NOBODY, Reason, moved
from dibs.claims import Claims
from dibs.problems import ProblemError
from dibs.requests import Fence, Request, Task
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.scripts import Declaration

Result = results.Ended | results.Moved


class BreakRequest(Request):
    """POST break: by a person with an admin key."""

    task: Task = Field(description="The task whose claim is ended.")
    fence: Fence | None = Field(
        None,
        description="The fence of the claim that you saw; without it the answer is "
        "`fence-required`.",
    )
    reason: Reason = Field(description="The reason; shown to the holder.")
    hold: bool = Field(
        False,
        description="Put the task on hold as well, so that nobody claims it at once.",
    )


class Arguments(NamedTuple):
    """The arguments of break.lua."""

    task: str
    fence: str
    reason: str
    by: str
    hold: str


SCRIPT = Declaration("break", Arguments, rates="none", lasting="ended")


async def run(claims: Claims, call: Call[BreakRequest]) -> Result:
    """End a claim. Raises ProblemError if no fence is named, and StoreDown."""
    if call.request.fence is None:
        raise ProblemError(
            "fence-required",
            f"Send the fence of the claim on {call.request.task} that you want to break, so that "
            "a newer claim is not broken by mistake.",
        )
    return await end(claims.store, call)


async def end(store: Store, call: Call[BreakRequest]) -> Result:
    """End a claim, if the named fence is still the current one. Raises StoreDown."""
    request = call.request
    arguments = Arguments(
        request.task,
        str(request.fence or ""),
        request.reason,
        call.by or NOBODY,
        "1" if request.hold else "",
    )
    tag, read, rest = await store.run(SCRIPT, call.project, None, arguments, call.key)
    if tag == "moved":
        return results.Moved(shown(read, call.project, request.task, rest[1]), unsure=read.unsure)
    return results.Ended(releases(rest[1:]))


def answer(result: Result, request: BreakRequest) -> Reply:
    """Return the answer to a break, or raise its problem."""
    match result:
        case results.Ended(ended):
            return responses.ok(ended[0])
        case results.Moved():
            raise moved(result, request.fence)
        case never:
            assert_never(never)


ACT = Act(
    name="break",
    path="break",
    summary="A person ends another session's claim; requires an admin key.",
    request=BreakRequest,
    success={200: ("Release",)},
    problems=("forbidden", "fence-required", "fence-moved"),
    caller="admin",
    run=run,
    answer=answer,
)
