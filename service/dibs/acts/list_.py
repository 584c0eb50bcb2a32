"""list: a page of a project's claims, as one snapshot."""

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import msgspec
from pydantic import Field

from dibs import messages, model, responses, results
from dibs.acts.act import Act
from dibs.characters import lower
from dibs.model import Claim, Free, Project, Refused, Session
from dibs.requests import (
    LINE,
    Branch,
    Errors,
    Label,
    Pr,
    Request,
    as_schema,
    fault,
    limited_text,
)
from dibs.responses import Reply
from dibs.store import Store
from dibs.store.scripts import Declaration

LISTED_NOTE_CHARS = 300
_CURSOR = r"[1-6] ([0-9]{1,16}|[+-]inf) .{0,600}"
_STATE = "|".join(model.STATES)


def wrong_states(given: dict[str, Any], states: tuple[str, ...]) -> Errors:
    """Return the errors in the states that a request for a list names."""
    wanted = str(given.get("state", states[0])).split(",")
    if set(wanted) - set(states):
        return [fault("state", f"state must be one or more of {', '.join(states)}.")]
    return []


class ListQuery(Request):
    """GET claims."""

    state: Annotated[str, as_schema(type="string", pattern=f"^({_STATE})(,({_STATE}))*$")] = (
        "held,parked,review,lapsed"
    )
    holder: Label = ""
    mine: bool = False
    q: Annotated[
        str, limited_text("q", 200), as_schema(type="string", maxLength=200, pattern=LINE)
    ] = ""
    pr: Pr = ""
    branch: Branch = ""
    limit: int = Field(200, ge=1, le=200)
    cursor: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$", max_length=1000)] = ""

    @classmethod
    def also(cls, given: dict[str, Any]) -> Errors:
        """See Request."""
        return wrong_states(given, model.STATES)


class Arguments(NamedTuple):
    """The arguments of list.lua."""

    states: str
    text: str
    holder: str
    mine: str
    most: str
    pr: str
    branch: str
    told: str
    cursor: str


SCRIPT = Declaration("list", Arguments, rates="none")


async def page(
    store: Store,
    project: Project,
    session: Session | None = None,
    *,
    states: Sequence[str],
    text: str = "",
    holder: str = "",
    mine: bool = False,
    pr: str = "",
    branch: str = "",
    limit: int,
    told: bool = False,
    cursor: str = "",
) -> results.Page:
    """Return a page of claims; with `told` each has its listing.

    The claims on `pr`, or else on `branch`, are all on one page. `cursor` is that of the previous
    page. Raises StoreDown, and Refused for a cursor that is from no page.
    """
    own, also = "1" if mine else "", "1" if told else ""
    start = open_cursor(cursor, _CURSOR)
    arguments = Arguments(
        ",".join(states), lower(text), holder, own, str(limit), pr, branch, also, start
    )
    _, read, rest = await store.run(SCRIPT, project, session, arguments)
    seq, onwards, damaged, *views = rest
    store.note_damaged(project, damaged)
    claims = tuple(map(read.tenure, views))
    return results.Page(claims, seq, seal_cursor(onwards) if onwards else None, tuple(damaged))


def seal_cursor(text: str) -> str:
    """Return the end of a page as a cursor, which the client sends back."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def open_cursor(cursor: str, pattern: str) -> str:
    """Return the end of the previous page. Raises Refused if it does not match `pattern`."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.urlsafe_b64decode(padded.encode()).decode()
    except ValueError:
        text = "?"
    if text and not re.fullmatch(pattern, text, re.DOTALL):
        raise Refused("This service did not return this cursor; start again without one.")
    return text


def answer(page: results.Page, *, plain: bool) -> Reply:
    """Return the answer with a list, as plain text or JSON."""
    if plain:
        text = responses.table(page.claims) + "".join(map(messages.damaged_line, page.damaged))
        if page.cursor:
            text += f"More: ask again with cursor={page.cursor}\n"
        return Reply(text.encode(), responses.TEXT)
    return as_page("claims", [*map(_in_a_list, page.claims)], page)


def as_page(
    name: str, items: Sequence[Claim | Free], page: results.Page | results.Backlog
) -> Reply:
    """Return the answer with a page of items, and what every page has: seq, cursor, the time."""
    now = datetime.now(UTC).replace(microsecond=0)
    damaged = {"damaged": page.damaged} if page.damaged else {}
    rest = {"seq": page.seq, "cursor": page.cursor, "server_time": now}
    return responses.ok({name: items, **rest, **damaged})


def _in_a_list(claim: Claim) -> Claim:
    """Return a claim as a list shows it, with only the beginning of a long note."""
    if claim.note is None or len(claim.note) <= LISTED_NOTE_CHARS:
        return claim
    return msgspec.structs.replace(claim, note=claim.note[: LISTED_NOTE_CHARS - 1] + "…")


ACT = Act(
    name="list",
    path="claims",
    summary="The project's claims, as one snapshot.",
    request=ListQuery,
    success={200: ("Page",)},
    problems=("bad-session",),
    run=page,
    answer=answer,
    method="GET",
    caller="reader",
    commands=("list",),
)
