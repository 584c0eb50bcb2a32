"""The rows of a board: claims, and tasks that nobody holds."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, cast

from markupsafe import Markup, escape
from msgspec.structs import replace

from dibs.board import relative_time
from dibs.board.event_text import name
from dibs.board.html import link, ms, template
from dibs.board.relative_time import Html
from dibs.model import Claim, Free, Holder, Listed, Previous, Task
from dibs.store.board_tasks import BoardTask

Kind = Literal[
    "stale",
    "lapsed",
    "failed",
    "parked",
    "review",
    "expiring",
    "working",
    "free",
    "ready",
    "on-hold",
    "blocked",
    "done",
]
"""A task's state as the board shows it: `held` is `working`, or `stale` without a recent heartbeat;
a review that soon runs out is `expiring`."""
SECTIONS: dict[str, tuple[str, tuple[Kind, ...]]] = {
    "stuck": ("Stuck", ("stale", "lapsed")),
    "failed": ("Failed", ("failed",)),
    "parked": ("Waiting for a person", ("parked",)),
    "review": ("In review", ("expiring", "review")),
    "working": ("Working now", ("working",)),
    "again": ("Free again", ("free",)),
    "ready": ("Ready", ("ready",)),
    "hold": ("On hold", ("on-hold",)),
    "blocked": ("Blocked", ("blocked",)),
    "done": ("Recently finished", ("done",)),
}
SECTION: dict[str, str] = {kind: name for name, (_, kinds) in SECTIONS.items() for kind in kinds}
_PLACE = {name: place for place, name in enumerate(SECTIONS)}
NOTE_SHOWN = 300
"""Characters of a note that a row shows; the task's own page has all of it."""
QUEUE_SHOWN = 10
"""Sessions of a queue that a row names; its count includes all."""
SOON = 7
"""A review is `expiring` in the last 1/SOON of its time: on the last of seven days."""
OVER = ("done", "lapsed")
"""Kinds of claims without a future deadline."""
LAST = 1 << 53
"""The sort key of a row without a rank."""


@dataclass(frozen=True, slots=True)
class Row:
    """One task on the board."""

    now: Claim | Free
    kind: Kind
    rank: int = LAST
    """The task's position in the order of `next`."""
    missing: int = 0
    """The number of needs that are not done."""
    needs: tuple[tuple[Task, str], ...] = ()
    """The first of those needs, each with its state."""

    @property
    def task(self) -> Task:
        """The task's name."""
        return self.now.task

    @property
    def section(self) -> str:
        """The section of the row."""
        return SECTION[self.kind]

    @property
    def place(self) -> int:
        """The index of the row's section, from the top."""
        return _PLACE[self.section]

    @property
    def holder(self) -> Holder | None:
        """The current or last holder."""
        if isinstance(self.now, Claim):
            return self.now.holder
        return self.now.previous.holder if self.now.previous else None

    @property
    def who(self) -> str:
        """The name of the current or last holder, '' if there never was one."""
        return name(self.holder) if self.holder else ""

    @property
    def note(self) -> str | None:
        """The note of the claim or of the previous tenure; of a broken one, the person's reason."""
        if isinstance(self.now, Claim):
            return self.now.note
        return self.now.previous.note if self.now.previous else None

    @property
    def title(self) -> str | None:
        """The title of a listed task."""
        return self.now.listed.title if self.now.listed else None

    @property
    def resembles(self) -> str:
        """The first name that this one resembles, or ''."""
        return next(iter(self.now.resembles), "") if isinstance(self.now, Claim) else ""

    @property
    def lapses(self) -> int:
        """The number of lapses; 0 for a done task, where they no longer matter."""
        return self.now.lapses if self.kind != "done" else 0

    @property
    def first(self) -> int:
        """The sort key in the default order of the section."""
        if self.kind in ("ready", "blocked"):
            return self.rank
        if self.now.hold and self.kind == "on-hold":
            return ms(self.now.hold.until) if self.now.hold.until else LAST
        if isinstance(self.now, Free):
            return -ms(self.now.previous.at) if self.now.previous else 0
        if self.kind == "done":
            return -ms(self.now.ended_at or self.now.expires_at)
        return ms(self.now.acquired_at)

    @property
    def due(self) -> int:
        """The sort key in the order of time left, least first."""
        if isinstance(self.now, Free) or self.kind == "done":
            return self.first
        return ms(self.now.expires_at)

    def same_but_clocks(self, other: "Row") -> bool:
        """Return whether `other` differs from this row only in its clocks."""
        if self.kind != other.kind:
            return False
        if isinstance(self.now, Claim) and isinstance(other.now, Claim):
            return bool(_shape(self.now) == _shape(other.now))
        return self == other


_shape = attrgetter(
    *("state", "fence", "holder", "ttl", "acquired_at", "stale", "note", "pr", "ended_at"),
    *("queue", "grants", "lapses", "previous", "attempt", "hold", "merged", "listed"),
)


def row(seen: BoardTask) -> Row | None:
    """Return the row of a task, with long texts cut to what a row shows. None for a task without
    holder, past and listing."""
    now = seen.now
    what = kind(now)
    if what == "free" and not now.previous:
        return None
    cut = {
        "previous": _cut_previous(now.previous),
        "listed": _cut_listing(now.listed),
        "hold": now.hold and replace(now.hold, reason=_cut(now.hold.reason)),
        "queue": now.queue[:QUEUE_SHOWN],
    }
    if isinstance(now, Free):
        rank = LAST if seen.rank is None else seen.rank
        return Row(replace(now, **cut), what, rank, seen.missing, seen.needs)
    return Row(replace(now, note=now.note and _cut(now.note), **cut), what)


def kind(now: Claim | Free) -> Kind:
    """Return a task's state as the board shows it."""
    if isinstance(now, Claim) and now.state == "held":
        return "stale" if now.stale else "working"
    if isinstance(now, Claim) and now.state == "review":
        whole_s = (now.expires_at - now.heartbeat_at).total_seconds()
        return "expiring" if now.expires_in * SOON < whole_s else "review"
    return cast(Kind, now.state)


def _cut_previous(previous: Previous | None) -> Previous | None:
    if previous and previous.note:
        return replace(previous, note=_cut(previous.note))
    return previous


def _cut_listing(listed: Listed | None) -> Listed | None:
    return replace(listed, body=None, needs=()) if listed else None


def _cut(note: str) -> str:
    return note if len(note) <= NOTE_SHOWN else note[: NOTE_SHOWN - 1] + "…"


def paint(html: Html, now_ms: int, *, hidden: bool = False) -> str:
    """Return a row's element with its clocks at `now_ms`."""
    return ("<tr hidden" if hidden else "<tr") + relative_time.fill(html, now_ms)


def render(row: Row) -> Html:
    """Return a row's element without its first three characters, `<tr`: see paint()."""
    data = (
        f' data-kind="{row.kind}" data-first="{row.first}" data-due="{row.due}"'
        f' data-waiters="{row.now.waiters}" data-lapses="{row.now.lapses}"'
    )
    shown: dict[str, Any] = {
        "row": row,
        "kind": row.kind,
        "who": escape(row.who),
        "url": link(row.holder.url) if row.holder else None,
        "data": Markup(data),  # noqa: S704 - constants and numbers
    }
    if isinstance(row.now, Free):
        html = template("idle.html").render(task=row.now, **shown)
    else:
        html = template("row.html").render(claim=row.now, **shown, **_times(row.now, row.kind))
    return relative_time.cut(html.removeprefix("<tr"))


def _times(claim: Claim, kind: Kind) -> dict[str, Any]:
    since, beat, due = ms(claim.acquired_at), ms(claim.heartbeat_at), ms(claim.expires_at)
    ended = ms(claim.ended_at) if claim.ended_at else due
    return {"over": kind in OVER, "since": since, "beat": beat, "due": due, "ended": ended}


def clocks(row: Row) -> tuple[str, int, int] | None:
    """Return the task and what a plain heartbeat changes: the deadline and the last heartbeat.

    None if the row shows neither because its claim is over; an outage may still move its deadline.
    """
    now = row.now
    if isinstance(now, Free) or row.kind in OVER:
        return None
    return now.task, ms(now.expires_at), ms(now.heartbeat_at)
