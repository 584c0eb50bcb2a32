"""Run the service: find or start its store, say what it is, and serve until told to stop."""

import asyncio
import contextlib
import importlib
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from dibs import __version__, logs
from dibs.settings import BACKLOG, Settings
from dibs.store import disk, mark, memory
from dibs.store.embedded import EmbeddedStore, StoreUnavailable
from dibs.store.failures import Moved, StoreDown, StoreFull, said
from dibs.store.store import Unfit
from dibs.store.target import parse

log = logging.getLogger("dibs.serve")

WATCH_S = 0.25
STEADY_S = 10.0
"""A store that lived so long was well: it is started at once when it ends."""
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 5.0)
FILES_BESIDE = 1_000
"""Descriptors besides those of callers: the store's, one for each project that is followed, …"""


class CannotListen(Exception):
    """The address cannot be listened on; the message says why."""


class Pauses:
    """How long to wait before each start: not at all, unless the one before was just now."""

    def __init__(self) -> None:
        self._last, self._in_a_row = -STEADY_S, 0

    def next(self) -> float:
        """Return the seconds to wait now."""
        now = time.monotonic()
        self._in_a_row = self._in_a_row + 1 if now - self._last < STEADY_S else 0
        pause = PAUSES_S[min(self._in_a_row, len(PAUSES_S) - 1)]
        self._last = now + pause
        return pause


@dataclass
class TheStore:
    """The store that the service stands on, and the private one if it is ours."""

    url: str | None
    """None: in memory."""
    name: str
    private: EmbeddedStore | None = None

    async def watch(self, settings: Settings) -> None:
        """Start the private store again whenever it ends. Raises StoreUnavailable.

        A full disk is no reason to give up: the store is started as soon as there is room. Of
        whatever goes on while the disk is full, only its beginning and its end are logged.
        """
        if self.private is None:
            return
        disk_of = disk.Watch(self.private.directory, disk.Limits.of(settings))
        full, pauses = "", Pauses()
        while True:
            await asyncio.sleep(WATCH_S)
            why = disk_of()
            if why and not full:
                log.error("store_disk_full directory=%s reason=%r", settings.data_dir, why)
            elif full and not why:
                log.warning("store_disk_has_room directory=%s", settings.data_dir)
            full = why
            if not self.private.alive():
                if not full:
                    log.error(
                        "store_ended pid=%d said=%r", self.private.pid, self.private.last_words()
                    )
                self.private.stop()  # lets go of its locks
                await self._start_again(settings, pauses, disk_of)

    async def _start_again(
        self, settings: Settings, pauses: Pauses, disk_of: Callable[[], str]
    ) -> None:
        """Start the store, as often as it takes while the disk is full."""
        quiet = bool(disk_of())
        while True:
            await asyncio.sleep(pauses.next())
            try:
                self.private = await asyncio.to_thread(start_private, settings)
            except mark.Gone:
                raise
            except StoreUnavailable as down:
                # For want of room a start fails in more ways than one, and room may come.
                if not (isinstance(down, disk.DiskFull) or disk_of()):
                    raise
                continue
            break
        if self.private.url != self.url:
            raise StoreUnavailable("The store came back at another place.")
        if not quiet:
            log.warning("store_started_again pid=%d", self.private.pid)


def start_private(settings: Settings) -> EmbeddedStore:
    """Start the private store. Raises StoreUnavailable."""
    return EmbeddedStore.start(
        settings.data_dir, maxmemory=str(memory.budget(settings.store_memory))
    )


@contextlib.contextmanager
def the_store(settings: Settings) -> Iterator[TheStore]:
    """Give the store; stop what was started."""
    if settings.memory:
        name = "memory: NOTHING IS KEPT, every claim is gone when this process ends"
        yield TheStore(None, name)
    elif settings.redis_url:
        url = settings.redis_url.get_secret_value()
        yield TheStore(url, parse(url).shown)
    else:
        with ThreadPoolExecutor(1) as meanwhile:
            starting = meanwhile.submit(start_private, settings)
            if settings.workers == 1:
                importlib.import_module("dibs.server")  # most of what a start costs us
            private = starting.result()
        store = TheStore(private.url, f"{private.server} in {settings.data_dir}", private)
        try:
            yield store
        finally:
            if store.private is not None:
                store.private.stop()


def listen(host: str, port: int, workers: int = 1) -> list[socket.socket]:
    """Return sockets that listen on one port: one for each worker, or one. Raises CannotListen.

    With a socket each Linux deals connections out evenly; of one for all, whoever wakes first
    takes every connection that waits. They are all open here, too, so what waits for a worker
    that died is answered by the next.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        alone = _bound(family, address, share=False)  # or a second service would go unnoticed
        if workers == 1 or sys.platform != "linux":
            alone.listen(BACKLOG)
            return [alone]
        address = alone.getsockname()
        alone.close()
        listeners = [_bound(family, address, share=True) for _ in range(workers)]
        for listener in listeners:
            listener.listen(BACKLOG)
        return listeners
    except OSError as error:
        why = error.strerror or str(error)
        raise CannotListen(
            f"cannot listen on {host} port {port}: {why}. Name another with DIBS_HOST or DIBS_PORT."
        ) from None


def _bound(family: int, address: Any, *, share: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


def base_url(listener: socket.socket) -> str:
    """Return the URL of a socket that listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def loops() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the fastest event loop there is here."""
    with contextlib.suppress(ImportError):
        made: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
            "uvloop"
        ).new_event_loop
        return made
    return None


REFUSALS = (StoreDown, StoreFull, Unfit, StoreUnavailable, RedisError)
"""Why the service cannot be, or not any more."""


def why_not(refusal: Exception, store: str) -> str:
    """Return in a sentence why the service cannot be over `store`, a name without secrets."""
    match refusal:
        case StoreUnavailable():
            return str(refusal)
        case Moved():
            why = "The store is a cluster: its URL begins with redis+cluster://."
        case StoreFull():
            why = "The store is full, and has no room for the first keys of dibs."
        case RedisError():
            why = f"The store answers with an error: {said(refusal)}."
        case _:
            why = str(refusal) + _hint(str(refusal), store)
    return f"{store}: {why}"


def _hint(why: str, store: str) -> str:
    """Return what may be behind it, where a port of one kind is spoken to in the other's way."""
    if store.startswith("rediss:") and "does not answer" in why:
        return " (Is it a port without TLS? Its URL begins with redis://.)"
    if store.startswith("redis:") and ("ended the connection" in why or why.endswith("reached.")):
        return " (Is it a port with TLS? Its URL begins with rediss://.)"
    return ""


def refusals(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    main: Coroutine[Any, Any, Any],
    say: Callable[[Exception], None],
) -> int:
    """Run `main`; return its exit code, or 1 where the service cannot be: `say` hears why."""
    try:
        return int(run(main) or 0)
    except REFUSALS as refusal:
        say(refusal)
        return 1


def run(settings: Settings) -> int:
    """Serve until a signal; return the exit code."""
    logs.start(settings.log_level, settings.log_format)
    _allow_files(settings.max_connections + FILES_BESIDE)
    try:
        with contextlib.ExitStack() as held:
            listeners = listen(settings.host, settings.port, settings.workers)
            for listener in listeners:
                held.enter_context(listener)
            store = held.enter_context(the_store(settings))
            serve = _serve_here if settings.workers == 1 else _serve_with_workers
            runner = held.enter_context(asyncio.Runner(loop_factory=loops()))

            def say(refusal: Exception) -> None:
                print(f"dibs serve: {why_not(refusal, store.name)}", file=sys.stderr)

            return refusals(runner.run, serve(settings, store, listeners), say)
    except (StoreUnavailable, CannotListen) as refusal:
        print(f"dibs serve: {refusal}", file=sys.stderr)
        return 1


def _allow_files(wanted: int) -> None:
    """Raise the soft limit of open files, often 1,024, as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            log.warning("files_limited limit=%d wanted=%d", most, wanted)


async def _serve_here(
    settings: Settings, store: TheStore, listeners: Sequence[socket.socket]
) -> int:
    from dibs import app, server

    service = app.build(settings, store.url)

    async def ready(running: server.Server) -> None:
        health = await service.store.health()
        _hello(settings, base_url(listeners[0]), store, health.durability, health.reasons)

    serving = asyncio.create_task(server.serve(settings, service, listeners[0], ready))
    return await _until(serving, store, settings)


async def _serve_with_workers(
    settings: Settings, store: TheStore, listeners: Sequence[socket.socket]
) -> int:
    from dibs.api.observe import FAMILIES
    from dibs.metrics import Cells, Metrics
    from dibs.workers import Workers

    cells = Cells.make(settings.workers + 1, Metrics.width(FAMILIES))
    ours = Metrics(FAMILIES, cells, settings.workers)
    given = settings.model_copy(update={"redis_url": None}).environ() | {
        "DIBS_REDIS_URL": str(store.url)
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DIBS_")}

    def ready(health: Mapping[str, Any]) -> None:
        reasons = [str(reason) for reason in health["reasons"]]
        _hello(settings, base_url(listeners[0]), store, str(health["durability"]), reasons)

    def refused(why: str) -> None:
        print(f"dibs serve: {why}", file=sys.stderr)

    workers = Workers(
        environ=inherited | given,
        listeners=listeners,
        cells_fd=cells.fd,
        rows=cells.rows,
        count=settings.workers,
        ready=ready,
        refused=refused,
        died=lambda: ours.add("dibs_worker_deaths_total"),
    )
    return await _until(asyncio.create_task(workers.run()), store, settings)


async def _until(serving: "asyncio.Task[Any]", store: TheStore, settings: Settings) -> int:
    """Wait for the end of `serving`, or of the store."""
    watching = asyncio.create_task(store.watch(settings))
    try:
        if store.private is None:
            return int(await serving or 0)
        await asyncio.wait((serving, watching), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            return int(serving.result() or 0)
        watching.result()  # raises why the store cannot be had any more
        return 1
    finally:
        for task in (serving, watching):
            task.cancel()
        await asyncio.gather(serving, watching, return_exceptions=True)


def _hello(
    settings: Settings, base: str, store: TheStore, durability: str, reasons: list[str]
) -> None:
    """Say where the service is, what it stands on, and what is open."""
    print(f"dibs {__version__} is at {settings.public_url or base}")
    print(f"store: {store.name}; durability: {durability}")
    for reason in reasons:
        print(f"  {reason}")
    if not settings.team_key:
        print("no DIBS_TEAM_KEY: anyone who reaches this URL can claim")
    if settings.open and not settings.trusted_proxies:
        print("DIBS_OPEN without DIBS_TRUSTED_PROXIES: behind a proxy no limit by address counts")
    if settings.open and not settings.projects:
        print("DIBS_OPEN without DIBS_PROJECTS: anyone can make projects here; name yours")
    sys.stdout.flush()
