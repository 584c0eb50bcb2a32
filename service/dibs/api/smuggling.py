"""Refuses ambiguous requests before anything is done: dibs and a proxy in front must not read the
same request in different ways."""

from collections.abc import Iterable
from typing import Any

from litestar.exceptions import NotFoundException
from litestar.types import ASGIApp

from dibs.acts import READS
from dibs.api import errors
from dibs.api.headers import Header, doubled
from dibs.problems import ProblemError, invalid


def single(request: Iterable[Header]) -> None:
    """Refuse a header that decides and stands there twice: one reader would take the first, another
    the last."""
    if found := doubled(request):
        message = "The request has this header twice. Send it once."
        raise invalid([{"field": name, "message": message} for name in found])


def short(declared: int, size: int) -> ProblemError:
    """Say that a part of a body is lost: nothing is done then, it might mean something else."""
    message = f"{declared} bytes were declared, and {size} arrived. Send the request again."
    return invalid([{"field": "Content-Length", "message": message}])


def exact(app: ASGIApp) -> ASGIApp:
    """Wrap `app`: one path leads to each thing, and what is ambiguous is refused.

    The framework decodes a path, and drops slashes that are doubled or at its end; a proxy that
    guards a path does not know of the others then.
    """

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        try:
            single(scope["headers"])
            path = _path(scope["raw_path"].decode("latin-1"))
        except (ProblemError, NotFoundException) as error:
            await errors.answer(scope, error).send(send, [])
            return
        scope["path"] = path  # in place: what is left in the scope is read by who wraps this
        if scope["method"] == "POST":
            receive = _counted(scope, receive)
        await app(scope, receive, send)

    return wrapped


_OF_TASKS = {("v1", path.removesuffix("/{task}")) for path in READS if path.endswith("/{task}")}
_OF_TASKS |= {("p", "t")}
"""The first and third parts of the paths that go on with a task."""


def _path(raw: str) -> str:
    """Return what the framework finds a route by: the path as it was sent, without an empty part or
    a hidden slash. Only a task's name may have those, and its handler reads it from what was sent.
    """
    parts = raw.split("/", 4)
    named = len(parts) == 5 and (parts[1], parts[3]) in _OF_TASKS
    task = parts[4] if named else ""
    before = raw.removesuffix(f"/{task}") if task else raw
    if before != "/" and ("" in before.split("/")[1:] or "%2F" in before.upper()):
        raise NotFoundException
    return f"{before}/-" if task and not task.strip("/") else raw


def _counted(scope: Any, receive: Any) -> Any:
    """Return a `receive` that gives a body whole, or raises the problem with its size."""
    declared = int(dict(scope["headers"]).get(b"content-length", -1))
    size = 0

    async def counting() -> Any:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if not message.get("more_body", False) and size != declared >= 0:
                raise short(declared, size)
        return message

    return counting
