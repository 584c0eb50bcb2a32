"""task: one task in full: its claim, listing, needs, dependents and ended tenures."""

from typing import NamedTuple

from dibs import responses, results
from dibs.acts.act import Act
from dibs.acts.holding import shown
from dibs.model import Claim, Free, Project, Session, Task
from dibs.requests import Request
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.records import ReplyDecoder
from dibs.store.scripts import Declaration


class TaskQuery(Request):
    """GET one task; it has no fields."""


class Arguments(NamedTuple):
    """The arguments of task.lua."""

    task: str


SCRIPT = Declaration("task", Arguments, rates="none")


async def look(
    store: Store, project: Project, task: Task, session: Session | None = None
) -> results.Whole:
    """Return one task as it is now. Raises StoreDown."""
    _, read, rest = await store.run(SCRIPT, project, session, Arguments(task))
    view, needs, dependents, tenures = rest
    now = shown(read, project, task, view)
    return results.Whole(
        now,
        _each(read, project, needs),
        _each(read, project, dependents),
        read.tenures(tenures),
    )


def _each(read: ReplyDecoder, project: Project, flat: list[str]) -> tuple[Claim | Free, ...]:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return tuple(shown(read, project, Task(task), view) for task, view in pairs)


def answer(found: results.Whole) -> Reply:
    """Return the answer with one task in full."""
    now = responses.builtin(found.now)
    whole = (found.needs, found.dependents, found.tenures)
    needs, dependents, tenures = map(responses.builtin, whole)
    return responses.ok({**now, "needs": needs, "dependents": dependents, "tenures": tenures})


ACT = Act(
    name="task",
    path="tasks/{task}",
    summary="One task: its claim, its listing, its needs, its dependents and its ended tenures.",
    request=TaskQuery,
    success={200: ("Whole",)},
    problems=("bad-session",),
    run=look,
    answer=answer,
    method="GET",
    caller="reader",
    commands=("show",),
)
