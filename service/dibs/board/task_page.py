"""The page of a task: its listing, its holder, and its past tenures."""

from collections.abc import Mapping

from dibs import model
from dibs.acts import task as acts
from dibs.board import relative_time
from dibs.board.context import BoardContext, NoSuchPage, Page, Req, fields, page
from dibs.board.event_text import name
from dibs.board.rows import kind
from dibs.model import Claim, Project
from dibs.results import Whole

_OVER = ("done", "lapsed")


async def show(request: Req, context: BoardContext, project: Project, raw: bytes) -> Page:
    """Return the page of a task. Raises StoreDown, and NoSuchPage for an invalid name."""
    try:
        task = model.task(raw.decode())
    except UnicodeDecodeError:
        raise NoSuchPage("The task in the path is not UTF-8.") from None
    except model.Refused as refused:
        raise NoSuchPage(str(refused)) from None
    store = context.claims.store
    whole = await acts.look(store, project, task)
    known = is_known(whole)
    now_ms = store.clock.reading.observed_us // 1000
    return page(
        "task.html",
        200 if known else 404,
        project=project,
        task=task,
        now=whole.now,
        claim=whole.now if isinstance(whole.now, Claim) else None,
        listed=whole.now.listed,
        whole=whole,
        kind=kind(whole.now),
        known=known,
        over=whole.now.state in _OVER,
        did=confirmed(fields(request.scope["query_string"]), whole),
        kind_of=kind,
        clock=now_ms,
        at=relative_time.utc(now_ms),
        keyed=context.keyed,
    )


def is_known(whole: Whole) -> bool:
    """Return whether a task has a holder, a past, a listing, a hold or a dependent."""
    now = whole.now
    return isinstance(now, Claim) or bool(
        now.previous or now.listed or now.hold or whole.tenures or whole.dependents
    )


def confirmed(given: Mapping[str, str], whole: Whole) -> str:
    """Return the confirmation of a person's act if the task's state shows its effect, else ''."""
    now, fence = whole.now, given.get("fence", "")
    match given.get("did"):
        case "break":
            for tenure in whole.tenures:
                if tenure.outcome == "broken" and str(tenure.fence) == fence:
                    return f"The claim of {name(tenure.holder)} is broken."
        case "hold" if now.hold:
            return "It is on hold."
        case "unhold" if not now.hold:
            return "It is no longer on hold."
        case "retry" if now.state not in ("failed", "done"):
            return "It may be tried again."
    return ""


def confirmed_of_all(did: str, hold: str) -> str:
    """Return the confirmation of an act on the project if its state shows the effect, else ''."""
    if did == "unhold" and not hold:
        return "The project is no longer on hold."
    return "The project is on hold." if did == "hold" and hold else ""
