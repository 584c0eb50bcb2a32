"""`dibs purge PROJECT`: delete a project and all its data from the store."""

import asyncio
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

import redis

from dibs.model import Project
from dibs.store import StoreDown, StoreFull
from dibs.store.keys import keys
from dibs.store.local import datadir
from dibs.store.local.embedded import EmbeddedStore, StoreUnavailable
from dibs.store.redis import store_url
from dibs.store.redis.link import Link
from dibs.store.store import INDEX

SCANNED = 1_000
"""Keys that the store scans in one go; it answers other callers in between."""


def purge(project: Project, *, redis_url: str | None, data_dir: Path) -> str:
    """Delete every key of `project`; return a line about it. Raises StoreUnavailable.

    Fences stay safe: the next one in a project of that name is the store's time, so it is larger
    than any before. For a running service on the store, the project is gone at once.
    """
    with ExitStack() as held:
        url = redis_url or _private(data_dir, held)
        try:
            count = asyncio.run(_purge(url, project))
        except StoreDown as down:
            raise StoreUnavailable(f"{down.reason} A part may be deleted: repeat it.") from None
    if not count:
        return f"{project} has nothing in the store"
    return f"deleted {project}: {count} keys, its claims and its events"


async def _purge(url: str, project: Project) -> int:
    link = store_url.link_to(store_url.parse(url))
    try:
        # The project stays in the index for now: a running service relies on the entry, and sweeps
        # later claims only with it. A project without data is shown nowhere, and the sweep removes
        # its entry.
        seconds, _ = await link.command("TIME")
        with suppress(StoreFull):  # then there are no new claims to sweep
            await link.command("ZADD", INDEX, "XX", int(seconds) * 1000, project)
        return sum([await _delete(link, server, project) for server in await link.servers()])
    finally:
        await link.close()


async def _delete(link: Link, server: Link, project: Project) -> int:
    """Delete the project's keys on `server`; return their number."""
    pattern = "".join(f"\\{char}" if char in "*?[]\\" else char for char in keys(project)) + ":*"
    count, cursor = 0, "0"
    while True:
        cursor, found = await server.command("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED)
        if found:
            count += int(await link.command("UNLINK", *found))
        if cursor == "0":
            return count


def _private(data_dir: Path, held: ExitStack) -> str:
    """Return the URL of the private store in `data_dir`, and start it unless it runs."""
    directory = data_dir.resolve()
    if not (directory / "dibs.lock").exists():
        raise StoreUnavailable(f"{data_dir} holds no claims of a private store.")
    path = str(directory / datadir.SOCKET)
    try:
        with datadir.client(path) as running:
            running.ping()
    except redis.RedisError:
        started = EmbeddedStore.start(directory)
        held.callback(started.stop)
        return started.url
    return "unix://" + quote(path)
