"""history: the tenures that ended in a span of days, as a page or all of them as CSV."""

import csv
import io
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, NamedTuple

import msgspec
from pydantic import BeforeValidator, Field

from dibs import responses, results
from dibs.acts.act import Act
from dibs.acts.list_ import open_cursor, seal_cursor
from dibs.model import MAX_FENCE, Project, Refused, Task
from dibs.requests import Errors, Request, as_schema, fault
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.scripts import Declaration
from dibs.stream_limit import StreamLimit

PAGE = 200
DAY_S = 86_400
CSV = "text/csv; header=present"
COLUMNS = (
    *("task", "outcome", "by", "ref", "label", "branch", "pr", "acquired_at", "ended_at"),
    *("held_seconds", "parked_seconds", "attempt", "fence", "reason", "note", "url"),
)
"""The columns of the CSV; new columns go at the end."""
_FORMULA = tuple("=+-@\t\r\n")
"""Characters that begin a formula in a spreadsheet, which would run a session's text (OWASP)."""
_CURSOR = r"[0-9]{1,16} [1-5] .{1,900}"
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _day(value: object) -> date | None:
    if value in ("", None) or isinstance(value, date):
        return value or None  # type: ignore[return-value]
    try:
        if isinstance(value, str) and _DAY.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise Refused("It must be a date in UTC, like 2026-11-30.")


Day = Annotated[
    date | None,
    BeforeValidator(_day),
    as_schema(anyOf=[{"type": "string", "format": "date"}, {"type": "string", "maxLength": 0}]),
]


class SpanQuery(Request):
    """GET history.csv: the first and the last day of the span; an absent one is no bound."""

    since: Day = None
    until: Day = None

    @classmethod
    def also(cls, given: dict[str, Any]) -> Errors:
        """See Request."""
        try:
            since, until = _day(given.get("since")), _day(given.get("until"))
        except Refused:
            return []  # the error of the field is enough
        if since and until and since > until:
            return [fault("since", "since must not be later than until.")]
        return []


class HistoryQuery(SpanQuery):
    """GET history."""

    limit: int = Field(PAGE, ge=1, le=PAGE)
    cursor: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$", max_length=1500)] = ""


class Arguments(NamedTuple):
    """The arguments of history.lua."""

    from_ms: str
    to_ms: str
    most: str
    cursor: str


SCRIPT = Declaration("history", Arguments, rates="none")


async def page(store: Store, project: Project, query: HistoryQuery) -> results.History:
    """Return a page of tenures. Raises StoreDown, and Refused for a cursor that is from no page."""
    cursor = open_cursor(query.cursor, _CURSOR)
    from_s, to_s = _seconds(query)

    def arguments() -> Arguments:
        from_ms, to_ms = store.clock.reading.lease_span(from_s, to_s)
        return Arguments(str(from_ms), str(min(to_ms, MAX_FENCE)), str(query.limit), cursor)

    _, read, rest = await store.run(SCRIPT, project, None, arguments)
    onwards, *rows = rest
    tenures = (
        results.TaskTenure(task=Task(task), **msgspec.structs.asdict(tenure))
        for task, tenure in ((task, read.ended(kept)) for task, kept in rows)
        if tenure
    )
    return results.History(
        tuple(one for one in tenures if from_s <= one.ended_at.timestamp() < to_s),
        seal_cursor(onwards) if onwards else None,
    )


def _seconds(query: SpanQuery) -> tuple[int, int]:
    """Return the first second of the span, and the first second after it, since 1970."""
    first, last = query.since or date(1970, 1, 1), query.until or date(9999, 12, 31)
    from_s, to_s = (
        int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) for day in (first, last)
    )
    return max(from_s, 0), max(to_s + DAY_S, 0)


def answer(found: results.History) -> Reply:
    """Return the answer with a page."""
    now = datetime.now(UTC).replace(microsecond=0)
    return responses.ok({"tenures": found.tenures, "cursor": found.cursor, "server_time": now})


async def export(
    store: Store, streams: StreamLimit, project: Project, query: SpanQuery
) -> AsyncIterator[bytes]:
    """Yield all tenures of a span as CSV, a page at a time.

    An error ends the answer without its last chunk, so that no client takes it for complete.
    """
    asked, before, begun = HistoryQuery(since=query.since, until=query.until), set[int](), False
    while True:
        async with streams.exporting():
            found = await page(store, project, asked)
        news = [one for one in found.tenures if one.fence not in before]
        yield as_csv([*([] if begun else [COLUMNS]), *map(as_row, news)])
        if not found.cursor:
            return
        begun, before = True, {one.fence for one in found.tenures}
        asked = asked.model_copy(update={"cursor": found.cursor})


def as_row(tenure: results.TaskTenure) -> list[str]:
    """Return a tenure as the cells of COLUMNS."""
    facts = {**responses.builtin(tenure), **responses.builtin(tenure.holder)}
    return [_cell(facts[name]) for name in COLUMNS]


def _cell(value: object) -> str:
    """Return a value as text that no spreadsheet takes for a formula."""
    text = "" if value is None else str(value)
    return "'" + text if isinstance(value, str) and text.startswith(_FORMULA) else text


def as_csv(rows: Iterable[Sequence[str]]) -> bytes:
    """Return rows as CSV, in the format of RFC 4180."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


ACT = Act(
    name="history",
    path="history",
    summary="The tenures that ended in a range of days, ordered by their ends.",
    request=HistoryQuery,
    success={200: ("History",)},
    problems=("bad-session",),
    run=page,
    answer=answer,
    method="GET",
    caller="reader",
)
