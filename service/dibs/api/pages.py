"""Pages about the service itself: health, problems, the client and the skill."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from typing import Any

from litestar import Request, get
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from dibs import responses
from dibs.api.openapi import document
from dibs.package_files import package_folder
from dibs.problems import BY_CODE, ProblemError
from dibs.public_url import base_url
from dibs.store import Store, StoreDown

Req = Request[Any, Any, Any]
URL = b"__DIBS_URL__"
"""The placeholder for this service's URL."""
PARTS: tuple[str, ...] = (
    "hook.py",
    "agents.py",
    "gate.py",
    "passing.py",
    "push.py",
    "shell.py",
    "work.py",
    "install.py",
    "importing.py",
    "formats.py",
    "checklists.py",
    "people.py",
)
"""Files of the client that dibs.py verifies by their digests; they contain no placeholders."""


@cache
def _digests() -> dict[bytes, bytes]:
    """Return the placeholder in dibs.py for each part's digest, and the digest."""
    digests = {}
    for name in PARTS:
        digest = sha256((package_folder("client") / name).read_bytes()).hexdigest()
        stem = name.removesuffix(".py").upper()
        digests[f"__DIBS_{stem}_SHA256__".encode()] = digest.encode()
    return digests


def _file(folder: str, name: str, url: str) -> responses.Reply:
    """Return a file of the client or the skill, with this service's URL filled in."""
    allowed = {path.name: path for path in package_folder(folder).glob("*") if path.is_file()}
    if name not in allowed:
        raise ProblemError("not-found", "This file does not exist.")
    content = allowed[name].read_bytes()
    if name not in PARTS:
        content = content.replace(URL, url.encode())
        for placeholder, digest in _digests().items():
            content = content.replace(placeholder, digest)
    return responses.Reply(content, responses.TEXT)


def handlers(
    store: Store, down: Callable[[], str], public_url: str | None, *, opened: bool
) -> list[ControllerRouterHandler]:
    """Return the routes outside /v1 that are not the board's.

    `down` returns why the last check of the store failed, or ''. `opened`: no call needs a key.
    """

    @get("/livez", sync_to_thread=False)
    def livez() -> responses.Reply:
        """Return 200: the process is up."""
        return responses.ok({"status": "up"})

    @get("/readyz")
    async def readyz() -> responses.Reply:
        """Return the store's health and durability, or `unavailable`."""
        try:
            health = await store.health()
        except StoreDown as away:
            raise ProblemError("unavailable", away.reason, retry_after=1) from None
        if why := down():  # the background check also writes, as a claim does
            raise ProblemError("unavailable", why, retry_after=1)
        return responses.ok({**responses.builtin(health), "open": opened})

    @get("/problems/{code:str}", sync_to_thread=False)
    def problem(code: FromPath[str]) -> responses.Reply:
        """Return the explanation of a problem code: the page that `type` names."""
        found = BY_CODE.get(code)
        if found is None:
            raise ProblemError("not-found", "No problem has this code.")
        text = f"{found.code} ({found.status}): {found.title}\n\n{found.about}\n"
        return responses.Reply(text.encode(), responses.TEXT)

    @get("/client/{name:str}", sync_to_thread=False)
    def client(request: Req, name: FromPath[str]) -> responses.Reply:
        """Serve dibs.py and the files that belong to it."""
        return _file("client", name, base_url(request, public_url))

    @get("/skill/{name:str}", sync_to_thread=False)
    def skill(request: Req, name: FromPath[str]) -> responses.Reply:
        """Serve the files that `init` installs next to the client."""
        # Older clients fetch install.py from here to update themselves.
        folder = "client" if name == "install.py" else "skill"
        return _file(folder, name, base_url(request, public_url))

    @get("/openapi.json", sync_to_thread=False)
    def openapi() -> responses.Reply:
        """Return the OpenAPI document."""
        return responses.ok(document())

    return [livez, readyz, problem, client, skill, openapi]
