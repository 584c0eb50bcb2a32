"""The board's summary: counts and sentences about all rows, and lines about events."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import get_args

from dibs.board import relative_time
from dibs.board.event_text import said
from dibs.board.html import ms, template
from dibs.board.relative_time import Html, span
from dibs.board.rows import SECTION, Kind, Row
from dibs.model import LAPSES_FLAGGED, Claim, Event, Hold, Project
from dibs.store.board_tasks import KINDS
from dibs.store.counts import Pulse

DAY_MS = 86_400_000
_GROUPED = ("listed", "changed", "dropped", "ready", "blocked")
"""Types of events that one act may cause many of; a run of them shares one line."""


def grouped(events: Sequence[Event]) -> list[tuple[Event, int]]:
    """Return the events that get their own line in the list of recent events, in their order, each
    with the number of further events of its type in that line."""
    found: list[tuple[Event, int]] = []
    for event in events:
        last, more = found[-1] if found else (None, 0)
        if last and event.type in _GROUPED and last.type == event.type:
            found[-1] = last, more + 1
        else:
            found.append((event, 0))
    return found


def happening(project: Project, event: Event, more: int = 0) -> Html:
    """Render the line of an event, and of `more` of its type, in the list of recent events."""
    words = said(event, more)
    return relative_time.cut(
        template("event.html").render(project=project, event=event, words=words)
    )


def banner(project: Project, hold: Hold | None, now_ms: int) -> str:
    """Return the banner of a project on hold; '' if it is not."""
    html = relative_time.cut(template("hold.html").render(project=project, hold=hold))
    return relative_time.fill(html, now_ms).strip()


def beyond(more: Mapping[str, int]) -> dict[str, str]:
    """Return, by section, the text about tasks that no page shows; `more`: how many, by kind."""
    said = {}
    for kind in (kind for kind in KINDS if more.get(kind)):
        number = "" if kind == "free" else f"{more[kind]:,} "
        order = ", in the order of dibs next" if kind == "ready" else ""
        said[SECTION[kind]] = f"and {number}more; these are the first{order}"
    return said


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCounts:
    """The counts of a board, and its headline."""

    held: int
    parked: int
    stale: int
    lapsed: int
    failed: int
    review: int
    free: int
    ready: int
    on_hold: int
    blocked: int
    waiting: int
    done: int
    median: str
    avoided: int
    lapses: int
    repeat: int
    attention: int
    headline: str


def count(rows: Iterable[Row], pulse: Pulse, beyond: Mapping[str, int]) -> RowCounts:
    """Return the counts of `rows`; `beyond`: how many more tasks there are, by kind."""
    by = {**dict.fromkeys(get_args(Kind), 0), **beyond}
    waiting = lapses = repeat = 0
    took = []
    for one in rows:
        now = one.now
        by[one.kind] += 1
        lapses += now.lapses
        if one.kind != "done":
            waiting += now.waiters
            repeat += now.lapses >= LAPSES_FLAGGED
        elif isinstance(now, Claim) and now.ended_at and pulse.now_ms - ms(now.ended_at) < DAY_MS:
            took.append(ms(now.ended_at) - ms(now.acquired_at))
    return RowCounts(
        held=by["working"] + by["stale"],
        parked=by["parked"],
        stale=by["stale"],
        lapsed=by["lapsed"],
        failed=by["failed"],
        review=by["review"] + by["expiring"],
        free=by["free"],
        ready=by["ready"],
        on_hold=by["on-hold"],
        blocked=by["blocked"],
        waiting=waiting,
        done=pulse.done,
        median=span(int(median(took)), fine=True) if took else "–",
        avoided=pulse.avoided,
        lapses=lapses,
        repeat=repeat,
        attention=by["stale"] + by["parked"] + by["lapsed"] + by["failed"] + by["expiring"],
        headline=_headline(by, repeat),
    )


def _headline(by: Mapping[str, int], repeat: int) -> str:
    needs = []
    if by["parked"]:
        needs.append(f"{by['parked']} {'waits' if by['parked'] == 1 else 'wait'} for a person")
    if by["stale"]:
        needs.append(f"{by['stale']} {'is' if by['stale'] == 1 else 'are'} stale")
    if by["lapsed"]:
        needs.append(f"{by['lapsed']} lapsed")
    if by["failed"]:
        needs.append(f"{by['failed']} failed")
    if by["expiring"]:
        reviews = "review runs" if by["expiring"] == 1 else "reviews run"
        needs.append(f"{by['expiring']} {reviews} out")
    if repeat:
        needs.append(f"{repeat} {'keeps' if repeat == 1 else 'keep'} lapsing")
    if needs:
        return ", ".join(needs) + "."
    if not by["working"] and by["ready"]:
        tasks = "task is" if by["ready"] == 1 else "tasks are"
        return f"Nobody works: {by['ready']} {tasks} ready."
    return "All is well: nothing waits for you." if any(by.values()) else "Nobody holds anything."
