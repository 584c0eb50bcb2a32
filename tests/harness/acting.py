"""The acts for tests: called directly on a store, without HTTP."""

from collections.abc import Sequence
from typing import Any, Literal

from dibs import results
from dibs.acts import backlog as backlogs
from dibs.acts import break_ as breaking
from dibs.acts import claim as claiming
from dibs.acts import heartbeat as beating
from dibs.acts import history as historical
from dibs.acts import hold as holding
from dibs.acts import list_ as listing
from dibs.acts import release as releasing
from dibs.acts import resolve as resolving
from dibs.acts import retry as retrying
from dibs.acts import show as showing
from dibs.acts import task as one_task
from dibs.acts import tasks as writing
from dibs.acts import unhold as unholding
from dibs.acts.act import Call, Claimant
from dibs.model import Claim, Fence, Free, Project, Session, Task
from dibs.store import Store

list_ = listing.page


def asked(tasks: Sequence[str], *, mode: str = "one", **fields: Any) -> claiming.ClaimRequest:
    """Return the request of a claim, unchecked."""
    choices: dict[str, dict[str, Any]] = {
        "any": {"any_of": tuple(tasks)},
        "all": {"all_of": tuple(tasks)},
        "next": {"next": True},
    }
    named = choices.get(mode, {"task": next(iter(tasks), None)})
    if "ttl_s" in fields:
        fields["ttl"] = fields.pop("ttl_s")
    return claiming.ClaimRequest.model_construct(**named, **fields)


async def claim(
    store: Store,
    project: Any,
    session: Any,
    tasks: Sequence[str],
    *,
    request: str = "",
    address: str = "",
    address_waits_s: int = 0,
    **fields: Any,
) -> claiming.Result:
    """Claim once."""
    claimant = Claimant(address, address_waits_s)
    call = Call(Project(project), asked(tasks, **fields), Session(session), request, "", claimant)
    return await claiming.take(store, call)


async def heartbeat(
    store: Store,
    project: Any,
    session: Any,
    task: Any = None,
    fence: Fence | None = None,
    *,
    ttl_s: int | None = None,
    state: Literal["", "working", "parked", "review"] = "",
    note: str = "",
    pr: str = "",
    request: str = "",
) -> beating.Result:
    """Heartbeat for one claim, or for all."""
    body = beating.HeartbeatRequest.model_construct(
        task=task, fence=fence, ttl=ttl_s, state=state or None, note=note, pr=pr
    )
    return await beating.beat(store, Call(Project(project), body, Session(session), request))


async def release(
    store: Store,
    project: Any,
    session: Any,
    task: Any = None,
    fence: Fence | None = None,
    *,
    outcome: Literal["released", "abandoned", "done"] = "released",
    note: str = "",
    pr: str = "",
    request: str = "",
) -> releasing.Result:
    """Release one claim, or all."""
    body = releasing.ReleaseRequest.model_construct(
        task=task, fence=fence, outcome=outcome, note=note, pr=pr
    )
    return await releasing.end(store, Call(Project(project), body, Session(session), request))


async def show(
    store: Store, project: Any, task: Any, session: Session | None = None
) -> Claim | Free:
    """Return the claim on a task, or Free."""
    return await showing.look(store, Project(project), Task(task), session)


async def break_(
    store: Store,
    project: Any,
    task: Any,
    fence: Fence,
    *,
    reason: str,
    by: str,
    hold: bool = False,
) -> breaking.Result:
    """Break a claim, as a person."""
    body = breaking.BreakRequest.model_construct(task=task, fence=fence, reason=reason, hold=hold)
    return await breaking.end(store, Call(Project(project), body, by=by))


async def hold(
    store: Store, project: Any, task: Any = None, *, reason: str, by: str, until: Any = None
) -> holding.Result:
    """Put a task or the project on hold, as a person; the fields are checked."""
    body = holding.HoldRequest.of({"task": task, "reason": reason, "until": until}, [])
    return await holding.keep(store, Call(Project(project), body, by=by))


async def unhold(
    store: Store, project: Any, task: Any = None, *, reason: str, by: str
) -> results.Ended:
    """End a hold, as a person."""
    body = unholding.UnholdRequest.model_construct(task=task, reason=reason)
    return await unholding.unhold(store, Call(Project(project), body, by=by))


async def retry(
    store: Store, project: Any, task: Any, fence: Any = None, *, reason: str, by: str
) -> retrying.Result:
    """Let a failed or done task be claimed again, as a person."""
    body = retrying.RetryRequest.model_construct(task=task, fence=fence, reason=reason)
    return await retrying.again(store, Call(Project(project), body, by=by))


async def tasks(
    store: Store,
    project: Any,
    session: Any,
    entries: Sequence[dict[str, Any]],
    *,
    dry_run: bool = False,
    request: str = "",
) -> writing.Result:
    """Write the list; the fields are checked."""
    body = writing.TasksRequest.of({"tasks": list(entries), "dry_run": dry_run}, [])
    run = writing.write(store, Call(Project(project), body, Session(session), request))
    return await run


async def backlog(store: Store, project: Any, **query: Any) -> results.Backlog:
    """Return a page of the list."""
    return await backlogs.page(store, Project(project), None, backlogs.BacklogQuery.of(query, []))


async def task(store: Store, project: Any, name: str, session: Any = None) -> results.Whole:
    """Return one task with its needs and its dependents."""
    return await one_task.look(store, Project(project), Task(name), session)


async def history(store: Store, project: Any, **query: Any) -> results.History:
    """Return a page of the tenures that ended."""
    return await historical.page(store, Project(project), historical.HistoryQuery.of(query, []))


async def resolve(
    store: Store, project: Any, *, as_: str = "", by: str = "ci", **given: Any
) -> resolving.Result:
    """Report how a pull request ended, as CI; `as_="opened"` reports its opening. The fields are
    checked.
    """
    body = resolving.ResolveRequest.of({"outcome": "merged", **given}, [])
    call = Call(Project(project), body, by=by)
    return await resolving.end(store, call, as_ or body.outcome)
