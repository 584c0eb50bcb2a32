"""Run the service: find or start its store, say what it is, and serve until told to stop."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

from dibs import __version__
from dibs.app import build
from dibs.server import Server, config
from dibs.settings import Settings
from dibs.store.embedded import EmbeddedStore, StoreUnavailable
from dibs.store.health import Health
from dibs.store.link import StoreDown
from dibs.store.store import Unfit

log = logging.getLogger("dibs")


@contextlib.contextmanager
def the_store(settings: Settings) -> Iterator[tuple[str | None, str]]:
    """Give the store's URL (None: in memory) and what to call it; stop what was started."""
    if settings.memory:
        yield None, "memory: NOTHING IS KEPT, every claim is gone when this process ends"
    elif settings.redis_url:
        url = settings.redis_url.get_secret_value()
        parts = urlsplit(url)
        yield url, f"{parts.scheme}://{parts.hostname or parts.path}"
    else:
        store = EmbeddedStore.start(settings.data_dir)
        try:
            yield store.url, f"{store.server} in {settings.data_dir}"
        finally:
            store.stop()


def run(settings: Settings) -> int:
    """Serve until a signal; return the exit code."""
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        with the_store(settings) as (url, name):
            return asyncio.run(_serve(settings, url, name))
    except StoreUnavailable as unavailable:
        print(f"dibs serve: {unavailable}", file=sys.stderr)
        return 1


async def _serve(settings: Settings, url: str | None, name: str) -> int:
    service = build(settings, url)
    try:
        async with service.running():
            health = await service.store.health()
            server = Server(config(settings, service), service)
            server.say = lambda base: _hello(settings, base, name, health)
            await server.serve()
            return 0 if server.started else 1
    except (StoreDown, Unfit) as refusal:
        print(f"dibs serve: {refusal}", file=sys.stderr)
        return 1


def _hello(settings: Settings, base: str, name: str, health: Health) -> None:
    """Say where the service is, what it stands on, and what is open."""
    print(f"dibs {__version__} is at {settings.public_url or base}")
    print(f"store: {name}; durability: {health.durability}")
    for reason in health.reasons:
        print(f"  {reason}")
    if not settings.team_key:
        print("no DIBS_TEAM_KEY: whoever reaches this URL can claim")
    sys.stdout.flush()
