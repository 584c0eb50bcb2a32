"""The volume of the private store: the limit for new claims, and the reserve of disk space.

A store whose disk is full exits, because `appendfsync always` needs room to write. Three measures
prevent that, each for the case that the one before was not enough:

1. New claims stop while there is still room for holders (`DiskLimits`).
2. The log is rewritten without obsolete commands.
3. A reserve, a preallocated file, is freed if the volume still fills up, perhaps because of another
   program. A small part of the reserve is for holders. The rest is as large as the log, so that a
   running store or a start can always rewrite the log. The space that a rewrite frees is then the
   next part for holders.

dibs keeps no state about this and reads the file system each time. So every process of a service,
and the next start, see the same.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from dibs.settings import Settings
from dibs.store.local import aof, datadir
from dibs.store.local.datadir import StoreUnavailable

RESERVE = "dibs.reserve"
REWRITE = "temp-rewriteaof"
"""Prefix of the files that a server's rewrite writes."""
LOOK_S = 1.0
"""Seconds for which one reading of the volume serves all claims."""
_MB = 1 << 20


class DiskFull(StoreUnavailable):
    """The disk has no room for a start, and the reserve is used up."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """The part of the volume that new claims leave free: the lesser of the two limits."""

    percent: int = 15
    most: int = 100 * _MB

    @classmethod
    def of(cls, settings: Settings) -> "DiskLimits":
        """Return the limits in the settings."""
        return cls(settings.disk_free_percent, settings.disk_free_bytes)

    def kept_free(self, total: int) -> int:
        """Return the bytes below which new claims stop on a volume of `total`."""
        return min(total * self.percent // 100, self.most)


@dataclass(frozen=True, slots=True)
class Volume:
    """The sizes on the volume of a data directory at one moment, in bytes."""

    total: int
    free: int
    log: int
    base: int
    """The part of the log that the last rewrite wrote."""
    rewritten: str
    """The name of that part's file, which changes with each rewrite."""
    half: int
    """Bytes that an unfinished rewrite has written so far."""
    reserve: int

    @classmethod
    def of(cls, directory: Path) -> "Volume":
        """Read the sizes for a data directory. Raises OSError."""
        found = os.statvfs(directory)
        log = base = half = reserve = 0
        rewritten = ""
        for folder in (directory / aof.LOGS, directory):
            with suppress(FileNotFoundError), os.scandir(folder) as files:
                for file in files:
                    size = _size(file)
                    if file.name.startswith(aof.SINGLE):
                        log += size
                        if ".base." in file.name:
                            base += size
                            rewritten = max(rewritten, file.name)
                    elif file.name.startswith(REWRITE):
                        half += size
                    elif file.name == RESERVE:
                        reserve = size
        return cls(
            total=(found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize,
            free=found.f_bavail * found.f_frsize,
            log=log,
            base=base,
            rewritten=rewritten,
            half=half,
            reserve=reserve,
        )

    @property
    def for_holders(self) -> int:
        """The part of the reserve that holders may use up."""
        return min(_MB, self.total // 32)

    @property
    def for_a_rewrite(self) -> int:
        """The space that a rewrite of the log may need, including holders' writes meanwhile.

        A rewrite never makes the log larger. Once new claims have stopped and the log has been
        rewritten, holders only replace existing records, so the next rewrite needs little more than
        the base.
        """
        most = self.log if self.roomy else min(self.log, self.base * 9 // 8 or self.log)
        return most + self.for_holders

    def lendable(self, kept: int) -> int:
        """Return the part of the reserve that a rewrite may use.

        Any program can take space that is freed. `kept` stays in the reserve, so that the next
        starts succeed even if other programs take all the rest.
        """
        return max(0, self.reserve - kept)

    @property
    def roomy(self) -> bool:
        """Whether there is room for new claims at full speed in addition to a full reserve."""
        return self.free > 4 * self.for_holders

    @property
    def wanted(self) -> int:
        """The size that the reserve should have."""
        return self.log + 2 * self.for_holders

    @property
    def free_for_claims(self) -> int:
        """The free space once the reserve is full and a rewrite is done; may be negative."""
        return self.free + self.half - max(0, self.wanted - self.reserve)

    @property
    def low(self) -> int:
        """Free space that writes use up within seconds."""
        return self.for_holders // 4

    @property
    def too_low(self) -> int:
        """Free space below which a start is pointless."""
        return self.low // 4

    @property
    def gain(self) -> int:
        """The most space that a rewrite of the log can free."""
        return self.log - self.base

    @property
    def tight(self) -> bool:
        """Whether there may soon be no room to rewrite the log, or to write at all."""
        return not self.roomy or self.free + self.reserve < 2 * self.for_a_rewrite

    @property
    def rewrite_due(self) -> bool:
        """Whether the log should be rewritten, and can be if the reserve is lent for that."""
        if self.free + self.reserve < self.for_a_rewrite or self.half:
            return False
        enough = max(self.base, min(16 * _MB, self.total // 16))
        if self.tight:
            enough = min(enough, max(self.base // 8, self.for_holders))
        if not self.roomy:
            enough = self.for_holders // 2
        return self.gain >= enough


class Watch:
    """Returns why no new claim may be granted; reads the volume at most once in LOOK_S, or in a
    tenth of that when space is short."""

    def __init__(self, directory: Path, limits: DiskLimits) -> None:
        self._directory, self._limits = directory, limits
        self._why, self._next = "", 0.0

    def __call__(self) -> str:
        """Return the reason in a sentence, or '' while there is room."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LOOK_S
            with suppress(OSError):  # without its directory there is no store either
                self._why = self._look(Volume.of(self._directory), now)
        return self._why

    def _look(self, volume: Volume, now: float) -> str:
        needs = self._limits.kept_free(volume.total)
        free = volume.free_for_claims
        if free < 2 * needs:
            self._next = now + LOOK_S / 10  # a few thousand claims fill a small volume
        if needs == 0 or free >= needs + (needs // 10 if self._why else 0):
            return ""
        return (
            f"The disk of the store is full: of {human(volume.total)}, {human(max(0, free))} are "
            f"free and {human(needs)} are reserved for the holders of claims. No new claim can be "
            "granted; existing claims continue. Tell the operator of this service."
        )


def watch_of(url: str | None, limits: DiskLimits) -> Watch | None:
    """Return a watch for the volume of a private store by its socket; None for other stores."""
    if url is None or not url.startswith("unix://"):
        return None
    socket = Path(unquote(url.removeprefix("unix://").partition("?")[0]))
    directory = socket.parent
    if socket.name == datadir.SOCKET and (directory / datadir.DIBS_LOCK).exists():
        return Watch(directory, limits)
    return None


def human(count: int) -> str:
    """Return a number of bytes in readable form: 9.6 MB."""
    size, unit = float(count), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def lend(directory: Path) -> None:
    """Free as much of the reserve as a rewrite of the log needs. Raises OSError."""
    volume = Volume.of(directory)
    lent = min(volume.lendable(volume.for_holders // 2), max(0, volume.for_a_rewrite - volume.free))
    _resize(directory, volume.reserve, volume.reserve - lent)


def tend(directory: Path) -> Volume:
    """Adjust the size of a running store's reserve; return the volume as read before.

    Raises OSError.
    """
    volume = Volume.of(directory)
    if volume.half:
        return volume  # a rewrite is using the reserve
    spare = volume.free - volume.for_holders
    if volume.reserve < volume.for_a_rewrite and spare > 0:
        _resize(directory, volume.reserve, min(volume.for_a_rewrite, volume.reserve + spare))
    elif volume.reserve < volume.wanted and volume.roomy:
        _resize(directory, volume.reserve, volume.wanted + volume.low)  # extra: not again at once
    elif volume.free < volume.low or volume.reserve > 2 * volume.wanted:
        least = volume.for_a_rewrite if spare < 0 else volume.wanted
        _resize(directory, volume.reserve, min(volume.reserve, least))
    return volume


def make_room(directory: Path, rewrite: Callable[[], None]) -> None:
    """Before a start, free as much of the reserve as the start and the holders need.

    `rewrite` rewrites the log while no other process writes. Raises DiskFull, and the errors of
    `rewrite`.
    """
    _remove_leftovers(directory)
    volume = Volume.of(directory)
    if volume.free >= volume.low:
        return
    lent = min(volume.for_a_rewrite, volume.lendable(volume.for_holders))
    needed = volume.for_a_rewrite - volume.for_holders  # holders cannot write meanwhile
    if volume.gain >= volume.for_holders // 2 and volume.free + lent >= needed:
        _resize(directory, volume.reserve, volume.reserve - lent)
        rewrite()
        _remove_leftovers(directory)
        volume = Volume.of(directory)
    # The process that filled the disk may take the space freed here, so some of the reserve has to
    # remain for another start.
    pool = volume.free + volume.reserve
    for_holders = min(volume.for_holders, max(volume.too_low * 5 // 4, pool // 4))
    with suppress(OSError):
        _resize(directory, volume.reserve, max(0, pool - for_holders))
    check(directory)


def check(directory: Path) -> None:
    """Raise DiskFull if a store cannot run there."""
    volume = Volume.of(directory)
    if volume.free < volume.too_low:
        raise DiskFull(
            f"The disk of {directory} is full: {human(volume.free)} of {human(volume.total)} are "
            "free, and the reserve is used up. Claims are safe; free space there and start again."
        )


def _size(file: "os.DirEntry[str]") -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # a rewrite has replaced or removed it
        return 0


def _resize(directory: Path, now: int, then: int) -> None:
    reserve = directory / RESERVE
    if then == 0:
        reserve.unlink(missing_ok=True)
    elif then < now:
        os.truncate(reserve, then)
    elif then > now:
        with open(os.open(reserve, os.O_WRONLY | os.O_CREAT, 0o600), "r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, then)
            else:
                file.seek(now)
                for at in range(now, then, _MB):
                    file.write(bytes(min(_MB, then - at)))


def _remove_leftovers(directory: Path) -> None:
    """Remove the files of a killed rewrite: they are useless, and may be as large as the log."""
    for pattern in (f"{REWRITE}*", "temp-*.rdb", f"{aof.LOGS}/temp-*"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)
