"""Cuts a damaged log after its last complete command, and keeps the part cut off in other files.

There are two cases. At a start after a crash or a power loss, the end of the log may be incomplete
or zeros: that write was never acknowledged, so it is cut and the start continues. Anything else is
damage: commands after it were acknowledged, and only a person, with `dibs repair`, decides to
continue without them.
"""

import os
import shutil
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from dibs.store.local import aof, datadir, mark
from dibs.store.local.datadir import StoreUnavailable

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Fault:
    """The first fault of a log: its file, and the files that are loaded after that one."""

    part: aof.Part
    scan: aof.Scan
    commands: int
    """Complete commands before the fault, including those in earlier files."""
    later: tuple[aof.Part, ...]
    """The later files that are not empty."""
    followed: int
    """Apparently complete commands after the fault: if a wrong length claims the rest of the file,
    there may be some although the fault is `short`."""

    @property
    def is_tail(self) -> bool:
        """Whether a crash explains the fault: an unfinished last command, or trailing zeros."""
        return self.scan.fault == "short" and not self.later and not self.followed


@dataclass(frozen=True)
class Cut:
    """A cut of the log, and the files that keep the parts cut off."""

    fault: Fault
    gone: int
    """Bytes cut off, in all files together."""
    kept_in: tuple[Path, ...]

    def __str__(self) -> str:
        scan, name = self.fault.scan, self.fault.part.path.name
        kept = ", ".join(map(str, self.kept_in))
        said = (
            f"cut {self.gone} bytes off the log after {self.fault.commands} complete commands, "
            f"from byte {scan.kept} of {name}: {scan.why}. The removed part is in {kept}."
        )
        if not self.fault.followed:
            return said
        return said + (
            f" About {self.fault.followed} commands came after the damage and are no longer in the "
            "log: claims, heartbeats and releases from then on are forgotten, and their tasks may "
            "be claimed again. A backup may still contain some of them."
        )


def find_fault(directory: Path) -> tuple[Fault | None, int]:
    """Return the first fault of the log, if any, and the number of complete commands before it.

    Raises StoreUnavailable if the log is missing or cannot be read.
    """
    try:
        parts = aof.parts(directory)
    except FileNotFoundError:
        raise StoreUnavailable(
            f"{directory / aof.LOGS} has no {aof.MANIFEST}, which names its files: restore a "
            "backup into another directory."
        ) from None
    if not parts:
        raise StoreUnavailable(f"{directory} holds no claims of a private store.")
    commands = 0
    for number, part in enumerate(parts):
        try:
            scan = aof.scan(part.path)
        except OSError as error:
            raise StoreUnavailable(
                f"cannot read {part.path}: {error.strerror or error}. Restore a backup into "
                "another directory."
            ) from None
        commands += scan.commands
        if scan.fault:
            later = tuple(each for each in parts[number + 1 :] if each.size)
            followed = _commands_after(part.path, scan.broken + 1, scan.end)
            followed += sum(aof.scan(each.path).commands for each in later)
            return Fault(part, scan, commands, later, followed), commands
    return None, commands


def cut(directory: Path, fault: Fault) -> Cut:
    """Cut the log at a fault. Safe to interrupt and repeat. Raises StoreUnavailable."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    gone = fault.scan.size - fault.scan.kept + sum(part.size for part in fault.later)
    # The last file first: an interrupted cut must not leave a gap in a log that looks complete.
    cuts = [(part.path, 0) for part in reversed(fault.later)]
    cuts.append((fault.part.path, fault.scan.kept))
    try:
        kept_in = [_set_aside(path, start, directory, stamp) for path, start in cuts]
    except OSError as error:
        raise StoreUnavailable(
            f"cannot save the part to remove in {directory} ({error.strerror}), so nothing more "
            "was cut: free some space there, then run dibs repair again."
        ) from None
    return Cut(fault, gone, tuple(reversed(kept_in)))


def repair(data_dir: Path) -> str:
    """Repair the log in a data directory; return a report. Raises StoreUnavailable."""
    if not data_dir.is_dir():
        raise StoreUnavailable(f"{data_dir} holds no claims of a private store.")
    directory = data_dir.resolve()
    with ExitStack() as held:
        opened = datadir.open_private(directory)
        held.callback(os.close, opened)
        datadir.take_dibs_lock(directory, held)
        datadir.take_store_lock(directory, datadir.socket_path_of(directory, opened), held)
        fault, commands = find_fault(directory)
        if fault is None:
            return f"the log in {data_dir} is undamaged ({commands} commands): nothing was changed"
        done = cut(directory, fault)
        with suppress(OSError):
            mark.accept(directory)
        return str(done)


def _set_aside(path: Path, start: int, directory: Path, stamp: str) -> Path:
    """Copy the part of a file from `start` on to a new file in `directory`, then cut it off.

    Return the new file. Raises OSError.
    """
    aside = _free(directory / f"cut-{stamp}-{path.name}-from-{start}")
    try:
        with open(path, "rb") as source, open(aside, "xb", opener=_private) as target:
            source.seek(start)
            shutil.copyfileobj(source, target, _BLOCK)
            target.flush()
            os.fsync(target.fileno())
        datadir.sync(directory)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    with open(path, "r+b") as log:
        log.truncate(start)
        os.fsync(log.fileno())
    return aside


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _free(path: Path) -> Path:
    """Return `path`, or if that exists, `path` with a number appended."""
    found, number = path, 1
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def _commands_after(path: Path, start: int, end: int) -> int:
    """Return the number of commands that seem to begin in a part of a file."""
    found, overlap, seen = 0, b"", start
    with suppress(FileNotFoundError), open(path, "rb") as log:
        log.seek(start)
        while seen < end:
            block = log.read(min(_BLOCK, end - seen))
            if not block:
                break
            seen += len(block)
            text = overlap + block
            ends = [match.end() for match in aof.ANOTHER.finditer(text)]
            found += len(ends)
            overlap = text[max(ends[-1] if ends else 0, len(text) - 16) :]
    return found
