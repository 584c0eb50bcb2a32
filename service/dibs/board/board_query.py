"""A viewer's filter, search and sort order, as in the URL of a board."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from dibs.board.rows import SECTIONS, Kind, Row
from dibs.model import LAPSES_FLAGGED, Project

FILTERS: dict[str, tuple[str, tuple[Kind, ...]]] = {
    "": ("everything", tuple(kind for _, kinds in SECTIONS.values() for kind in kinds)),
    "attention": ("needs attention", ("stale", "lapsed", "failed", "parked", "expiring")),
    "held": ("held", ("working", "stale")),
    "parked": ("parked", ("parked",)),
    "review": ("in review", ("expiring", "review")),
    "stale": ("stale", ("stale",)),
    "lapsed": ("lapsed", ("lapsed",)),
    "failed": ("failed", ("failed",)),
    "free": ("free again", ("free",)),
    "ready": ("ready", ("ready",)),
    "on-hold": ("on hold", ("on-hold",)),
    "blocked": ("blocked", ("blocked",)),
    "done": ("done", ("done",)),
}
"""The values of `?state=`, each with its label and the kinds of rows that it selects. MARKS has two
more, which select by other facts."""
MARKS = {"queue": "with a queue", "repeat": "lapsing again and again"}
SORTS = {"": "usual", "left": "least time left", "task": "task", "holder": "holder"}


@dataclass(frozen=True, slots=True)
class BoardQuery:
    """A viewer's filter, search and sort order."""

    q: str = ""
    state: str = ""
    holder: str = ""
    sort: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "BoardQuery":
        """Parse a query; unknown values are ignored."""
        state, sort = query.get("state", ""), query.get("sort", "")
        return cls(
            query.get("q", "").strip()[:200],
            state if state in FILTERS or state in MARKS else "",
            query.get("holder", "")[:100],
            sort if sort in SORTS else "",
        )

    def wants(self, one: Row) -> bool:
        """Return whether a row is selected. Its twin is in board.js."""
        if self.state == "queue" and not one.now.waiters:
            return False
        if self.state == "repeat" and one.now.lapses < LAPSES_FLAGGED:
            return False
        if self.state in FILTERS and one.kind not in FILTERS[self.state][1]:
            return False
        if self.holder and self.holder != one.who:
            return False
        branch = one.holder.branch if one.holder else None
        texts = (one.task, one.title, one.who, branch, one.note)
        return any(self.q.lower() in text.lower() for text in texts if text is not None)

    def order(self, one: Row) -> Any:
        """Return the sort key of a row within its section. Its twin is in board.js."""
        return self._first(one), one.task

    def _first(self, one: Row) -> Any:
        if self.sort == "task":
            return one.task.lower()
        if self.sort == "holder":
            return one.who.lower()
        return one.due if self.sort == "left" else one.first

    def query(self, **other: str) -> str:
        """Return this look as a query string, with `other` parameters changed or added."""
        words = {"q": self.q, "state": self.state, "holder": self.holder, "sort": self.sort}
        return urlencode({k: v for k, v in (words | other).items() if v}, quote_via=quote)

    def path(self, project: Project, **other: str) -> str:
        """Return the URL of this look, with `other` parameters changed or added."""
        query = self.query(**other)
        return f"/p/{project}" + (f"?{query}" if query else "")


EVERYTHING = BoardQuery()
