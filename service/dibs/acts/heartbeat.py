"""heartbeat: extend the deadline of one claim, or of all claims of the session."""

from typing import Any, Literal, NamedTuple, assert_never

from pydantic import Field

from dibs import responses, results
from dibs.acts.act import Act, Call
from dibs.acts.holding import held, milliseconds, refusal, refused
from dibs.claims import Claims
from dibs.requests import Duration, Errors, Fence, Note, Pr, Request, Task, fault, has, says
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.scripts import Declaration

Result = results.Renewed | results.NotMine | results.RateLimited


class HeartbeatRequest(Request):
    """POST heartbeat: no field is required; without `task` it covers all claims of the session."""

    task: Task | None = Field(
        None,
        description="One claim; without it, every claim of the session (an empty body is enough).",
    )
    fence: Fence | None = Field(
        None,
        description="With `task`: the fence of the claim. A program always sends it.",
    )
    ttl: Duration | None = Field(None, description="A new ttl.")
    state: Literal["working", "parked", "review"] | None = Field(
        None,
        description="`parked`: wait for a person, for `ttl` or 4 h. `working`: work again, with "
        "a deadline of now + ttl even if the parked one was later. `review`, with "
        "`task` and `pr`: wait for the verdict on a pull request, for 7 days.",
    )
    note: Note = Field("", description="A new note.")
    pr: Pr = Field("", description="With `task`: the pull request, as in a claim.")

    @classmethod
    def also(cls, given: dict[str, Any]) -> Errors:
        """See Request."""
        if given.get("fence") is not None and given.get("task") is None:
            return [fault("fence", "A fence belongs to one task: name the task as well.")]
        if given.get("pr") and given.get("task") is None:
            return [fault("pr", "A pull request belongs to one task: name the task as well.")]
        if given.get("state") == "review" and not (given.get("task") and given.get("pr")):
            return [fault("state", "state review needs both task and pr: send them as well.")]
        return []

    @classmethod
    def together(cls) -> dict[str, Any]:
        """See Request."""
        of_all = {"state": {"enum": ["working", "parked", None]}, "pr": {"const": ""}}
        of_one = {"anyOf": [{"properties": {"state": of_all["state"]}}, says("pr")]}
        return {
            "anyOf": [{"not": has("fence"), "properties": of_all}, {"allOf": [has("task"), of_one]}]
        }


class Arguments(NamedTuple):
    """The arguments of heartbeat.lua."""

    task: str
    fence: str
    ttl_ms: str
    state: str
    note: str
    pr: str


SCRIPT = Declaration("heartbeat", Arguments, rates="holding", often=True)


async def run(claims: Claims, call: Call[HeartbeatRequest]) -> Result:
    """Extend one claim, or all of the session's."""
    claims.check_ttl(call.request.ttl)
    return await beat(claims.store, call)


async def beat(store: Store, call: Call[HeartbeatRequest]) -> Result:
    """Extend without a check of the ttl. Raises StoreDown."""
    request = call.request
    arguments = Arguments(
        request.task or "",
        str(request.fence or ""),
        milliseconds(request.ttl),
        request.state or "",
        request.note,
        request.pr,
    )
    tag, read, rest = await store.run(SCRIPT, call.project, call.session, arguments, call.key)
    if no := refused(tag, read, rest, call.project, request.task):
        return no
    claims = tuple(held(read.claim(view)) for view in rest[1:])
    return results.Renewed(claims, tuple(map(read.loss, rest[0])))


def answer(result: Result, request: HeartbeatRequest) -> Reply:
    """Return the answer to a heartbeat, or raise its problem."""
    match result:
        case results.Renewed(claims, lost):
            if request.task is not None:
                return responses.ok(claims[0], lost)
            return responses.ok({"claims": claims, "lost": lost})
        case results.NotMine() | results.RateLimited():
            raise refusal(result, request.task, request.fence)
        case never:
            assert_never(never)


ACT = Act(
    name="heartbeat",
    path="heartbeat",
    summary="Extend one claim, or (without task) all claims of the session.",
    request=HeartbeatRequest,
    success={200: ("Claim", "Claims")},
    problems=("bad-session", "not-holder", "lost"),
    run=run,
    answer=answer,
    commands=("beat", "park", "review"),
)
