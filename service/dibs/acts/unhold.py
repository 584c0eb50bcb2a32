"""unhold: a person with an admin key lets a task, or the project, be claimed again."""

from typing import NamedTuple

from pydantic import Field

from dibs import responses, results
from dibs.acts.act import Act, Call
from dibs.acts.people import NOBODY, Reason
from dibs.claims import Claims
from dibs.requests import Request, Task
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.scripts import Declaration


class UnholdRequest(Request):
    """POST unhold: a task, or none for the project."""

    task: Task | None = Field(None, description="The task; without it the whole project.")
    reason: Reason = Field(description="The reason; shown with the event.")


class Arguments(NamedTuple):
    """The arguments of unhold.lua."""

    task: str
    reason: str
    by: str


SCRIPT = Declaration("unhold", Arguments, rates="none", lasting="ended")


async def run(claims: Claims, call: Call[UnholdRequest]) -> results.Ended:
    """End the hold on a task or the project."""
    return await unhold(claims.store, call)


async def unhold(store: Store, call: Call[UnholdRequest]) -> results.Ended:
    """See run. Raises StoreDown."""
    request = call.request
    arguments = Arguments(request.task or "", request.reason, call.by or NOBODY)
    _, _, rest = await store.run(SCRIPT, call.project, None, arguments, call.key)
    _, state, already = rest[1]
    return results.Ended((results.Release(request.task, state or None, already == "1"),))


def answer(result: results.Ended, request: UnholdRequest) -> Reply:
    """Return the answer to an unhold."""
    return responses.ok(result.releases[0])


ACT = Act(
    name="unhold",
    path="unhold",
    summary="A person lets a task, or the project, be claimed again; requires an admin key.",
    request=UnholdRequest,
    success={200: ("Release",)},
    problems=("forbidden",),
    caller="admin",
    run=run,
    answer=answer,
)
