"""Parses GitHub's payloads, after their signature was checked.

No field is trusted to be present or to have its type: a payload that lacks one is Unreadable.
Payloads contain text of strangers (titles, bodies, names of branches), which is cut and cleaned
here.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from dibs import characters, model

OPENING = ("opened", "reopened", "ready_for_review")
LISTING = ("opened", "edited", "labeled", "unlabeled", "reopened")
ENDING = ("closed", "deleted", "transferred")
INSIDERS = ("OWNER", "MEMBER", "COLLABORATOR")
"""The author associations whose trailers count even if the branch is in a fork."""
TRAILERS_MOST = 10
PRIORITY = re.compile(r"p([0-4])|priority\s*[:/_ -]\s*p?([0-4])", re.IGNORECASE)
_LOGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")
_TRAILER = re.compile(r"^[ \t]*Dibs:[ \t]+(\S[^\r\n]*?)[ \t\r]*$", re.IGNORECASE | re.MULTILINE)
_CUT = "…"


class Unreadable(ValueError):
    """A payload without the shape of its event; the message names the fault."""


class Trailer(NamedTuple):
    """A line `Dibs: TASK FENCE`."""

    task: model.Task
    fence: model.Fence | None


@dataclass(frozen=True, slots=True)
class PullRequest:
    """The pull request of an event."""

    url: str
    merged: bool
    sha: str
    branch: str
    """'' for a branch in another repository: anyone may have one of any name."""
    trailers: tuple[Trailer, ...]
    """Empty if the author is a stranger."""


@dataclass(frozen=True, slots=True)
class Issue:
    """The issue of an event."""

    number: int
    title: str
    body: str
    url: str
    open: bool
    labels: tuple[str, ...]

    @property
    def priority(self) -> int:
        """The priority from the first label that names one, else the usual one."""
        for label in self.labels:
            if found := PRIORITY.fullmatch(label.strip()):
                return int(found[1] or found[2])
        return model.PRIORITY


@dataclass(frozen=True, slots=True)
class ForgeEvent:
    """One event: its kind, its repository, who caused it, and its pull request or issue."""

    kind: str
    action: str
    repository: str
    """owner/repo, in lower case."""
    page: str
    """The URL of the repository."""
    by: str
    thing: PullRequest | Issue | None = None
    at_s: int = 0
    """The last change of the thing, in seconds since 1970; 0 if the payload has none."""


def read(kind: str, body: bytes) -> ForgeEvent:
    """Return the event of a delivery. Raises Unreadable."""
    try:
        payload = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"The body is not JSON: {str(error)[:200]}.") from None
    if not isinstance(payload, dict):
        raise Unreadable("The body must be one JSON object.")
    if kind not in ("pull_request", "issues"):
        return ForgeEvent(kind, _or_none(payload, "action", str) or "", "", "", "")
    action, repository = _get(payload, "action", str), _get(payload, "repository", dict)
    name, page = _get(repository, "full_name", str), _get(repository, "html_url", str)
    login = _or_none(_or_none(payload, "sender", dict) or {}, "login", str) or ""
    thing = _get(payload, "pull_request" if kind == "pull_request" else "issue", dict)
    known = _pull_request(thing, name) if kind == "pull_request" else _issue(thing)
    by = f"{login.removesuffix('[bot]')}@github"
    return ForgeEvent(
        kind,
        action,
        name.lower(),
        page,
        by if _LOGIN.match(login) and not characters.fault_of_name(by) else "github",
        known,
        _instant_s(_or_none(thing, "updated_at", str)),
    )


def trailers_in(text: str) -> tuple[Trailer, ...]:
    """Return the trailers `Dibs: TASK FENCE` of a text, one for each task with a valid name."""
    found: dict[model.Task, Trailer] = {}
    for line in _TRAILER.findall(text)[:TRAILERS_MOST]:
        name, _, last = line.rpartition(" ")
        fence: model.Fence | None = None
        try:
            if name and last.isascii() and last.isdigit():
                fence, line = model.fence(last), name.rstrip()
            task = model.task(unicodedata.normalize("NFC", line))
        except model.Refused:
            continue
        found.setdefault(task, Trailer(task, fence))
    return tuple(found.values())


def _pull_request(given: dict[str, Any], repository: str) -> PullRequest:
    head = _get(given, "head", dict)
    of = _or_none(_or_none(head, "repo", dict) or {}, "full_name", str) or ""
    is_here = of.lower() == repository.lower()
    trusted = is_here or given.get("author_association") in INSIDERS
    branch = _get(head, "ref", str)
    usable = is_here and len(branch) <= 200 and not characters.fault_of_name(branch)
    return PullRequest(
        url=_get(given, "html_url", str),
        merged=bool(_or_none(given, "merged", bool)),
        sha=(_or_none(given, "merge_commit_sha", str) or "")[:64],
        branch=branch if usable else "",
        trailers=trailers_in(_or_none(given, "body", str) or "") if trusted else (),
    )


def _issue(given: dict[str, Any]) -> Issue:
    number = _get(given, "number", int)
    labels = _or_none(given, "labels", list) or []
    return Issue(
        number=number,
        title=_line(_get(given, "title", str), model.TITLE_CHARS) or f"#{number}",
        body=_prose(_or_none(given, "body", str) or ""),
        url=_get(given, "html_url", str),
        open=_get(given, "state", str) == "open",
        labels=tuple(
            label["name"]
            for label in labels
            if isinstance(label, dict) and isinstance(label.get("name"), str)
        ),
    )


def _line(text: str, most: int) -> str:
    """Return a text of strangers as one line that is safe to show, cut to `most` characters."""
    seen = (
        char if not characters.fault_of_name(char) else " " * char.isspace()
        for char in unicodedata.normalize("NFC", text)
    )
    flat = " ".join("".join(seen).split())
    if characters.fault_of_name(flat):  # too many marks in a row
        flat = "".join(char for char in flat if unicodedata.category(char)[0] != "M")
    return flat[: most - 1] + _CUT if len(flat) > most else flat


def _prose(text: str) -> str:
    """Return a text of strangers so that it is safe to show, cut to model.BODY_CHARS."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = "".join(char for char in text if not characters.fault_of_prose(char)).strip()
    return kept[: model.BODY_CHARS - 1] + _CUT if len(kept) > model.BODY_CHARS else kept


def _instant_s(text: str | None) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp()) if text else 0
    except (ValueError, OverflowError):
        return 0


def _or_none(given: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return a field, None if it is absent. Raises Unreadable if it has another type."""
    value = given.get(name)
    is_right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if value is None or is_right:
        return value
    raise Unreadable(f"The field {name} of this event has another type than GitHub sends.")


def _get(given: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return a field. Raises Unreadable if it is absent, empty, or has another type."""
    value = _or_none(given, name, kind)
    if value is None or value == "":
        raise Unreadable(f"The field {name} of this event is missing or empty.")
    return value
