"""The cost of the framework alone: a claim's body comes back unchanged."""

from typing import Any

from litestar import Litestar, post
from litestar.params import FromPath, JSONBody


@post("/v1/{project:str}/claim")
async def claim(project: FromPath[str], data: JSONBody[dict[str, Any]]) -> dict[str, Any]:
    """Return the request's body."""
    return data


app = Litestar([claim], openapi_config=None, logging_config=None)
