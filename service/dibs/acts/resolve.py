"""resolve: CI, the forge or a person reports how the pull request of a task ended."""

from typing import Annotated, Any, Literal, NamedTuple, assert_never

from pydantic import Field

from dibs import decision_messages, model, responses, results
from dibs.acts.act import Act, Call
from dibs.acts.holding import releases, shown
from dibs.claims import Claims
from dibs.requests import (
    LINE,
    Branch,
    Errors,
    Fence,
    Note,
    Pr,
    Request,
    Task,
    as_schema,
    fault,
    limited_text,
    says,
)
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.scripts import Declaration

Result = results.Ended | results.Moved | results.Ambiguous | results.Unmatched
NOBODY = "ci"
"""The name of a caller that gives none."""
_WAYS = ("task", "pr", "branch")


class ResolveRequest(Request):
    """POST resolve: a task, or the pull request or branch that it is on."""

    task: Task | None = Field(
        None,
        description="The task. A caller that does not know its name sends `pr` or `branch`.",
    )
    pr: Pr = Field(
        "",
        description="The pull request of the task. With `task`, a verdict on another pull request "
        "than the task's is `fence-moved`.",
    )
    branch: Branch = Field(
        "",
        description="The branch that the task was claimed with. At least one of the three is "
        "required; `pr` is tried before `branch`.",
    )
    fence: Fence | None = Field(
        None,
        description="The fence of the latest tenure; any other is `fence-moved`.",
    )
    outcome: Literal["merged", "rejected"] = Field(
        description="`merged`: the task is done. `rejected`: it is free (or ready), and one "
        "attempt is used up.",
    )
    note: Note = Field("", description="The reason; shown to the next holder and the author.")
    sha: Annotated[
        str, limited_text("sha", 64), as_schema(type="string", maxLength=64, pattern=LINE)
    ] = Field(
        "",
        description="The merge commit.",
    )

    @classmethod
    def also(cls, given: dict[str, Any]) -> Errors:
        """See Request."""
        if not any(given.get(name) for name in _WAYS):
            return [fault("task", "Name the task, its pull request (pr) or its branch.")]
        return []

    @classmethod
    def together(cls) -> dict[str, Any]:
        """See Request."""
        return {"anyOf": [says(name) for name in _WAYS]}


class Arguments(NamedTuple):
    """The arguments of resolve.lua."""

    task: str
    pr: str
    branch: str
    fence: str
    outcome: str
    note: str
    sha: str
    by: str


SCRIPT = Declaration("resolve", Arguments, rates="none", lasting="ended")


async def run(claims: Claims, call: Call[ResolveRequest]) -> Result:
    """Record the verdict on a claim, in review or not."""
    return await end(claims.store, call, call.request.outcome)


async def end(store: Store, call: Call[ResolveRequest], outcome: str) -> Result:
    """See run; the outcome `opened` puts the task into review. Raises StoreDown."""
    request, project = call.request, call.project
    arguments = Arguments(
        request.task or "",
        request.pr,
        request.branch,
        str(request.fence or ""),
        outcome,
        request.note,
        request.sha,
        call.by or NOBODY,
    )
    tag, read, rest = await store.run(SCRIPT, project, None, arguments, call.key)
    match tag:
        case "moved":
            now = shown(read, project, request.task or model.Task(""), rest[1])
            return results.Moved(now, unsure=read.unsure)
        case "ambiguous":
            return results.Ambiguous(tuple(map(model.Task, rest[1:])), unsure=read.unsure)
        case "unknown":
            return results.Unmatched(unsure=read.unsure)
        case _:
            return results.Ended(releases(rest[1:]))


def answer(result: Result, request: ResolveRequest) -> Reply:
    """Return the answer to a resolve, or raise its problem."""
    match result:
        case results.Ended(ended):
            return responses.ok(ended[0])
        case results.Moved(now):
            detail = decision_messages.newer(now, request.fence)
            raise responses.problem("fence-moved", detail, result, claim=responses.builtin(now))
        case results.Ambiguous(tasks):
            detail = decision_messages.ambiguous(tasks)
            raise responses.problem("ambiguous", detail, result, tasks=list(tasks))
        case results.Unmatched():
            asked = request.task or request.pr or request.branch
            raise responses.problem("unmatched", decision_messages.unmatched(asked), result)
        case never:
            assert_never(never)


ACT = Act(
    name="resolve",
    path="resolve",
    summary="Report how the pull request of a task ended; requires a key for CI or an admin key.",
    request=ResolveRequest,
    success={200: ("Release",)},
    problems=("forbidden", "fence-moved", "ambiguous", "unmatched"),
    caller="ci",
    run=run,
    answer=answer,
)
