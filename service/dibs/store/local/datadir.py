"""The data directory of the private store: private to its user, and locked by one process.

The process that started the store (its parent) holds `dibs.lock`, which means that the directory is
in use. The server inherits `store.lock`, so that lock lasts as long as a process could still write
to the log, however the parent ended.
"""

import fcntl
import os
import signal
import time
from contextlib import ExitStack, suppress
from io import TextIOWrapper
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SOCKET = "valkey.sock"
DIBS_LOCK = "dibs.lock"
STARTING = "start.sock"
"""The socket's name until start has checked that the store is the right one and can write."""
_SOCKET_PATH_MAX = 103  # bytes: sun_path on macOS; Linux has four more
_ORPHAN_S = 5.0  # for an orphaned store to end, after each attempt


class StoreUnavailable(Exception):
    """There is no usable store; the message is a sentence with the reason and the remedy."""


def client(socket_path: str) -> redis.Redis:
    """Return a client for short commands to the private server, without retries."""
    return redis.Redis(unix_socket_path=socket_path, socket_timeout=2, retry=Retry(NoBackoff(), 0))


def sync(directory: Path) -> None:
    """Make created, renamed and removed names in a directory survive a power loss.

    Raises OSError.
    """
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def open_private(directory: Path) -> int:
    """Create a directory that only this user can enter, or make it so; return its descriptor.

    Raises StoreUnavailable.
    """
    another = "Name another directory with DIBS_DATA_DIR or --data-dir."
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except (FileExistsError, NotADirectoryError):
        raise StoreUnavailable(f"{directory} is not a directory. {another}") from None
    except OSError as error:
        why = error.strerror
        raise StoreUnavailable(f"dibs cannot use {directory}: {why}. {another}") from None
    try:
        _make_private(directory, opened, another)
    except BaseException:
        os.close(opened)
        raise
    return opened


def _make_private(directory: Path, opened: int, another: str) -> None:
    status = os.fstat(opened)
    if status.st_uid != os.geteuid():
        raise StoreUnavailable(
            f"{directory} belongs to user {status.st_uid} and dibs runs as user {os.geteuid()}: "
            f"change its owner, or use a directory inside it. {another}"
        )
    if status.st_mode & 0o077 == 0:
        return
    # Removing other users' access is right for a data directory of dibs or an empty one (a fresh
    # volume), and wrong for /tmp or a home. If others could write there, they may have planted
    # files.
    found = set(os.listdir(opened)) - {"lost+found"}
    if found and (status.st_mode & 0o022 or DIBS_LOCK not in found):
        raise StoreUnavailable(
            f"{directory} is open to other users (mode {status.st_mode & 0o777:03o}) and is not "
            f"empty: dibs needs a separate directory with mode 700. {another}"
        )
    try:
        os.fchmod(opened, 0o700)
    except OSError as error:
        raise StoreUnavailable(
            f"{directory} is open to other users, and dibs cannot change its mode to 700 "
            f"({error.strerror}). {another}"
        ) from None


def socket_path_of(directory: Path, directory_fd: int) -> str:
    """Return the path of the socket for clients. Raises StoreUnavailable.

    The server binds a bare name, so only the clients' path can be too long. STARTING is no longer
    than SOCKET, and is in the same directory.
    """
    path = str(directory / SOCKET)
    if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
        return path
    # A path through this process's open directory is short, works in all processes of dibs, and
    # disappears with this process. No file is in a shared temporary directory, where a cleaner
    # might remove it.
    through = f"/proc/{os.getpid()}/fd/{directory_fd}"
    if os.path.isdir(through):
        return f"{through}/{SOCKET}"
    raise StoreUnavailable(
        f"The path of {directory} is too long for a socket on this system: name a data directory "
        f"of at most {_SOCKET_PATH_MAX - len(SOCKET) - 1} bytes with DIBS_DATA_DIR or --data-dir."
    )


def _open_lock(path: Path, held: ExitStack) -> TextIOWrapper:
    try:
        return held.enter_context(open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+"))
    except OSError as error:
        raise StoreUnavailable(
            f"dibs cannot write to {path.parent} ({error.strerror}). "
            "Name another directory with DIBS_DATA_DIR or --data-dir."
        ) from None


def _locked(lock: TextIOWrapper) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _read_pid(lock: TextIOWrapper) -> int | None:
    lock.seek(0)
    said = lock.read(32).strip()
    return int(said) if said.isdigit() else None


def write_pid(lock: TextIOWrapper, pid: int) -> None:
    """Write a pid in place, always with the same length: that works even on a full disk."""
    with suppress(OSError):
        os.pwrite(lock.fileno(), f"{pid:<20}\n".encode(), 0)


def take_dibs_lock(directory: Path, held: ExitStack) -> None:
    lock = _open_lock(directory / DIBS_LOCK, held)
    if not _locked(lock):
        raise StoreUnavailable(
            f"Another dibs (pid {_read_pid(lock) or 'unknown'}) already uses {directory}: "
            "stop it first, or name another directory with DIBS_DATA_DIR or --data-dir."
        )
    write_pid(lock, os.getpid())
    # A child forked without exec shares the lock, and would hold it after this process has ended.
    os.register_at_fork(after_in_child=lock.close)


def take_store_lock(directory: Path, socket_path: str, held: ExitStack) -> TextIOWrapper:
    """Lock `store.lock`, and end the server of an earlier dibs if it still runs.

    Raises StoreUnavailable.
    """
    lock = _open_lock(directory / "store.lock", held)
    if _locked(lock):
        return lock
    # This process holds dibs.lock, so the holder of store.lock is an orphan of an earlier dibs.
    pid = _read_pid(lock)
    for end in (_ask_to_end, _kill_orphan):
        end(socket_path, lock, pid)
        deadline = time.monotonic() + _ORPHAN_S
        while time.monotonic() < deadline:
            if _locked(lock):
                return lock
            time.sleep(0.02)
    raise StoreUnavailable(
        f"A store that an earlier dibs left behind (pid {pid or 'unknown'}) still uses {directory} "
        "and cannot be stopped: end that process, then start dibs again."
    )


def _ask_to_end(socket_path: str, _lock: TextIOWrapper, pid: int | None) -> None:
    with suppress(redis.RedisError), client(socket_path) as store:
        if store.info("server").get("process_id") == pid:
            store.shutdown(nosave=True)


def _kill_orphan(_socket_path: str, lock: TextIOWrapper, pid: int | None) -> None:
    """Kill the process `pid` if it has the lock open: the pid alone may now be another process."""
    ours = os.fstat(lock.fileno())
    with suppress(OSError):
        for opened in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if pid and os.path.samestat(opened.stat(), ours):
                    os.kill(pid, signal.SIGKILL)
                    return
