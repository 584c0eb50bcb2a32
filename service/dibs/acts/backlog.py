"""backlog: a page of the listed tasks, in the order of `next`."""

from typing import Annotated, Any, NamedTuple

from pydantic import Field

from dibs import results
from dibs.acts.act import Act
from dibs.acts.holding import shown
from dibs.acts.list_ import as_page, open_cursor, seal_cursor, wrong_states
from dibs.characters import lower
from dibs.model import Project, Session, Task
from dibs.requests import LINE, Errors, Request, Tag, as_schema, limited_text
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.scripts import Declaration

STATES = (
    *("ready", "blocked", "on-hold", "failed"),
    *("held", "parked", "review", "lapsed", "done", "dropped"),
)
_STATE = "|".join(STATES)
_CURSOR = r"[0-9]{1,17} .{1,600}"


class BacklogQuery(Request):
    """GET tasks."""

    state: Annotated[str, as_schema(type="string", pattern=f"^({_STATE})(,({_STATE}))*$")] = (
        "ready,blocked,on-hold,failed,held,parked,review,lapsed,done"
    )
    tag: Tag | None = None
    q: Annotated[
        str, limited_text("q", 200), as_schema(type="string", maxLength=200, pattern=LINE)
    ] = ""
    limit: int = Field(200, ge=1, le=200)
    cursor: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$", max_length=1000)] = ""

    @classmethod
    def also(cls, given: dict[str, Any]) -> Errors:
        """See Request."""
        return wrong_states(given, STATES)


class Arguments(NamedTuple):
    """The arguments of backlog.lua."""

    states: str
    tag: str
    text: str
    most: str
    cursor: str


SCRIPT = Declaration("backlog", Arguments, rates="none")


async def page(
    store: Store, project: Project, session: Session | None, query: BacklogQuery
) -> results.Backlog:
    """Return a page of tasks. Raises StoreDown, and Refused for a cursor that is from no page."""
    cursor = open_cursor(query.cursor, _CURSOR)
    arguments = Arguments(query.state, query.tag or "", lower(query.q), str(query.limit), cursor)
    _, read, rest = await store.run(SCRIPT, project, session, arguments)
    seq, onwards, damaged, *views = rest
    store.note_damaged(project, damaged)
    tasks = tuple(shown(read, project, Task(""), view) for view in views)
    return results.Backlog(tasks, seq, seal_cursor(onwards) if onwards else None, tuple(damaged))


def answer(page: results.Backlog) -> Reply:
    """Return the answer with a list of tasks."""
    return as_page("tasks", page.tasks, page)


ACT = Act(
    name="backlog",
    path="tasks",
    summary="The listed tasks, in the order of `next`.",
    request=BacklogQuery,
    success={200: ("Backlog",)},
    problems=("bad-session",),
    run=page,
    answer=answer,
    method="GET",
    caller="reader",
    commands=("list",),
)
