"""claim: take a task, the first free of several, or all of several."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, assert_never

from pydantic import Field

from dibs import responses, results
from dibs.acts.act import Act, Call
from dibs.acts.holding import held, milliseconds, rate_limited
from dibs.acts.long_poll import until_granted
from dibs.acts.refusals import conflict, limited, nothing_ready, waiting
from dibs.characters import lower
from dibs.claims import Claims, OutOfBounds
from dibs.confusables import skeleton
from dibs.model import Claim, Project, Session
from dibs.model import Task as Name
from dibs.requests import (
    Branch,
    Duration,
    Errors,
    Label,
    Note,
    Pr,
    Request,
    Tag,
    Task,
    Tasks,
    Url,
    fault,
    has,
    only,
)
from dibs.responses import Reply
from dibs.store import Store, Unwilling
from dibs.store.records import ReplyDecoder, seconds
from dibs.store.scripts import Declaration

WAIT_MOST_S = 25
"""The longest wait in seconds: proxies on the way may give up on a longer request."""
_TRUE = (True, "true", "1", 1)
PLACE_CHARS = 12
"""Characters of the keyed hash of an address, by which its claims are counted. The store keeps
nothing else of an address."""
_TASKS = ("task", "any_of", "all_of")
_CHOICES = ", ".join((*_TASKS, "next"))
_NO = {"const": False}

Result = (
    results.Granted
    | results.Conflict
    | results.NothingReady
    | results.Waiting
    | results.OverQuota
    | results.Full
    | results.RateLimited
)


class ClaimRequest(Request):
    """POST claim: one of task, any_of, all_of, next."""

    task: Task | None = Field(None, description="Take this task …")
    any_of: Tasks | None = Field(
        None,
        description="… or the first of these that is free, in this order …",
    )
    all_of: Tasks | None = Field(None, description="… or all of these, or none …")
    next: bool = Field(
        False,
        description="… or the next ready task of the list. Exactly one of the four.",
    )
    tag: Tag | None = Field(None, description="With `next`: the first task with this tag.")
    ttl: Duration | None = Field(
        None,
        description="How long the claim lasts without a heartbeat.",
    )
    note: Note = Field("", description="A note; shown to others.")
    label: Label = Field("", description="A name for the session; shown to others.")
    branch: Branch = Field("", description="The branch of the work; shown to others.")
    url: Url = Field("", description="A page about the work, for people; shown to others.")
    pr: Pr = Field(
        "",
        description="The pull request of the work; kept in lower case, without query, fragment, "
        "trailing slash, or anything after its number (`/files`).",
    )
    queue: bool = Field(
        False,
        description="With `task` or `any_of`: if it is held, take a place in its queue, or in the "
        "queue of each. Ask again within 5 min to keep the place.",
    )
    wait: Duration = Field(
        0,
        description="Up to 25 s: if the claim is refused, hold the request until a task is free, "
        "for at most this long. The service answers at once if too many clients already wait "
        "or listen. A client that hangs up meanwhile is granted nothing.",
    )
    reopen: bool = Field(False, description="Take the task even if it is done or failed.")

    @classmethod
    def also(cls, given: dict[str, Any]) -> Errors:
        """See Request."""
        named = [name for name in _TASKS if given.get(name) is not None]
        if given.get("next") in _TRUE:
            named.append("next")
        if not named:
            return [fault("task", f"Name what to claim with one of {_CHOICES}.")]
        if len(named) > 1:
            return [fault(named[1], f"Use only one of {_CHOICES}, not {' and '.join(named)}.")]
        if given.get("tag") is not None and "next" not in named:
            return [fault("tag", "tag works only with next: true; else leave it out.")]
        if given.get("queue") in _TRUE and named[0] not in ("task", "any_of"):
            return [fault("queue", "queue works only with task or any_of; else leave it out.")]
        return []

    @classmethod
    def together(cls) -> dict[str, Any]:
        """See Request."""
        choices = [only(name, _TASKS) for name in _TASKS]
        for choice in choices:
            choice["properties"] |= {"next": _NO, "tag": {"type": "null"}}
        following: dict[str, Any] = {"required": ["next"], "properties": {"next": {"const": True}}}
        following["not"] = {"anyOf": [has(name) for name in _TASKS]}
        choices.append(following)
        for choice in choices[2:]:
            choice["properties"]["queue"] = _NO
        return {"oneOf": choices}

    @property
    def mode(self) -> str:
        """The mode of claim.lua: one, any, all or next."""
        return "any" if self.any_of else "all" if self.all_of else "next" if self.next else "one"

    @property
    def tasks(self) -> tuple[Name, ...]:
        """The named tasks, in the caller's order."""
        return self.any_of or self.all_of or ((self.task,) if self.task else ())


class Arguments(NamedTuple):
    """The arguments of claim.lua; the tasks follow."""

    mode: str
    tag: str
    ttl_ms: str
    reopen: str
    queue: str
    closed: str
    address_hash: str
    label: str
    branch: str
    url: str
    note: str
    pr: str


SCRIPT = Declaration(
    "claim", Arguments, rates="claiming", several="tasks", lasting="granted", often=True
)


async def run(claims: Claims, call: Call[ClaimRequest]) -> Result:
    """Claim; while the claim is refused and `wait` is not over, try again after events.

    If the limit for waiting clients is reached, the result is that of a claim without `wait`.
    """
    request, project = call.request, call.project
    claims.check_ttl(request.ttl)
    if request.wait > WAIT_MOST_S:
        raise OutOfBounds("wait", f"wait is at most {WAIT_MOST_S} s; to wait longer, claim again.")
    counted = call.claimant.address or str(call.session)
    if not request.wait or not claims.streams.has_room(project, counted):
        return await take(claims.store, call)
    # All tries share one request id, so that the last one repeats losses that an earlier reported.
    call.key = call.key or claims.store.new_request()
    with claims.streams.one(project, counted):
        return await until_granted(
            *(claims, project, request.tasks, request.wait),
            lambda: take(claims.store, call),
            call.has_hung_up,
        )


async def take(store: Store, call: Call[ClaimRequest]) -> Result:
    """Claim once, without waiting.

    An address that has to wait is granted nothing new. Raises StoreDown, also if the store is
    unsafe and the claim would be new.
    """
    project, claimant, unsafe = call.project, call.claimant, store.unsafe
    waits = bool(claimant.wait_s)
    if not (store.knows(project) or await store.make_known(project, closed=waits)):
        if unsafe:
            raise Unwilling(unsafe)
        return (
            results.RateLimited("address", claimant.wait_s)
            if waits
            else results.Full(why=store.room())
        )
    arguments = _arguments(store, call)
    tag, read, rest = await store.run(SCRIPT, project, call.session, arguments, call.key)
    match tag:
        case "rate-limited":
            return rate_limited(read, rest)
        case "address":
            return results.RateLimited("address", claimant.wait_s, unsure=read.unsure)
        case "unsafe":
            raise Unwilling(store.unsafe or unsafe, sent=read.unsure)
        case _:
            return _result(store, project, tag, read, rest)


def _arguments(store: Store, call: Call[ClaimRequest]) -> Callable[[], tuple[str, ...]]:
    """Return a function that makes the arguments, called after a check that may close the store."""
    request, address = call.request, call.claimant.address
    address_hash = store.hashed(Session(address))[:PLACE_CHARS] if address else ""
    tasks = _with_likeness(request.tasks, call.project)
    waits = "address" if call.claimant.wait_s else ""

    def made() -> tuple[str, ...]:
        own = Arguments(
            request.mode,
            request.tag or "",
            milliseconds(request.ttl),
            "1" if request.reopen else "",
            "1" if request.queue else "",
            store.closed() or waits,
            address_hash,
            request.label,
            request.branch,
            request.url,
            request.note,
            request.pr,
        )
        return (*own, *tasks)

    return made


def _result(
    store: Store, project: Project, tag: str, read: ReplyDecoder, rest: list[Any]
) -> Result:
    """Return the result of a script that decided on the tasks."""
    lost = tuple(map(read.loss, rest[0]))
    match tag:
        case "granted":
            return results.Granted(
                tuple(held(read.claim(view)) for view in rest[2:]), int(rest[1]), lost
            )
        case "refused":
            refusals = tuple(read.refusal(*refusal) for refusal in rest[1:])
            for refusal in refusals:
                if isinstance(refusal.claim, Claim):
                    store.collisions.avoided(project, read.session, refusal.claim)
            return results.Conflict(refusals, lost, unsure=read.unsure)
        case "nothing":
            free_in_ms, *counts = rest[1:]
            wait_s = max(1, seconds(int(free_in_ms))) if free_in_ms else None
            held_, parked, review, blocked, on_hold, failed, cooling = map(int, counts)
            return results.NothingReady(
                held=held_,
                parked=parked,
                review=review,
                blocked=blocked,
                on_hold=on_hold,
                failed=failed,
                cooling=cooling,
                retry_after_s=wait_s,
                lost=lost,
                unsure=read.unsure,
            )
        case "waiting":
            limit, parked, review, failed = map(int, rest[1:])
            return results.Waiting(limit, parked, review, failed, lost, unsure=read.unsure)
        case "full":
            return results.Full(lost, store.room(), unsure=read.unsure)
        case _:
            return results.OverQuota(rest[1], int(rest[2]), lost, unsure=read.unsure)


def _with_likeness(tasks: Sequence[Name], project: Project) -> list[str]:
    """Return each task followed by its skeleton, '' if that is the name in lower case."""
    arguments: list[str] = []
    for task in tasks:
        like = skeleton(task, project)
        arguments += task, "" if like == lower(task) else like
    return arguments


def answer(result: Result, request: ClaimRequest) -> Reply:
    """Return the answer to a claim, or raise its problem."""
    match result:
        case results.Granted(claims, new, lost):
            status = 201 if new else 200
            if request.all_of:
                ordered = sorted(claims, key=lambda claim: request.tasks.index(claim.task))
                return responses.ok({"claims": ordered}, lost, status)
            return responses.ok(claims[0], lost, status)
        case results.Conflict():
            one = request.task is not None or request.next
            raise conflict(result, one=one, every=request.all_of is not None)
        case results.NothingReady():
            raise nothing_ready(result)
        case results.Waiting():
            raise waiting(result)
        case results.OverQuota() | results.Full() | results.RateLimited():
            raise limited(result)
        case never:
            assert_never(never)


ACT = Act(
    name="claim",
    path="claim",
    summary="Take a task, the first free one of any_of, all of all_of, or the next of the list.",
    request=ClaimRequest,
    success={200: ("Claim", "Claims"), 201: ("Claim", "Claims")},
    problems=(
        "bad-session",
        "held",
        "cooling",
        "done",
        "blocked",
        "on-hold",
        "failed",
        "nothing-ready",
        "quota",
        "full",
    ),
    run=run,
    answer=answer,
    by_address=True,
    commands=("next", "claim"),
)
