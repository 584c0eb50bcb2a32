"""Authorization and rate limits, decided only here, before anything else is read or written."""

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from time import monotonic
from typing import Any

from litestar import Request

from dibs.acts.act import KNOWN, Claimant
from dibs.addresses import Proxies, network_of
from dibs.api.tokens import Tokens
from dibs.authorization import REALM, place_of, read
from dibs.characters import fault_of_name
from dibs.problems import ProblemError, invalid
from dibs.rate_limit import RateLimit

Req = Request[Any, Any, Any]

PUBLIC = (
    *("/livez", "/readyz", "/metrics", "/openapi.json"),
    *("/client/", "/skill/", "/problems/", "/board/"),
)
"""Paths that need no key: they reveal nothing of claims, and a session must get the client."""
_SECRETS = frozenset(
    b"key team_key admin_key api_key apikey token access_token session dibs_session dibs_key "
    b"authorization password secret".split()
)
WRONG_MOST = 10
"""Wrong keys of one address in WRONG_SPAN_S that are answered at once; further ones are delayed."""
WRONG_SPAN_S = 60.0
WRONG_WAIT_S = 1.0
ADDRESSES_MOST = 10_000
READS_SAVED_S = 2.0
"""Seconds of its rate that a project without reads saves up, for a burst."""
ADDRESS_READS_SAVED_S = 10.0
NEW_SAVED_S = 60.0
"""A minute's worth: the sessions of a team behind one address start and claim all at once."""
NAME_CHARS = 100
TURN_OVER = "dibs_turn_over"
"""The scope key of the function that ends the turn of a read (admission.py)."""


@dataclass(frozen=True, slots=True)
class AccessLimits:
    """Requests per second that this process admits, 0 for no limit."""

    reads_per_project: int = 0
    reads_per_address: int = 0
    """Of callers without a key."""
    new_per_address: int = 0
    """Claims of tasks that a session does not hold yet, of callers without a key."""


NONE = AccessLimits()


class Access:
    """The keys of one service, and what each of them permits.

    A comparison takes the same time wherever two keys differ.
    """

    def __init__(
        self,
        team: Sequence[str] = (),
        admin: Sequence[str] = (),
        *,
        ci: Sequence[str] = (),
        projects: Sequence[str] = (),
        read_open: bool = False,
        limits: AccessLimits = NONE,
        proxies: Proxies | None = None,
    ) -> None:
        """`projects`: exact names and `owner.*`, empty for any; `read_open`: reads need no key."""
        self._team = [_digest(key) for key in team]
        self._admin = [_digest(key) for key in admin]
        self._ci = [_digest(key) for key in ci]
        self._tokens = Tokens(admin)
        self._projects = frozenset(name for name in projects if not name.endswith(".*"))
        self._owners = tuple(name[:-1] for name in projects if name.endswith(".*"))
        self._read_open = read_open
        self._proxies = proxies or Proxies()
        self._reads = RateLimit(limits.reads_per_project, READS_SAVED_S)
        self._address_reads = RateLimit(limits.reads_per_address, ADDRESS_READS_SAVED_S)
        self._new = RateLimit(limits.new_per_address, NEW_SAVED_S)
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    @property
    def open(self) -> bool:
        """Whether no call needs a team key."""
        return not self._team

    @property
    def breakable(self) -> bool:
        """Whether there is an admin key, so that somebody may break a claim."""
        return bool(self._admin)

    def is_admin(self, key: str) -> bool:
        """Return whether `key` is an admin key."""
        return _among(key, self._admin)

    def gate(self) -> Callable[[Req], Awaitable[None]]:
        """Return the guard that every request to the framework passes first."""

        async def check(request: Req) -> None:
            try:
                key = request.headers.get("authorization")
                project = self.admit(request.scope, key)
                if not request.scope["path"].startswith(PUBLIC):
                    self._pay_for_read(request.scope, key, project)
            except ProblemError as problem:
                await self.slow_down(request.scope, problem)
                raise

        return check

    def admit(self, scope: Any, authorization: str | None) -> str:
        """Return the project of an authorized request, '' for none. Raises ProblemError."""
        if query := scope["query_string"]:
            _refuse_secrets(query)
        path: str = scope["path"]
        if path.startswith(PUBLIC):
            return ""
        parts = path.split("/", 3)
        page = parts[1] != "v1"
        project = parts[2] if len(parts) > 2 and parts[1] in ("v1", "p") else ""
        if self._ci and self._is_of_ci(scope, authorization, page=page):
            pass
        # An act on a page needs an admin key in its form (board/forms.py).
        elif self._team and not (self._read_open and (page or scope["method"] in ("GET", "HEAD"))):
            self._check_key(authorization, project, page=page)
        if project and not self.serves(project):
            raise ProblemError(
                "not-found",
                f"This service does not accept the project {project[:100]!r}: its operator has "
                "listed the accepted projects (DIBS_PROJECTS). Nothing was changed.",
            )
        return project

    def _is_of_ci(self, scope: Any, authorization: str | None, *, page: bool) -> bool:
        """Return whether the request has a key for CI. Raise `forbidden` if it may not do this."""
        given, _ = read(authorization)
        if given is None or not _among(given, self._ci):
            return False
        path, reads = scope["path"], scope["method"] in ("GET", "HEAD")
        if not page and (reads or path.endswith("/resolve")):
            return True
        raise ProblemError(
            "forbidden",
            "A key for CI can only read, verify and resolve. Sessions claim with the team key.",
        )

    def _pay_for_read(self, scope: Any, key: str | None, project: str) -> None:
        """Count a read, or raise `rate-limited`. Claims and heartbeats have separate limits."""
        now_s = monotonic()
        address = "" if self._shows_key(key, project) else self._proxies.stranger(scope)
        if address and (wait_s := self._address_reads.wait_s(address, now_s)):
            raise too_often("address", wait_s)
        if project and (wait_s := self._reads.wait_s(project, now_s)):
            raise too_often("project", wait_s)
        if address:
            self._address_reads.pay(address, now_s)
        if project:
            self._reads.pay(project, now_s)

    def _shows_key(self, authorization: str | None, project: str) -> bool:
        """Return whether an admitted read carries a valid key; False if the service has none."""
        if not self._team or not self._read_open:
            return bool(self._team)
        given, _ = read(authorization)
        if given is None:
            return False
        keys = self._team + self._admin + self._ci
        return _among(given, keys) or self._tokens.refusal(given, project) == ""

    def claimant(self, scope: Any) -> Claimant:
        """Return whose limits by address an admitted claim counts for."""
        address = "" if self._team else self._proxies.stranger(scope)
        if not address:
            return KNOWN
        return Claimant(address, ceil(self._new.wait_s(address, monotonic())))

    def pay_for_new(self, claimant: Claimant, count: int) -> None:
        """Count `count` new claims that were granted to an address."""
        self._new.pay(claimant.address, monotonic(), count)

    def serves(self, project: str) -> bool:
        """Return whether the service accepts a project."""
        if not self._projects and not self._owners:
            return True
        return project in self._projects or project.startswith(self._owners or ("\0",))

    def _check_key(self, authorization: str | None, project: str, *, page: bool) -> None:
        """Accept a team or admin key, or a token of the project; else raise `unauthorized`."""
        given, _ = read(authorization)
        why = "is missing" if given is None else "is not one of this service's"
        if given is not None:
            if _among(given, self._team):
                return
            if _among(given, self._admin):
                if not page:
                    return
                raise _unauthorized(
                    "The admin key is not a login for pages, because a browser would send it with "
                    "every request. Log in with the team key; the board asks for the admin key to "
                    "break a claim."
                )
            refusal = self._tokens.refusal(given, project)
            if refusal == "":
                return
            if refusal:
                raise _unauthorized(refusal)
        raise _unauthorized(
            f"The team key {why}. Send `Authorization: Bearer <team key>` (DIBS_KEY for the "
            "client), or HTTP Basic with the key as the password."
        )

    def check_person(self, headers: Mapping[bytes, bytes], *, ci: bool = False) -> str:
        """Accept an admin key, or with `ci` a key for CI. Return the Basic user name, or ''. Raises
        `forbidden`.

        A cross-site request of a browser is refused first: it may carry a remembered login.
        """
        if _from_elsewhere(headers):
            raise ProblemError(
                "forbidden",
                "A web page of another site sent this request. In a browser, use this service's "
                "own board.",
            )
        given, user = read(headers.get(b"authorization", b"").decode("latin-1"))
        keys = self._admin + (self._ci if ci else [])
        if given is None or not _among(given, keys):
            what, name = ("a key for CI or an admin key", "CI") if ci else ("an admin key", "ADMIN")
            raise ProblemError(
                "forbidden",
                f"This act needs {what}. "
                + (
                    "Send it as `Authorization: Bearer <key>`; the operator of the service has it."
                    if keys
                    else f"This service has no such key: its operator can set DIBS_{name}_KEY."
                ),
            )
        return "" if fault_of_name(user) else user[:NAME_CHARS]

    async def slow_down(self, scope: Any, error: Exception) -> None:
        """Delay the response to a wrong key if its address has sent several.

        Valid keys are never delayed, because sessions of one provider share addresses.
        """
        if not isinstance(error, ProblemError) or error.problem.code not in (
            "unauthorized",
            "forbidden",
            "bad-signature",
        ):
            return
        address, now = network_of(scope), monotonic()
        count, since = self._wrong.pop(address, (0, now))
        if now - since > WRONG_SPAN_S:
            count, since = 0, now
        self._wrong[address] = (count + 1, since)
        while len(self._wrong) > ADDRESSES_MOST:
            self._wrong.popitem(last=False)
        if count >= WRONG_MOST:
            if over := scope.get(TURN_OVER):
                over()  # other reads need not wait for this delay
            await asyncio.sleep(WRONG_WAIT_S)


def too_often(whose: str, wait_s: float) -> ProblemError:
    """Return the `rate-limited` problem: whose limit, and how long to wait."""
    retry_after = ceil(wait_s)
    return ProblemError(
        "rate-limited",
        f"Too many requests from this {whose}. Ask again in {retry_after} s.",
        retry_after=retry_after,
        whose=whose,
    )


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError("unauthorized", detail, headers={"WWW-Authenticate": REALM})


def _from_elsewhere(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a browser sent this for another site's page (Fetch, 3.2 and 3.7)."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    if origin is None:
        return False
    return place_of(origin.decode("latin-1")).encode() != headers.get(b"host", b"")


def _refuse_secrets(query: bytes) -> None:
    """Raise `invalid` for a key or session in a URL, because every proxy on the way logs URLs."""
    names = (pair.partition(b"=")[0].lower().replace(b"-", b"_") for pair in query.split(b"&"))
    if found := _SECRETS.intersection(names):
        raise invalid(
            [
                {
                    "field": name.decode(),
                    "message": "Keys and sessions do not belong in a URL, because proxies log "
                    "URLs. Send them in headers, and replace this one: others may have seen it.",
                }
                for name in sorted(found)
            ]
        )


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def _among(given: str, keys: Sequence[bytes]) -> bool:
    digest = _digest(given)
    matches = [hmac.compare_digest(digest, key) for key in keys]  # all keys, every time
    return any(matches)
