"""Refusal of ambiguous requests before any effect: dibs and a proxy in front must not read the same
request in different ways."""

from collections.abc import Iterable
from typing import Any

from litestar.exceptions import NotFoundException
from litestar.types import ASGIApp

from dibs.acts import READS
from dibs.api import errors
from dibs.api.headers import Header, doubled
from dibs.problems import ProblemError, invalid


def single(request: Iterable[Header]) -> None:
    """Raise `invalid` if a deciding header occurs twice: one reader would use the first, another
    the last."""
    if found := doubled(request):
        message = "The request has this header twice. Send it once."
        raise invalid([{"field": name, "message": message} for name in found])


def short(declared: int, size: int) -> ProblemError:
    """Return the problem of a body with a missing part; the rest might mean something else."""
    message = f"{declared} bytes were declared, but {size} arrived. Send the request again."
    return invalid([{"field": "Content-Length", "message": message}])


def exact(app: ASGIApp) -> ASGIApp:
    """Wrap `app`: each resource has one path, and ambiguous requests are refused.

    The framework decodes paths, and drops doubled and trailing slashes. A proxy that guards a path
    would not match such variants of it.
    """

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        try:
            single(scope["headers"])
            path = _path(scope["raw_path"].decode("latin-1"))
        except (ProblemError, NotFoundException) as error:
            await errors.answer(scope, error).send(send, [])
            return
        scope["path"] = path  # in place: outer wrappers read what the app leaves in the scope
        if scope["method"] == "POST":
            receive = _counted(scope, receive)
        await app(scope, receive, send)

    return wrapped


_OF_TASKS = {("v1", path.removesuffix("/{task}")) for path in READS if path.endswith("/{task}")}
_OF_TASKS |= {("p", "t")}
"""The first and third parts of the paths that end with a task."""


def _path(raw: str) -> str:
    """Return the path by which the framework finds a route: the raw path. Raise NotFoundException
    for an empty part or an encoded slash, except in a task's name, which its handler reads from the
    raw path."""
    parts = raw.split("/", 4)
    named = len(parts) == 5 and (parts[1], parts[3]) in _OF_TASKS
    task = parts[4] if named else ""
    before = raw.removesuffix(f"/{task}") if task else raw
    if before != "/" and ("" in before.split("/")[1:] or "%2F" in before.upper()):
        raise NotFoundException
    return f"{before}/-" if task and not task.strip("/") else raw


def _counted(scope: Any, receive: Any) -> Any:
    """Wrap `receive`: raise `invalid` if the body's size is not the declared one."""
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
