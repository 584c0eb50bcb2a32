"""`dibs serve`: find or start the store, print where the service is, and serve until a signal."""

import asyncio
import contextlib
import gc
import importlib
import logging
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from dibs import __version__, logs
from dibs.settings import BACKLOG, Settings
from dibs.store.format import UnsupportedStore
from dibs.store.local import disk, mark, memory
from dibs.store.local.embedded import EmbeddedStore, StoreKilled, StoreUnavailable
from dibs.store.redis.failures import SlotMoved, StoreDown, StoreFull, said
from dibs.store.redis.store_url import parse

log = logging.getLogger("dibs.serve")

WATCH_S = 0.25
STEADY_S = 10.0
"""A store that ran this many seconds was healthy: when it ends, it is restarted at once."""
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 5.0)
STOP_S = 5.0
"""Seconds in which a stopping server ends; it completes the requests in progress first."""
GARBAGE = 20_000
"""Objects allocated and not freed before a garbage collection starts: about 2 MB."""
FILES_BESIDE = 1_000
"""Descriptors besides callers' connections: the store's, one for each followed project, …"""


class CannotListen(Exception):
    """An address that cannot be listened on; the message says why."""


class Pauses:
    """The pauses before restarts: none, unless the previous start was within STEADY_S."""

    def __init__(self) -> None:
        self._last, self._in_a_row = -STEADY_S, 0

    def next(self) -> float:
        """Return the seconds to wait before the next start."""
        now = time.monotonic()
        self._in_a_row = self._in_a_row + 1 if now - self._last < STEADY_S else 0
        pause = PAUSES_S[min(self._in_a_row, len(PAUSES_S) - 1)]
        self._last = now + pause
        return pause


class DiskLog:
    """A check of the disk that logs once when it becomes full and once when it has room again."""

    def __init__(self, watch: Callable[[], str], settings: Settings) -> None:
        self._watch, self._directory, self._why = watch, settings.data_dir, ""

    def __call__(self, found: str = "") -> str:
        """Return why the disk is full, or ''. `found`: why a start found it full, or ''; the room
        that the watch sees may still be too little for a start."""
        why = self._watch() or found
        if why and not self._why:
            log.error("store_disk_full directory=%s reason=%r", self._directory, why)
        elif self._why and not why:
            log.warning("store_disk_has_room directory=%s", self._directory)
        self._why = why
        return why


@dataclass
class TheStore:
    """The store of the service: its URL and name, and the private store if there is one."""

    url: str | None
    """None: claims are kept in memory."""
    name: str
    private: EmbeddedStore | None = None

    async def watch(self, settings: Settings) -> None:
        """Restart the private store whenever it ends. Raises StoreUnavailable.

        A full disk is no reason to give up: the store is started as soon as there is room. While
        the disk is full, only the beginning and the end of that state are logged.
        """
        if self.private is None:
            return
        disk_of = DiskLog(
            disk.Watch(self.private.directory, disk.DiskLimits.of(settings)), settings
        )
        pauses = Pauses()
        while True:
            await asyncio.sleep(WATCH_S)
            full = disk_of()
            if not self.private.alive():
                if not full:
                    log.error(
                        "store_ended pid=%d said=%r", self.private.pid, self.private.last_words()
                    )
                self.private.stop()  # releases its locks
                await self._start_again(settings, pauses, disk_of)

    async def _start_again(self, settings: Settings, pauses: Pauses, disk_of: DiskLog) -> None:
        """Start the store, and retry for as long as the disk is full."""
        quiet = bool(disk_of())
        while True:
            await asyncio.sleep(pauses.next())
            try:
                self.private = await asyncio.to_thread(start_private, settings)
            except mark.Gone:
                raise
            except StoreUnavailable as down:
                # Without room on the disk a start fails in several ways, and may succeed later. A
                # server killed during its start is treated like one killed while it served.
                full = disk_of(str(down) if isinstance(down, disk.DiskFull) else "")
                if not (full or isinstance(down, StoreKilled)):
                    raise
                continue
            break
        if self.private.url != self.url:
            raise StoreUnavailable("The store restarted at another address.")
        if not quiet:
            log.warning("store_started_again pid=%d", self.private.pid)


def start_private(settings: Settings) -> EmbeddedStore:
    """Start the private store. Raises StoreUnavailable."""
    return EmbeddedStore.start(
        settings.data_dir, maxmemory=str(memory.budget(settings.store_memory))
    )


@contextlib.contextmanager
def the_store(settings: Settings) -> Iterator[TheStore]:
    """Yield the store; stop the private one, if any, at the end."""
    if settings.memory:
        try:
            importlib.import_module("fakeredis")
        except ImportError:
            raise StoreUnavailable(
                "--memory needs the package fakeredis: pip install 'dibs[memory]'. Without "
                "--memory dibs starts a private store."
            ) from None
        name = "memory: NOTHING IS KEPT, all claims are lost when this process ends"
        yield TheStore(None, name)
    elif settings.redis_url:
        url = settings.redis_url.get_secret_value()
        yield TheStore(url, parse(url).shown)
    else:
        with ThreadPoolExecutor(1) as meanwhile:
            starting = meanwhile.submit(start_private, settings)
            importlib.import_module("dibs.server")  # the slowest part of our own start
            private = starting.result()
        store = TheStore(private.url, f"{private.server} in {settings.data_dir}", private)
        try:
            yield store
        finally:
            if store.private is not None:
                store.private.stop()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises CannotListen."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return _listening(family, address)
    except (OSError, UnicodeError) as error:  # UnicodeError: not a host name
        why = getattr(error, "strerror", None) or str(error)
        raise CannotListen(
            f"cannot listen on {host} port {port}: {why}. Set another with DIBS_HOST or DIBS_PORT."
        ) from None


def _listening(family: int, address: Any) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.setblocking(False)
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def url_of(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def loops() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory of event loops if it is installed, else None."""
    with contextlib.suppress(ImportError):
        made: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
            "uvloop"
        ).new_event_loop
        return made
    return None


REFUSALS = (StoreDown, StoreFull, UnsupportedStore, StoreUnavailable, RedisError)
"""Errors of the store that end the service or its start."""


def why_not(refusal: Exception, store: str) -> str:
    """Return why the service cannot run on `store`, a name without secrets, as a sentence."""
    match refusal:
        case StoreUnavailable():
            return str(refusal)
        case SlotMoved():
            why = "The store is a cluster: its URL must begin with redis+cluster://."
        case StoreFull():
            why = "The store is full and has no room for the first keys of dibs."
        case RedisError():
            why = f"The store answers with an error: {said(refusal)}."
        case _:
            why = str(refusal) + _hint(str(refusal), store)
    return f"{store}: {why}"


def _hint(why: str, store: str) -> str:
    """Return a hint if the URL may have the wrong scheme for the port: with or without TLS."""
    if store.startswith("rediss:") and "does not answer" in why:
        return " (Is it a port without TLS? Then its URL begins with redis://.)"
    if store.startswith("redis:") and ("ended the connection" in why or why.endswith("reached.")):
        return " (Is it a port with TLS? Then its URL begins with rediss://.)"
    return ""


def run(settings: Settings) -> int:
    """Serve until a signal; return the exit code."""
    logs.start(settings.log_level, settings.log_format)
    _allow_files(settings.max_connections + FILES_BESIDE)
    try:
        with contextlib.ExitStack() as held:
            listener = held.enter_context(listen(settings.host, settings.port))
            store = held.enter_context(the_store(settings))
            runner = held.enter_context(asyncio.Runner(loop_factory=loops()))
            try:
                return runner.run(_serve(settings, store, listener))
            except REFUSALS as refusal:
                print(f"dibs serve: {why_not(refusal, store.name)}", file=sys.stderr)
    except (StoreUnavailable, CannotListen) as refusal:
        print(f"dibs serve: {refusal}", file=sys.stderr)
    return 1


def _allow_files(wanted: int) -> None:
    """Raise the soft limit of open files, often 1,024, to `wanted` or the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            log.warning("files_limited limit=%d wanted=%d", most, wanted)


async def _serve(settings: Settings, store: TheStore, listener: socket.socket) -> int:
    from dibs import app, server

    service = app.build(settings, store.url)

    running: list[server.Server] = []

    async def ready(started: server.Server) -> None:
        running.append(started)
        _look_for_garbage_less()
        health = await service.store.health()
        _hello(settings, url_of(listener), store, health.durability, health.reasons)

    serving = asyncio.create_task(server.serve(settings, service, listener, ready))

    def stop() -> None:
        if running:
            running[0].stop()
        else:
            serving.cancel()

    return await _until(serving, stop, store, settings)


def _look_for_garbage_less() -> None:
    """Exclude all objects made so far from garbage collection, and collect less often.

    Requests leave hardly any garbage that needs a collection. With Python's defaults, thirty
    concurrent requests start one: a fifteenth of the work of a claim, and occasionally a full
    collection over all imported modules, which stops every request for 0.1 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 10, 10)


async def _until(
    serving: "asyncio.Task[Any]", stop: Callable[[], None], store: TheStore, settings: Settings
) -> int:
    """Wait until `serving` or the store ends, then call `stop` to end `serving`; return the exit
    code."""
    watching = asyncio.create_task(store.watch(settings))
    try:
        if store.private is None:
            return int(await serving or 0)
        await asyncio.wait((serving, watching), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            return int(serving.result() or 0)
        watching.result()  # raises the reason why the store ended for good
        return 1
    finally:
        stop()
        await asyncio.wait((serving,), timeout=STOP_S)
        for task in (serving, watching):
            task.cancel()
        await asyncio.gather(serving, watching, return_exceptions=True)


def _hello(
    settings: Settings, base: str, store: TheStore, durability: str, reasons: list[str]
) -> None:
    """Print the service's URL, its store, and warnings about open access.

    A failed print (a full disk, a closed pipe) does not stop the service.
    """
    said = [f"dibs {__version__} is at {settings.public_url or base}"]
    said.append(f"store: {store.name}; durability: {durability}")
    said += [f"  {reason}" for reason in reasons]
    if not settings.team_key:
        said.append("no DIBS_TEAM_KEY: anyone who reaches this URL can claim")
    if settings.open and not settings.trusted_proxies:
        said.append(
            "DIBS_OPEN without DIBS_TRUSTED_PROXIES: behind a proxy no limit by address applies"
        )
    if settings.open and not settings.projects:
        said.append("DIBS_OPEN without DIBS_PROJECTS: anyone can create projects here; list yours")
    with contextlib.suppress(OSError):
        print(*said, sep="\n", flush=True)
