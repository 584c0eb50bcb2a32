"""The volume of the private store: when new claims stop, and the reserve of disk space.

A store whose disk is full exits, because `appendfsync always` needs room to write. Three measures
prevent that, each for the case that the one before was not enough:

1. New claims stop while there is still room for holders (`DiskLimits`).
2. The log is rewritten, without what no longer counts.
3. A reserve, an empty file, is freed when the volume is full all the same, perhaps because of
   another program. A small part is for holders. The rest is as large as the log, so that the log
   can always be rewritten, by a running store or by a start, and the space that this frees is the
   next part for holders.

Nothing is remembered; the file system is asked each time. So every process of a service sees the
same, and so does the next start.
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
"""How the names of the files begin that a server's rewrite makes."""
LOOK_S = 1.0
"""A look at the volume serves every claim for so long."""
_MB = 1 << 20


class DiskFull(StoreUnavailable):
    """Not even the reserve is left to start on."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """How much of the volume stays free of new claims: the lesser of the two."""

    percent: int = 15
    most: int = 100 * _MB

    @classmethod
    def of(cls, settings: Settings) -> "DiskLimits":
        """Return those that are set."""
        return cls(settings.disk_free_percent, settings.disk_free_bytes)

    def kept_free(self, total: int) -> int:
        """Return the bytes below which new claims stop on a volume of `total`."""
        return min(total * self.percent // 100, self.most)


@dataclass(frozen=True, slots=True)
class Volume:
    """What the file system says at one moment, in bytes."""

    total: int
    free: int
    log: int
    base: int
    """Of the log, what the last rewrite wrote."""
    rewritten: str
    """The name of that file: another one after each rewrite."""
    half: int
    """What a rewrite has written that is not done."""
    reserve: int

    @classmethod
    def of(cls, directory: Path) -> "Volume":
        """Look at a data directory. Raises OSError."""
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
        """The part that writing the log anew may need, with what holders write meanwhile.

        The log does not grow by that; and once new claims have stopped and it was written anew,
        what comes to it is written over what is there.
        """
        most = self.log if self.roomy else min(self.log, self.base * 9 // 8 or self.log)
        return most + self.for_holders

    def lendable(self, kept: int) -> int:
        """The part of the reserve that a rewrite may have.

        What is let go of is anybody's: `kept` stays, so that the next starts can go on although
        somebody takes all the rest.
        """
        return max(0, self.reserve - kept)

    @property
    def roomy(self) -> bool:
        """Whether new claims may be coming in at full speed, and the reserve be whole beside."""
        return self.free > 4 * self.for_holders

    @property
    def wanted(self) -> int:
        """How large the reserve should be."""
        return self.log + 2 * self.for_holders

    @property
    def free_for_claims(self) -> int:
        """What is free once the reserve is whole and a rewrite is done; may be below 0."""
        return self.free + self.half - max(0, self.wanted - self.reserve)

    @property
    def low(self) -> int:
        """Free bytes that are gone within seconds."""
        return self.for_holders // 4

    @property
    def too_low(self) -> int:
        """Free bytes with which no start is worth its while."""
        return self.low // 4

    @property
    def gain(self) -> int:
        """What writing the log anew gives back at most."""
        return self.log - self.base

    @property
    def tight(self) -> bool:
        """Whether soon the log could not be written anew any more, or nobody could write at all."""
        return not self.roomy or self.free + self.reserve < 2 * self.for_a_rewrite

    @property
    def rewrite_due(self) -> bool:
        """Whether the log should be written anew, and can be if the reserve is lent for it."""
        if self.free + self.reserve < self.for_a_rewrite or self.half:
            return False
        enough = max(self.base, min(16 * _MB, self.total // 16))
        if self.tight:
            enough = min(enough, max(self.base // 8, self.for_holders))
        if not self.roomy:
            enough = self.for_holders // 2
        return self.gain >= enough


class Watch:
    """Says why no new claim may be granted; looks at the volume once a second at most."""

    def __init__(self, directory: Path, limits: DiskLimits) -> None:
        self._directory, self._limits = directory, limits
        self._why, self._next = "", 0.0

    def __call__(self) -> str:
        """Return the sentence, or '' while there is room."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LOOK_S
            with suppress(OSError):  # the directory is gone, and so is the store
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
            f"free and {human(needs)} are kept for those who hold claims, so no new claim can be "
            "granted; those that are held go on. Tell the person who runs this service."
        )


def watch_of(url: str | None, limits: DiskLimits) -> Watch | None:
    """Return the watch over the volume of a private store's socket; None of any other store."""
    if url is None or not url.startswith("unix://"):
        return None
    socket = Path(unquote(url.removeprefix("unix://").partition("?")[0]))
    directory = socket.parent
    if socket.name == datadir.SOCKET and (directory / datadir.DIBS_LOCK).exists():
        return Watch(directory, limits)
    return None


def human(count: int) -> str:
    """Return bytes as people read them: 9.6 MB."""
    size, unit = float(count), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def lend(directory: Path) -> None:
    """Let go of as much of the reserve as writing the log anew needs. Raises OSError."""
    volume = Volume.of(directory)
    lent = min(volume.lendable(volume.for_holders // 2), max(0, volume.for_a_rewrite - volume.free))
    _resize(directory, volume.reserve, volume.reserve - lent)


def tend(directory: Path) -> Volume:
    """Keep the reserve as it should be beside a running store; return what was found.

    Raises OSError.
    """
    volume = Volume.of(directory)
    if volume.half:
        return volume  # it is lent
    spare = volume.free - volume.for_holders
    if volume.reserve < volume.for_a_rewrite and spare > 0:
        _resize(directory, volume.reserve, min(volume.for_a_rewrite, volume.reserve + spare))
    elif volume.reserve < volume.wanted and volume.roomy:
        _resize(directory, volume.reserve, volume.wanted + volume.low)  # not again at once
    elif volume.free < volume.low or volume.reserve > 2 * volume.wanted:
        least = volume.for_a_rewrite if spare < 0 else volume.wanted
        _resize(directory, volume.reserve, min(volume.reserve, least))
    return volume


def make_room(directory: Path, rewrite: Callable[[], None]) -> None:
    """Before a start, let go of as much of the reserve as the start and the holders need.

    `rewrite` writes the log anew while nobody else writes. Raises DiskFull, and what that raises.
    """
    _remove_leftovers(directory)
    volume = Volume.of(directory)
    if volume.free >= volume.low:
        return
    lent = min(volume.for_a_rewrite, volume.lendable(volume.for_holders))
    needed = volume.for_a_rewrite - volume.for_holders  # nobody writes meanwhile
    if volume.gain >= volume.for_holders // 2 and volume.free + lent >= needed:
        _resize(directory, volume.reserve, volume.reserve - lent)
        rewrite()
        _remove_leftovers(directory)
        volume = Volume.of(directory)
    # The process that filled the disk may take what is freed here, and there may be another start.
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
            "free, and the reserve is used up. Claims are safe; make room there and start again."
        )


def _size(file: "os.DirEntry[str]") -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # a rewrite is done with it
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
    """Remove what a rewrite left that was killed: as large as the log, and of no use."""
    for pattern in (f"{REWRITE}*", "temp-*.rdb", f"{aof.LOGS}/temp-*"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)
