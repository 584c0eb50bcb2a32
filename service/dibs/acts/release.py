"""release: end one claim of the session, or all of them; or leave a task's queue."""

from typing import Any, Literal, NamedTuple, assert_never

from pydantic import Field

from dibs import responses, results
from dibs.acts.act import Act, Call
from dibs.acts.holding import refusal, refused, releases
from dibs.claims import Claims
from dibs.requests import Errors, Fence, Note, Pr, Request, Task, fault, has
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.scripts import Declaration

Result = results.Ended | results.NotMine | results.RateLimited


class ReleaseRequest(Request):
    """POST release: a task, or all."""

    task: Task | None = Field(None, description="One claim …")
    all: bool = Field(False, description="… or every live claim of the session.")
    fence: Fence | None = Field(None, description="With `task`: the fence of the claim.")
    outcome: Literal["released", "abandoned", "done"] = Field(
        "released",
        description="`done` leaves a tombstone for 90 days.",
    )
    note: Note = Field("", description="A note; shown to others.")
    pr: Pr = Field(
        "",
        description="With `done`: the pull request that proves it. While it is open, put the claim "
        "in `review` instead: the task is done when the pull request is merged.",
    )

    @classmethod
    def also(cls, given: dict[str, Any]) -> Errors:
        """See Request."""
        everything = given.get("all") in (True, "true", "1", 1)
        if (given.get("task") is None) is not everything:
            return [fault("task", "Send either a task or all: true.")]
        if everything and given.get("fence") is not None:
            return [fault("fence", "A fence belongs to one task: leave it out with all: true.")]
        return []

    @classmethod
    def together(cls) -> dict[str, Any]:
        """See Request."""
        everything = {"properties": {"all": {"const": True}}, "required": ["all"]}
        return {
            "oneOf": [
                {"allOf": [has("task"), {"properties": {"all": {"const": False}}}]},
                {**everything, "not": {"anyOf": [has("task"), has("fence")]}},
            ]
        }


class Arguments(NamedTuple):
    """The arguments of release.lua."""

    task: str
    fence: str
    outcome: str
    note: str
    pr: str


SCRIPT = Declaration("release", Arguments, rates="holding", lasting="ended", often=True)


async def run(claims: Claims, call: Call[ReleaseRequest]) -> Result:
    """End one claim, or all claims of the session."""
    return await end(claims.store, call)


async def end(store: Store, call: Call[ReleaseRequest]) -> Result:
    """See run. Raises StoreDown."""
    request = call.request
    arguments = Arguments(
        request.task or "", str(request.fence or ""), request.outcome, request.note, request.pr
    )
    tag, read, rest = await store.run(SCRIPT, call.project, call.session, arguments, call.key)
    if no := refused(tag, read, rest, call.project, request.task):
        return no
    return results.Ended(releases(rest[1:]), tuple(map(read.loss, rest[0])))


def answer(result: Result, request: ReleaseRequest) -> Reply:
    """Return the answer to a release, or raise its problem."""
    match result:
        case results.Ended(ended, lost):
            return responses.ok({"released": ended} if request.task is None else ended[0], lost)
        case results.NotMine() | results.RateLimited():
            raise refusal(result, request.task, request.fence)
        case never:
            assert_never(never)


ACT = Act(
    name="release",
    path="release",
    summary="End one claim, or all; or leave a queue.",
    request=ReleaseRequest,
    success={200: ("Release", "Releases")},
    problems=("bad-session", "not-holder", "lost"),
    run=run,
    answer=answer,
    commands=("release", "done"),
)
