"""What the board shows of claims and events: sections, counts, sentences, filters, HTML."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from html import escape as escape_html
from importlib import resources
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any, Literal
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from msgspec.structs import replace

from dibs.board import relative_time
from dibs.board.assets import asset
from dibs.board.relative_time import Html, span
from dibs.board.telling import name, said
from dibs.store.counts import Pulse
from dibs.words import LAPSES_FLAGGED, Claim, Event, Project

Kind = Literal["working", "stale", "parked", "lapsed", "done"]
"""A claim's state as people ask for it: `held` is `working`, or `stale` when nothing is heard."""
SECTIONS: dict[str, tuple[str, tuple[Kind, ...]]] = {
    "stuck": ("Stuck", ("stale", "lapsed")),
    "parked": ("Waiting for a person", ("parked",)),
    "working": ("Working now", ("working",)),
    "done": ("Recently finished", ("done",)),
}
_SECTION = {kind: name for name, (_, kinds) in SECTIONS.items() for kind in kinds}
_PLACE = {name: place for place, name in enumerate(SECTIONS)}
FILTERS: dict[str, tuple[str, tuple[Kind, ...]]] = {
    "": ("everything", ("working", "stale", "parked", "lapsed", "done")),
    "attention": ("needs attention", ("stale", "parked", "lapsed")),
    "held": ("held", ("working", "stale")),
    "parked": ("parked", ("parked",)),
    "stale": ("stale", ("stale",)),
    "lapsed": ("lapsed", ("lapsed",)),
    "done": ("done", ("done",)),
}
"""What `?state=` may be, by the name that people see. Two more look at other facts."""
MARKS = {"queue": "with a queue", "repeat": "lapsing again and again"}
SORTS = {"": "longest held", "left": "least time left", "task": "task", "holder": "holder"}
DAY_MS = 86_400_000
NOTE_SHOWN = 300
"""Characters of a note that are shown; a task's own page in the API has all of it."""
QUEUE_SHOWN = 10
"""Sessions of a queue that are named; all are counted."""


def ms(at: datetime) -> int:
    """Return an instant as the browser counts it."""
    return int(at.timestamp() * 1000)


def link(url: str | None) -> str | None:
    """Return `url` if it is one to click on. The API lets no other in; old data might."""
    if not url or not url.startswith(("https://", "http://")):
        return None
    return url.replace('"', "%22").replace("'", "%27")  # as browsers do, and shorter than escaped


def prose(text: str) -> Markup:
    """Escape what stands between tags, and never in one: quotes are as they are there, and a page
    of a thousand of them as long as it was written."""
    return Markup(escape_html(text, quote=False))  # noqa: S704 - escaped


def short(url: str) -> str:
    """Return a pull request's URL as people call it: owner/repo#7, or its host and path."""
    rest = url.split("://", 1)[1].rstrip("/")
    parts = rest.split("/")
    if len(parts) == 5 and parts[3] in ("pull", "pulls") and parts[4].isdigit():
        return f"{parts[1]}/{parts[2]}#{parts[4]}"
    return rest if len(rest) <= 40 else rest[:39] + "…"


def kind(claim: Claim) -> Kind:
    """Return a claim's state as people ask for it."""
    if claim.state == "held":
        return "stale" if claim.stale else "working"
    return claim.state if claim.state in ("parked", "done") else "lapsed"


_shape = attrgetter(
    *("state", "fence", "holder", "ttl", "acquired_at", "stale", "note", "pr", "ended_at"),
    *("queue", "grants", "lapses", "previous"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One claim on the board."""

    claim: Claim
    kind: Kind

    @property
    def section(self) -> str:
        """Return the section it stands in."""
        return _SECTION[self.kind]

    @property
    def place(self) -> int:
        """Return the number of the section it stands in, from the top."""
        return _PLACE[self.section]

    def same_but_clocks(self, claim: Claim) -> bool:
        """Say if `claim` would be this row with other clocks."""
        return bool(_shape(self.claim) == _shape(claim))


def row(claim: Claim) -> Row:
    """Return a claim as the board keeps it: of what is long, as much as a row shows."""
    previous = claim.previous
    if previous and previous.note:
        previous = replace(previous, note=_cut(previous.note))
    note = claim.note and _cut(claim.note)
    return Row(
        replace(claim, note=note, previous=previous, queue=claim.queue[:QUEUE_SHOWN]), kind(claim)
    )


def _cut(note: str) -> str:
    return note if len(note) <= NOTE_SHOWN else note[: NOTE_SHOWN - 1] + "…"


def paint(html: Html, now_ms: int, *, hidden: bool = False) -> str:
    """Return a row's element as it is now."""
    return ("<tr hidden" if hidden else "<tr") + relative_time.fill(html, now_ms)


def render(row: Row) -> Html:
    """Return a row's element, less its first three characters: see paint()."""
    claim, what = row.claim, row.kind
    since, beat, due = ms(claim.acquired_at), ms(claim.heartbeat_at), ms(claim.expires_at)
    ended = ms(claim.ended_at) if claim.ended_at else due
    data = (
        f' data-kind="{what}" data-since="{since}" data-due="{due}" data-ended="{ended}"'
        f' data-waiters="{claim.waiters}" data-lapses="{claim.lapses}"'
    )
    html = ROW.render(
        claim=claim,
        kind=what,
        over=what in ("done", "lapsed"),
        who=escape(name(claim.holder)),
        url=link(claim.holder.url),
        data=Markup(data),  # noqa: S704 - words of ours and numbers
        since=since,
        beat=beat,
        due=due,
        ended=ended,
    )
    return relative_time.cut(html.removeprefix("<tr"))


def clocks(claim: Claim) -> tuple[str, int, int]:
    """Return what a plain heartbeat changes: the deadline and the last sign of life."""
    return claim.task, ms(claim.expires_at), ms(claim.heartbeat_at)


def break_path(claim: Claim) -> str:
    """Return where a person can break this tenure."""
    query = urlencode({"task": claim.task, "fence": claim.fence}, quote_via=quote)
    return f"/p/{claim.project}/break?{query}"


def happening(event: Event) -> Html:
    """Render an event for the list of recent events."""
    return relative_time.cut(EVENT.render(event=event, words=said(event)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The summary."""

    held: int
    parked: int
    stale: int
    lapsed: int
    waiting: int
    done: int
    median: str
    avoided: int
    lapses: int
    repeat: int
    attention: int
    headline: str


def count(rows: Iterable[Row], pulse: Pulse) -> Counts:
    """Return the summary of `rows`."""
    by = dict.fromkeys(("working", "stale", "parked", "lapsed", "done"), 0)
    waiting = lapses = repeat = 0
    took = []
    for one in rows:
        claim = one.claim
        by[one.kind] += 1
        lapses += claim.lapses
        if one.kind != "done":
            waiting += claim.waiters
            repeat += claim.lapses >= LAPSES_FLAGGED
        elif claim.ended_at and pulse.now_ms - ms(claim.ended_at) < DAY_MS:
            took.append(ms(claim.ended_at) - ms(claim.acquired_at))
    return Counts(
        held=by["working"] + by["stale"],
        parked=by["parked"],
        stale=by["stale"],
        lapsed=by["lapsed"],
        waiting=waiting,
        done=pulse.done,
        median=span(int(median(took)), fine=True) if took else "–",
        avoided=pulse.avoided,
        lapses=lapses,
        repeat=repeat,
        attention=by["stale"] + by["parked"] + by["lapsed"],
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
    if repeat:
        needs.append(f"{repeat} {'keeps' if repeat == 1 else 'keep'} lapsing")
    if needs:
        return ", ".join(needs) + "."
    return "All is well: nothing waits for you." if any(by.values()) else "Nobody holds anything."


@dataclass(frozen=True, slots=True)
class Look:
    """What a viewer wants to see, as their URL says it."""

    q: str = ""
    state: str = ""
    holder: str = ""
    sort: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Look":
        """Read a query; what it says that means nothing is left out."""
        state, sort = query.get("state", ""), query.get("sort", "")
        return cls(
            query.get("q", "").strip()[:200],
            state if state in FILTERS or state in MARKS else "",
            query.get("holder", "")[:100],
            sort if sort in SORTS else "",
        )

    def wants(self, one: Row) -> bool:
        """Say if a row is to be seen. Its twin is in board.js."""
        claim = one.claim
        if self.state == "queue" and not claim.waiters:
            return False
        if self.state == "repeat" and claim.lapses < LAPSES_FLAGGED:
            return False
        if self.state in FILTERS and one.kind not in FILTERS[self.state][1]:
            return False
        if self.holder and self.holder != name(claim.holder):
            return False
        texts = (claim.task, name(claim.holder), claim.holder.branch, claim.note)
        return any(self.q.lower() in text.lower() for text in texts if text)

    def order(self, one: Row) -> Any:
        """Return where a row stands within its section. Its twin is in board.js."""
        return self._first(one), one.claim.task

    def _first(self, one: Row) -> Any:
        claim = one.claim
        if self.sort == "task":
            return claim.task.lower()
        if self.sort == "holder":
            return name(claim.holder).lower()
        if self.sort == "left" and one.kind != "done":
            return ms(claim.expires_at)
        if one.kind == "done":
            return -ms(claim.ended_at or claim.expires_at)
        return ms(claim.acquired_at)

    def query(self, **other: str) -> str:
        """Return this look as a query, with `other` words changed or added."""
        words = {"q": self.q, "state": self.state, "holder": self.holder, "sort": self.sort}
        return urlencode({k: v for k, v in (words | other).items() if v}, quote_via=quote)

    def path(self, project: Project, **other: str) -> str:
        """Return the URL of this look with `other` words changed or added."""
        query = self.query(**other)
        return f"/p/{project}" + (f"?{query}" if query else "")


EVERYTHING = Look()


def _environment() -> Environment:
    templates = Path(str(resources.files("dibs.board"))) / "templates"
    env = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals.update(
        asset=asset, clock=relative_time.clock, time=relative_time.time, ms=ms, link=link
    )
    env.filters.update(prose=prose)
    env.globals.update(short=short, name=name, break_path=break_path)
    env.globals.update(span=span, flagged=LAPSES_FLAGGED)
    for template in env.list_templates():
        env.get_template(template)  # compiled now, not while the first viewer waits
    return env


ENV = _environment()
ROW = ENV.get_template("row.html")
EVENT = ENV.get_template("event.html")
PAGES = ENV.get_template("pages.html")
