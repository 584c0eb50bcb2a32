"""The service that most teams would write first: FastAPI, and one key per claim, SET NX EX.

It has no fence, no queue, no losses, no events, and no atomic check of the holder on renewal or
release. It runs in a separate virtual environment: dibs does not depend on it.
"""

import json
import os
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from redis.asyncio import Redis

app = FastAPI()
store = Redis.from_url(os.environ["PLAIN_REDIS_URL"], decode_responses=True)
TTL_S = 1800


class PlainClaim(BaseModel):
    """A session's request to claim a task."""

    task: str
    session: str
    label: str = ""
    branch: str = ""
    url: str = ""
    note: str = ""


class Mine(BaseModel):
    """A task and its holder."""

    task: str
    session: str


async def _check(mine: Mine) -> None:
    found = await store.get(f"claim:{mine.task}")
    if found is None or json.loads(found)["session"] != mine.session:
        raise HTTPException(409, "not yours")


@app.post("/claim", status_code=201)
async def claim(claim: PlainClaim) -> dict[str, Any]:
    """Claim a task."""
    key = f"claim:{claim.task}"
    if await store.set(key, claim.model_dump_json(), nx=True, ex=TTL_S):
        return {"task": claim.task, "state": "held", "ttl": TTL_S, "holder": claim.label}
    held, left_s = await store.get(key), await store.ttl(key)
    raise HTTPException(409, {"claim": json.loads(held) if held else None, "retry_after": left_s})


@app.post("/heartbeat")
async def heartbeat(mine: Mine) -> dict[str, Any]:
    """Extend a claim."""
    await _check(mine)
    await store.expire(f"claim:{mine.task}", TTL_S)
    return {"task": mine.task, "ttl": TTL_S}


@app.post("/release")
async def release(mine: Mine) -> dict[str, Any]:
    """End a claim."""
    await _check(mine)
    await store.delete(f"claim:{mine.task}")
    return {"task": mine.task, "state": "free"}


@app.get("/claims")
async def list_(prefix: str) -> list[dict[str, Any]]:
    """List the claims of a project."""
    keys = [key async for key in store.scan_iter(f"claim:{prefix}:*", count=1000)]
    return [json.loads(value) for value in await store.mget(keys) if value] if keys else []


@app.get("/claims/{task}")
async def show(task: str) -> dict[str, Any]:
    """Read one claim."""
    found = await store.get(f"claim:{task}")
    return json.loads(found) if found else {"task": task, "state": "free"}
