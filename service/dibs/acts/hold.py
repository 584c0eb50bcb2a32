"""hold: a person with an admin key keeps a task, or the whole project, from being claimed."""

from typing import NamedTuple, assert_never

from pydantic import ConfigDict, Field

from dibs import responses, results
from dibs.acts.act import Act, Call
from dibs.acts.people import NOBODY, Reason, UntilField
from dibs.claims import Claims
from dibs.problems import invalid
from dibs.requests import Request, Task, fault
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.scripts import Declaration

Result = results.HeldBack | results.UntilPassed


class HoldRequest(Request):
    """POST hold: a task, or none for the project."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    task: Task | None = Field(None, description="The task; without it the whole project.")
    reason: Reason = Field(description="The reason; shown to sessions that are refused.")
    until: UntilField | None = Field(
        None,
        description="When the hold ends: `2h`, or `2026-12-24T18:00:00Z`; without it, when a "
        "person ends it.",
    )


class Arguments(NamedTuple):
    """The arguments of hold.lua."""

    task: str
    reason: str
    by: str
    for_ms: str
    until_ms: str


SCRIPT = Declaration("hold", Arguments, rates="none", lasting="held-back")


async def run(claims: Claims, call: Call[HoldRequest]) -> Result:
    """Put a task or the project on hold."""
    return await keep(claims.store, call)


async def keep(store: Store, call: Call[HoldRequest]) -> Result:
    """See run. Raises StoreDown."""
    request, project = call.request, call.project
    if not store.knows(project):
        # A store that takes nothing new may not list the project; the script sets the hold anyway.
        await store.make_known(project, closed=False)
    until = request.until
    for_ms, at_ms = (until.for_ms, until.at_ms) if until else (None, None)
    arguments = Arguments(
        request.task or "",
        request.reason,
        call.by or NOBODY,
        "" if for_ms is None else str(for_ms),
        "" if at_ms is None else str(at_ms),
    )
    tag, read, rest = await store.run(SCRIPT, project, None, arguments, call.key)
    if tag == "past":
        return results.UntilPassed(unsure=read.unsure)
    return results.HeldBack(request.task, read.hold(rest[1]), already=rest[2] == "1")


def answer(result: Result, request: HoldRequest) -> Reply:
    """Return the answer to a hold, or raise its problem."""
    match result:
        case results.HeldBack(task, hold, already):
            told = {"task": task, "hold": responses.builtin(hold), "already": already}
            return responses.ok(told)
        case results.UntilPassed():
            raise invalid([fault("until", "until must be in the future; nothing was put on hold.")])
        case never:
            assert_never(never)


ACT = Act(
    name="hold",
    path="hold",
    summary="A person keeps a task, or the project, from being claimed; requires an admin key.",
    request=HoldRequest,
    success={200: ("HeldBack",)},
    problems=("forbidden",),
    caller="admin",
    run=run,
    answer=answer,
)
