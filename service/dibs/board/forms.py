"""The board's forms for people's acts: what an act will do, its fields, and its execution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from litestar import Response

from dibs import authorization, model, results
from dibs.acts import break_, hold, retry, show, unhold
from dibs.acts.act import Act, Call
from dibs.board.context import BoardContext, NoSuchPage, Page, Req, page
from dibs.board.html import task_path
from dibs.decision_messages import still_held
from dibs.model import Claim, Free, Hold, Project, Task
from dibs.problems import ProblemError
from dibs.requests import Errors, fault
from dibs.store import board_tasks

NAME_CHARS = 100
_REASON = f"Give a reason, of at most {model.NOTE_CHARS} characters."
_MOVED = "The task changed since you opened this form, so nothing was done. This is its state now."


@dataclass(frozen=True, slots=True)
class ActForm:
    """The form of an act that needs an admin key."""

    act: Act
    fields: tuple[str, ...]
    """The form fields that the act receives."""


FORMS = {
    "break": ActForm(break_.ACT, ("task", "fence", "reason", "hold")),
    "hold": ActForm(hold.ACT, ("task", "reason", "until")),
    "unhold": ActForm(unhold.ACT, ("task", "reason")),
    "retry": ActForm(retry.ACT, ("task", "fence", "reason")),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of an act: a task, or (None) the project; and the hold on it."""

    now: Claim | Free | None
    hold: Hold | None

    def fits(self, act: str) -> bool:
        """Return whether the act applies to the subject's state."""
        now = self.now
        match act:
            case "break":
                return isinstance(now, Claim) and now.state not in ("done", "failed", "on-hold")
            case "retry":
                return now is not None and now.state in ("failed", "done")
            case "unhold":
                return self.hold is not None
            case _:
                return True


async def ask(
    request: Req,
    context: BoardContext,
    project: Project,
    act: str,
    given: Mapping[str, str],
    errors: list[str] | None = None,
    status: int = 200,
) -> Page:
    """Show the task as it is now, what the act does, and the form."""
    subject = await _subject(context, project, act, given.get("task", ""))
    now, told = subject.now if subject else None, list(errors or [])
    fits = subject is not None and subject.fits(act)
    if not fits:
        status = 409 if errors else 404
    elif not errors and _moved(now, given.get("fence", "")):
        told.append("The task changed hands since you opened this form. This is its state now.")
    return page(
        "act.html",
        status,
        project=project,
        act=act,
        fits=fits,
        now=now,
        hold=subject.hold if subject else None,
        task=given.get("task", ""),
        errors=told,
        given=given,
        by=given.get("by") or user(request),
        breakable=context.breakable,
        keyed=context.keyed,
        clock=context.claims.store.clock.reading.observed_us // 1000,
    )


def _moved(now: Claim | Free | None, fence: str) -> bool:
    return bool(fence) and isinstance(now, Claim) and str(now.fence) != fence


async def _subject(context: BoardContext, project: Project, act: str, task: str) -> Subject | None:
    """Return the subject of an act; None if `task` is not a valid name."""
    store = context.claims.store
    if not task and act in ("hold", "unhold"):
        return Subject(None, (await board_tasks.look(store, project)).hold)
    try:
        now = await show.look(store, project, model.task(task))
    except model.Refused:
        return None
    return Subject(now, now.hold)


async def do(
    request: Req, context: BoardContext, project: Project, act: str, given: Mapping[str, str]
) -> Page:
    """Run the act for a person who typed an admin key into the form, or show the form again with
    the errors."""

    async def again(status: int, *errors: str) -> Page:
        return await ask(request, context, project, act, given, list(errors), status)

    if not from_here(request, context):
        raise NoSuchPage("Only this service's own pages can send this form.")
    by = given.get("by", "").strip()
    try:
        asked = _asked(act, given, by)
    except ProblemError as problem:
        return await again(422, *(error["message"] for error in problem.body["errors"]))
    if not context.is_admin(given.get("key", "")):
        wrong = "That is not an admin key of this service. Nothing was changed."
        answer = await again(403, wrong)
        await context.slow_down(request.scope, ProblemError("forbidden", wrong))
        return answer
    call: Call[Any] = Call(project, asked, by=by or user(request))
    if refusal := _refusal(await FORMS[act].act.run(context.claims, call)):
        return await again(409, refusal)
    return _done(project, act, given)


def _asked(act: str, given: Mapping[str, str], by: str) -> Any:
    """Return the act's request. Raises ProblemError with all errors of the form."""
    errors: Errors = []
    wanted = {name: given[name] for name in FORMS[act].fields if given.get(name)}
    wanted["reason"] = given.get("reason", "").strip()
    if not wanted["reason"]:
        errors.append(fault("reason", _REASON))
        wanted["reason"] = "-"  # so that the other errors are reported, too
    try:
        model.plain_text(by, "A name")
    except model.Refused as refused:
        errors.append(fault("by", str(refused)))
    if len(by) > NAME_CHARS:
        errors.append(fault("by", f"A name has at most {NAME_CHARS} characters."))
    if act == "break" and "fence" not in wanted:
        errors.append(fault("fence", "Open the form from the claim that you mean to break."))
    return FORMS[act].act.request.of(wanted, errors)


def _refusal(result: object) -> str:
    """Return why the act was not done, '' if it was."""
    match result:
        case results.Moved():
            return _MOVED
        case results.StillHeld(now):
            return still_held(now)
        case results.UntilPassed():
            return "That time has passed, so nothing was put on hold."
        case _:
            return ""


def _done(project: Project, act: str, given: Mapping[str, str]) -> Page:
    """Return the redirect to the page that confirms the act."""
    task, fence = given.get("task", ""), given.get("fence", "")
    did = urlencode({"did": act} | ({"fence": fence} if fence else {}))
    path = task_path(project, Task(task)) if task else f"/p/{project}"
    # A header is ASCII, so characters that pages leave to the browser are encoded here.
    path = "".join(char if char.isascii() else quote(char) for char in path)
    location = f"{path}{'&' if '?' in path else '?'}{did}"
    return Response(b"", status_code=303, headers={"Location": location})


def from_here(request: Req, context: BoardContext) -> bool:
    """Return whether a page of this service sent a form, by the browser's headers."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = authorization.place_of(request.headers.get("origin", ""))
    ours = {request.headers.get("host", ""), urlsplit(context.base(request)).netloc}
    return origin in ours - {""}


def user(request: Req) -> str:
    """Return the user name entered in the browser's password prompt, or ''."""
    _, user = authorization.read(request.headers.get("authorization"))
    try:
        return model.plain_text(user[:NAME_CHARS], "A name")
    except model.Refused:
        return ""
