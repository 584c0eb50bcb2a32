"""The types of an act: its entry in the registry (dibs.acts), and one call of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from dibs.model import Project, Session
from dibs.requests import Request
from dibs.responses import Reply

R = TypeVar("R", bound=Request)


class Claimant(NamedTuple):
    """Whom a claim counts for, besides its session."""

    address: str = ""
    """Where it comes from, when that is counted; else ''."""
    wait_s: int = 0
    """How long nothing new is granted to that address; what a session holds it may renew."""


KNOWN = Claimant()
"""Somebody with a key, or at an address that says nothing."""


def never() -> bool:
    """Say that who called has not hung up, where nobody looks."""
    return False


@dataclass(slots=True)
class Call(Generic[R]):
    """One call of an act, checked."""

    project: Project
    request: R
    session: Session | None = None
    """Who calls; None where a person does."""
    key: str = ""
    """The Idempotency-Key, '' for none."""
    by: str = ""
    """The person who calls, as far as known."""
    claimant: Claimant = KNOWN
    has_hung_up: Callable[[], bool] = never
    """Whether who called waits for no answer any more."""


@dataclass(frozen=True, slots=True)
class Act:
    """One act. All that lists acts is made from these: dispatch, metrics, OpenAPI, docs, tests."""

    name: str
    """As in its path, its metrics and its operationId."""
    path: str
    """What follows /v1/{project}/."""
    summary: str
    request: type[Request]
    success: dict[int, tuple[str, ...]]
    """By status, the shapes that the answer may have (openapi.py names them)."""
    problems: tuple[str, ...]
    """The codes of problems that are its own."""
    run: Callable[..., Awaitable[Any]]
    """Do it: a POST on Claims, with a Call; what is read as api/routes.py knows."""
    answer: Callable[..., Reply]
    """Turn what it came to, and a POST's request, into an answer; or raise a ProblemError."""
    method: Literal["POST", "GET"] = "POST"
    caller: Literal["session", "admin", "ci", "reader"] = "session"
    body_most: int = 0
    """Bytes of a body, where they are more than the setting for all says."""
    commands: tuple[str, ...] = ()
    """Those of the client that call it, as far as an agent may run them without asking a person."""
    by_address: bool = False
    """What it grants counts for the address that it came from."""
