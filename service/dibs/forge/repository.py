"""The project of a repository: from the settings, or derived as client/dibs.py does."""

from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import urlsplit

from dibs.model import Project

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")
_SAME = {"www.github.com": "github.com"}
_CHARS, _CUT = 100, 91


def project_of(url: str, set_by: Mapping[str, str]) -> Project:
    """Return the project of the repository at this page; '' if the URL names no repository.

    `set_by` has projects by owner/repo, in lower case, and takes precedence (DIBS_GITHUB_PROJECTS).
    """
    try:
        place = urlsplit(url)
    except ValueError:
        return Project("")
    steps = [step.lower() for step in place.path.removesuffix(".git").split("/") if step]
    host = (place.hostname or "").rstrip(".")
    if len(steps) != 2 or not host:
        return Project("")
    if chosen := set_by.get("/".join(steps)):
        return Project(chosen)
    return Project(_derived(_SAME.get(host, host), *steps))


def _derived(host: str, owner: str, repository: str) -> str:
    whole = f"{host}/{owner}/{repository}"
    if host == "github.com" and "." not in owner:
        name, is_exact = f"{owner}.{repository}", "--" not in owner
    else:
        name = ".".join(
            (host.replace(".", "--") if "." in host else f"{host}--", owner, repository)
        )
        is_exact = "--" not in host and "." not in owner + repository
    safe = "".join(char if char in _SAFE else "-" for char in name)
    if is_exact and safe == name and safe[0] not in "._-" and len(safe) <= _CHARS:
        return safe
    digest = sha256(whole.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{safe.lstrip('._-')[:_CUT] or 'x'}-{digest}"
