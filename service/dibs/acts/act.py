"""The types of an act: its entry in the registry (dibs.acts), and one call of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from dibs.model import Project, Session
from dibs.requests import Request
from dibs.responses import Reply

R = TypeVar("R", bound=Request)


class Claimant(NamedTuple):
    """The address that a claim counts for, in addition to its session."""

    address: str = ""
    """The caller's address, if claims are counted by it; else ''."""
    wait_s: int = 0
    """Seconds until the address may get a new claim; a session may renew its claims before."""


KNOWN = Claimant()
"""A caller whose address does not count: it has a key, or the address identifies nobody."""


def never() -> bool:
    """Return that the caller has not hung up, for calls whose connection is not watched."""
    return False


@dataclass(slots=True)
class Call(Generic[R]):
    """One validated call of an act."""

    project: Project
    request: R
    session: Session | None = None
    """The calling session; None if a person or CI calls."""
    key: str = ""
    """The Idempotency-Key, '' for none."""
    by: str = ""
    """The name of the calling person or CI; '' if unknown."""
    claimant: Claimant = KNOWN
    has_hung_up: Callable[[], bool] = never
    """Whether the caller no longer waits for an answer."""


@dataclass(frozen=True, slots=True)
class Act:
    """One act. Dispatch, metrics, OpenAPI, docs and tests derive their lists of acts from these."""

    name: str
    """Its name in metrics, and its operationId."""
    path: str
    """Its path after /v1/{project}/."""
    summary: str
    request: type[Request]
    success: dict[int, tuple[str, ...]]
    """The schemas of its answers by status (openapi.py defines them)."""
    problems: tuple[str, ...]
    """The codes of the problems that are specific to it."""
    run: Callable[..., Awaitable[Any]]
    """Runs it: a POST with Claims and a Call, a read with arguments from api/routes.py."""
    answer: Callable[..., Reply]
    """Turns its result, and a POST's request, into an answer, or raises ProblemError."""
    method: Literal["POST", "GET"] = "POST"
    caller: Literal["session", "admin", "ci", "reader"] = "session"
    body_most: int = 0
    """Its limit for the bytes of a body, if that is larger than the setting for all acts."""
    commands: tuple[str, ...] = ()
    """The client's commands that call it and that an agent may run without asking a person."""
    by_address: bool = False
    """Whether the claims that it grants count for the caller's address."""
