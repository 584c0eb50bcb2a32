"""The URL by which people and sessions reach this service."""

from typing import Any

from litestar import Request


def base_url(request: Request[Any, Any, Any], public_url: str | None) -> str:
    """Return `public_url`, else the URL that `request` was sent to; without a trailing slash."""
    return (public_url or str(request.base_url)).rstrip("/")
