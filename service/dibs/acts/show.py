"""show: the state of one task, and whether a fence is its current one."""

from typing import NamedTuple

from dibs import responses
from dibs.acts.act import Act
from dibs.acts.holding import shown
from dibs.model import Claim, Free, Project, Session, Task
from dibs.model import Fence as Number
from dibs.requests import Fence, Request
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.scripts import Declaration


class ShowQuery(Request):
    """GET one task."""

    fence: Fence | None = None


class Arguments(NamedTuple):
    """The arguments of show.lua."""

    task: str


SCRIPT = Declaration("show", Arguments, rates="none")


async def look(
    store: Store, project: Project, task: Task, session: Session | None = None
) -> Claim | Free:
    """Return one task as it is now. Raises StoreDown."""
    _, read, rest = await store.run(SCRIPT, project, session, Arguments(task))
    return shown(read, project, task, rest[0])


def answer(found: Claim | Free, fence: Number | None) -> Reply:
    """Return the answer with one task; with `fence` also whether that is its current one."""
    if fence is None:
        return responses.ok(found)
    # A lapsed claim is not current: it may still be revived, but its holder must not rely on that.
    live = isinstance(found, Claim) and found.state in ("held", "parked", "review", "done")
    current = live and isinstance(found, Claim) and found.fence == fence
    return responses.ok({**responses.builtin(found), "current": current})


ACT = Act(
    name="show",
    path="claims/{task}",
    summary="One task; with `fence` also whether that is the current fence.",
    request=ShowQuery,
    success={200: ("Claim", "Free")},
    problems=("bad-session",),
    run=look,
    answer=answer,
    method="GET",
    caller="reader",
    commands=("show", "verify"),
)
