"""What the service says of itself: health, problems, its own client and skill."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from typing import Any

from litestar import Request, Response, get
from litestar.types import ControllerRouterHandler

from dibs.api import answers, wire
from dibs.api.openapi import document
from dibs.api.problems import BY_CODE, ProblemError
from dibs.shipped import shipped
from dibs.store import Store, StoreDown

Req = Request[Any, Any, Any]
URL, INSTALL = b"__DIBS_URL__", b"__DIBS_INSTALL_SHA256__"
"""Placeholders: this service's URL, and what the client knows its install.py by."""


def base_url(request: Req, public_url: str | None) -> str:
    """Return the URL that callers use for this service."""
    return (public_url or str(request.base_url)).rstrip("/")


@cache
def _install_sha256() -> str:
    """Return the digest of install.py as it is served: nothing is filled into it."""
    return sha256((shipped("skill") / "install.py").read_bytes()).hexdigest()


def handlers(
    store: Store, down: Callable[[], str], public_url: str | None, *, opened: bool
) -> list[ControllerRouterHandler]:
    """Return the routes outside /v1 that belong to no board.

    `down` says why the last look at the store failed, or ''. `opened`: nobody needs a key.
    """

    @get("/livez", sync_to_thread=False)
    def livez() -> wire.Reply:
        """The process is up."""
        return answers.ok({"status": "up"})

    @get("/readyz")
    async def readyz() -> wire.Reply:
        """The store answers, and says how well it keeps what it is told."""
        try:
            health = await store.health()
        except StoreDown as away:
            raise ProblemError("unavailable", away.reason, retry_after=1) from None
        if why := down():  # a look is more than reading: it writes, as a claim does
            raise ProblemError("unavailable", why, retry_after=1)
        return answers.ok({**wire.builtin(health), "open": opened})

    @get("/problems/{code:str}", sync_to_thread=False)
    def problem(code: str) -> Response[bytes]:
        """Explain a problem code: the page that `type` names."""
        found = BY_CODE.get(code)
        if found is None:
            raise ProblemError("not-found", "There is no problem with this code.")
        text = f"{found.code} ({found.status}): {found.title}\n\n{found.about}\n"
        return Response(text.encode(), media_type=wire.TEXT)

    @get(["/client/dibs.py", "/skill/{name:str}"], sync_to_thread=False)
    def file(request: Req, name: str | None = None) -> Response[bytes]:
        """Serve the client and the skill, with this service's URL filled in."""
        folder, wanted = ("skill", name) if name else ("client", "dibs.py")
        allowed = {path.name: path for path in shipped(folder).glob("*") if path.is_file()}
        if wanted not in allowed:
            raise ProblemError("not-found", "There is no such file here.")
        content = allowed[wanted].read_bytes().replace(URL, base_url(request, public_url).encode())
        content = content.replace(INSTALL, _install_sha256().encode())
        return Response(content, media_type=wire.TEXT)

    @get("/openapi.json", sync_to_thread=False)
    def openapi() -> wire.Reply:
        """Describe the interface."""
        return answers.ok(document())

    return [livez, readyz, problem, file, openapi]
