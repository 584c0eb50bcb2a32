"""The URL of this service, as people and sessions call it."""

from typing import Any

from litestar import Request


def base_url(request: Request[Any, Any, Any], public_url: str | None) -> str:
    """Return the URL that is set, else the one that `request` was sent to; no slash ends it."""
    return (public_url or str(request.base_url)).rstrip("/")
