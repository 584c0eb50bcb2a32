"""The mark beside the log: it says that this directory has had claims, and in which log.

A missing or empty log looks like that of a first start. A store that started without it would grant
every held task once more, so the mark is kept outside the log, and a start compares the two: the
log must exist, the file that last grew must not be empty, and the store must have the same name as
the mark.
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
"""Where the store holds its name; the first thing that is ever written to it."""


@dataclass(frozen=True)
class Mark:
    """What a mark says."""

    name: str
    """The store's; '' where the mark cannot be read."""
    grown: str
    """The file of the log that was seen to grow; ''."""


class Gone(StoreUnavailable):
    """Claims were here, and their log is not."""


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
    """Put a mark in place of the one that is there, whole or not at all. Raises OSError."""
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
    """Let a directory have this mark, or none: the next log in it is any then. Raises OSError."""
    if mark is None:
        (directory / FILE).unlink(missing_ok=True)
    else:
        write(directory, mark)


def check_files(directory: Path) -> None:
    """Raise Gone if claims were here and the log's files no longer have them."""
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
    """Raise Gone if the store is not the one that the mark names; mark a new one.

    Always writes to the store: one that cannot write shows it here. Raises redis.RedisError then.
    """
    mark, found = read(directory), _name(store)
    if mark and mark.name and found != mark.name:
        raise _gone(
            directory,
            f"its log begins another store ({found})" if found else "its log has no beginning",
        )
    name = found or secrets.token_hex(8)
    try:
        store.set(KEY, name)
    except redis.exceptions.OutOfMemoryError:
        if found is None:
            return  # data from before there were marks, and no room for a name
    with suppress(OSError):  # a full disk must not keep a store from starting
        if mark is None or mark.name != name:
            write(directory, Mark(name, ""))
        follow(directory)


def follow(directory: Path) -> None:
    """Note which file of the log grows now, if that is not noted yet. Raises OSError."""
    mark = read(directory)
    grown = [part.path.name for part in aof.parts(directory) if not part.is_base and part.size]
    if mark and grown and mark.grown != grown[-1]:
        write(directory, Mark(mark.name, grown[-1]))


def accept(directory: Path) -> None:
    """Take the log for what it is now: a person had it cut. Raises OSError.

    What was cut may have had the store's name in it: it gets another with the next start.
    """
    if read(directory):
        write(directory, Mark("", ""))


def _name(store: redis.Redis) -> str | None:
    found = store.get(KEY)
    return found.decode(errors="replace") if isinstance(found, bytes) else None


def _gone(directory: Path, why: str) -> Gone:
    return Gone(
        f"{directory} has had claims, but {why}, and dibs does not start empty in their place. "
        "Restore a backup into another directory (dibs restore FILE --data-dir OTHER); or, to "
        f"begin with no claims, move {directory} away."
    )
