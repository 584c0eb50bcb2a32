"""What a board shows beside the claims: which tasks may be had, and what keeps the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dibs.model import Claim, Free, Hold, Project, Task
from dibs.store.records import ReplyDecoder
from dibs.store.scripts import Declaration
from dibs.store.store import Store

KINDS = ("failed", "free", "ready", "on-hold", "blocked")
"""The kinds of tasks that nobody has."""


class _Arguments(NamedTuple):
    kind: str
    most: str


SCRIPT = Declaration("board_tasks", _Arguments, several="tasks", rates="none")


@dataclass(frozen=True, slots=True)
class BoardTask:
    """A task as a board shows it."""

    now: Claim | Free
    rank: int | None = None
    """Where it stands in the order of `next`; None where nobody wrote it down."""
    missing: int = 0
    """How many of its needs are not done."""
    needs: tuple[tuple[Task, str], ...] = ()
    """The first of those, each with its state."""


@dataclass(frozen=True, slots=True)
class BoardTasks:
    """What one look showed."""

    hold: Hold | None
    """A person keeps the whole project back."""
    sizes: dict[str, int]
    """How many tasks there are of each kind at most: a few may be of another by now."""
    many: int
    """How many there are of the kind that was asked for."""
    tasks: tuple[BoardTask, ...]


async def look(
    store: Store, project: Project, tasks: Sequence[Task] = (), *, kind: str = "", most: int = 0
) -> BoardTasks:
    """Return these tasks, those of which something is known, or the first of a kind.

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
