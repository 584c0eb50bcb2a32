"""What the framework costs with nothing behind it: the body of a claim comes back as it was."""

from typing import Any

from litestar import Litestar, post
from litestar.params import FromPath, JSONBody


@post("/v1/{project:str}/claim")
async def claim(project: FromPath[str], data: JSONBody[dict[str, Any]]) -> dict[str, Any]:
    """Answer with what was sent."""
    return data


app = Litestar([claim], openapi_config=None, logging_config=None)
