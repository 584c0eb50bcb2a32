"""Tasks that a board shows in addition to claims: claimable ones, and why others are not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dibs.model import Claim, Free, Hold, Project, Task
from dibs.store.records import ReplyDecoder
from dibs.store.scripts import Declaration
from dibs.store.store import Store

KINDS = ("failed", "free", "ready", "on-hold", "blocked")
"""The kinds of tasks that no session holds."""


class _Arguments(NamedTuple):
    kind: str
    most: str


SCRIPT = Declaration("board_tasks", _Arguments, several="tasks", rates="none")


@dataclass(frozen=True, slots=True)
class BoardTask:
    """A task as a board shows it."""

    now: Claim | Free
    rank: int | None = None
    """Its rank in the order of `next`; None for a task that is not listed."""
    missing: int = 0
    """The number of its needs that are not done."""
    needs: tuple[tuple[Task, str], ...] = ()
    """The first of its needs that are not done, each with its state."""


@dataclass(frozen=True, slots=True)
class BoardTasks:
    """The result of one read."""

    hold: Hold | None
    """The hold on the whole project, if there is one."""
    sizes: dict[str, int]
    """Upper bounds of the number of tasks of each kind: a few may have changed kind since."""
    many: int
    """The number of tasks of the requested kind."""
    tasks: tuple[BoardTask, ...]


async def look(
    store: Store, project: Project, tasks: Sequence[Task] = (), *, kind: str = "", most: int = 0
) -> BoardTasks:
    """Return the first tasks of a kind, or those of `tasks` that the store knows.

    Raises StoreDown.
    """
    arguments = (*_Arguments(kind, str(most)), *tasks)
    _, read, (hold, sizes, many, damaged, *rows) = await store.run(SCRIPT, project, None, arguments)
    store.note_damaged(project, damaged)
    return BoardTasks(
        read.readable_hold(hold) if hold else None,
        dict(zip(sizes[::2], map(int, sizes[1::2]), strict=True)),
        int(many),
        tuple(_seen(read, row) for row in rows if row[0]),
    )


def _seen(read: ReplyDecoder, row: Sequence[Any]) -> BoardTask:
    view, rank, missing, *needs = row
    names = zip(map(Task, needs[::2]), needs[1::2], strict=True)
    return BoardTask(read.claim(view), int(rank) if rank else None, int(missing), tuple(names))
