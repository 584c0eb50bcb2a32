"""The page on which a person breaks a claim: what will happen, and what it asks for."""

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from dibs import authorization, text, words
from dibs.acts import show
from dibs.board.context import BoardContext, Page, Req, page
from dibs.words import Claim, Fence, Project, Task


async def ask(
    request: Req,
    context: BoardContext,
    project: Project,
    given: Mapping[str, str],
    errors: list[str] | None = None,
    status: int = 200,
) -> Page:
    """Show the claim as it is now, what breaking it does, and the form."""
    claim = await _claim(context, project, given.get("task", ""))
    told = list(errors or [])
    if claim is None:
        told.append(f"Nobody holds {given.get('task') or 'that task'} any more.")
        status = 409 if errors else 404
    elif not errors and given.get("fence") and str(claim.fence) != given["fence"]:
        told.append("The task changed hands since you looked. This is how it is now.")
    return page(
        "break.html",
        status,
        project=project,
        claim=claim,
        errors=told,
        reason=given.get("reason", ""),
        by=given.get("by") or user(request),
        breakable=context.breakable,
        now=context.claims.store.clock.facts.witness_us // 1000,
    )


async def _claim(context: BoardContext, project: Project, task: str) -> Claim | None:
    try:
        shown = await show.look(context.claims.store, project, words.task(task))
    except words.Refused:
        return None
    if shown.state in ("free", "done"):
        return None
    return shown if isinstance(shown, Claim) else None


def wrong(given: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the form of a break."""
    wrong = []
    checks: list[Callable[[], Task | Fence | str]] = [
        lambda: words.task(given.get("task", "")),
        lambda: words.fence(given.get("fence", "")),
        lambda: words.plain_text(given.get("by", ""), "A name"),
        lambda: words.prose(given.get("reason", ""), "A reason"),
    ]
    for check in checks:
        try:
            check()
        except words.Refused as refused:
            wrong.append(str(refused))
    reason = text.shown(given.get("reason", "")).strip()
    if not 1 <= len(reason) <= words.NOTE_CHARS:
        wrong.append(f"Give a reason, of at most {words.NOTE_CHARS} characters.")
    if len(given.get("by", "")) > 100:
        wrong.append("A name has at most 100 characters.")
    return wrong


def from_here(request: Req, context: BoardContext) -> bool:
    """Say if a form was sent from a page of this service, as the browser says it."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(request.headers.get("origin", "")).netloc
    ours = {request.headers.get("host", ""), urlsplit(context.base(request)).netloc}
    return origin in ours - {""}


def user(request: Req) -> str:
    """Return the name that somebody gave the browser's password prompt."""
    _, user = authorization.read(request.headers.get("authorization"))
    try:
        return words.plain_text(user[:100], "A name")
    except words.Refused:
        return ""
