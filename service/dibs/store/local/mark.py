"""The mark: a file outside the log which records that the directory has had claims.

A missing or empty log looks like that of a first start. A store that started without its log would
grant every held task again. So a start compares the mark and the log: the log must exist, the file
that last grew must not be empty, and the store must have the same name as the mark.
"""

import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import redis

from dibs.store.local import aof, datadir
from dibs.store.local.datadir import StoreUnavailable

FILE = "dibs.mark"
KEY = "dibs:began"
"""The key of the store's name; the first key that dibs writes to a store."""


@dataclass(frozen=True)
class Mark:
    """The content of a mark."""

    name: str
    """The store's name; '' where the mark cannot be read."""
    grown: str
    """The file of the log that last grew; '' where none did yet."""


class Gone(StoreUnavailable):
    """The directory has had claims, and their log is missing."""


def read(directory: Path) -> Mark | None:
    """Return the mark of a data directory, or None if it never had claims."""
    try:
        said = json.loads((directory / FILE).read_bytes())
        return Mark(str(said["name"]), str(said["grown"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError):
        return Mark("", "")


def write(directory: Path, mark: Mark) -> None:
    """Replace the mark atomically. Raises OSError."""
    half = directory / f"{FILE}.new"
    try:
        with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(asdict(mark), file)
            file.flush()
            os.fsync(file.fileno())
        half.replace(directory / FILE)
        datadir.sync(directory)
    except OSError:
        half.unlink(missing_ok=True)
        raise


def put(directory: Path, mark: Mark | None) -> None:
    """Write a mark, or remove it with None: a start then accepts any log. Raises OSError."""
    if mark is None:
        (directory / FILE).unlink(missing_ok=True)
    else:
        write(directory, mark)


def check_files(directory: Path) -> None:
    """Raise Gone if the directory has had claims and the log's files are missing or empty."""
    mark = read(directory)
    if mark is None:
        return
    try:
        parts = aof.parts(directory)
    except FileNotFoundError:
        raise _gone(directory, f"its manifest, {aof.LOGS}/{aof.MANIFEST}, is missing") from None
    if not parts:
        raise _gone(directory, f"its log, {aof.LOGS}, is missing")
    if not any(part.size for part in parts):
        raise _gone(directory, "its log is empty")
    for part in parts:
        if part.path.name == mark.grown and not part.size:
            raise _gone(directory, f"the newest file of its log, {part.path.name}, is empty")


def check_store(directory: Path, store: redis.Redis) -> None:
    """Raise Gone if the store is not the one that the mark names; write the mark of a new store.

    This always writes to the store, and raises redis.RedisError if the store cannot write.
    """
    mark, found = read(directory), _name(store)
    if mark and mark.name and found != mark.name:
        raise _gone(
            directory,
            f"its log is that of another store ({found})"
            if found
            else "the beginning of its log is missing",
        )
    name = found or secrets.token_hex(8)
    try:
        store.set(KEY, name)
    except redis.exceptions.OutOfMemoryError:
        if found is None:
            return  # the data is older than marks, and there is no room for a name
    with suppress(OSError):  # a full disk must not keep a store from starting
        if mark is None or mark.name != name:
            write(directory, Mark(name, ""))
        follow(directory)


def follow(directory: Path) -> None:
    """Record in the mark which file of the log grows now. Raises OSError."""
    mark = read(directory)
    grown = [part.path.name for part in aof.parts(directory) if not part.is_base and part.size]
    if mark and grown and mark.grown != grown[-1]:
        write(directory, Mark(mark.name, grown[-1]))


def accept(directory: Path) -> None:
    """Make the mark accept the log as it is now, after a person had it cut. Raises OSError.

    The cut may have removed the store's name; the next start then gives it another.
    """
    if read(directory):
        write(directory, Mark("", ""))


def _name(store: redis.Redis) -> str | None:
    found = store.get(KEY)
    return found.decode(errors="replace") if isinstance(found, bytes) else None


def _gone(directory: Path, why: str) -> Gone:
    return Gone(
        f"{directory} has had claims, but {why}, and dibs refuses to start without them. "
        "Restore a backup into another directory (dibs restore FILE --data-dir OTHER); or, to "
        f"start with no claims, move {directory} away."
    )
