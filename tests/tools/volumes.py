"""A small file system of its own, for what a full disk does. Takes root, as CI has it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.harness import processes
from tests.harness.needs import lacking

MB = 1 << 20


@contextlib.contextmanager
def volume(place: Path, size_mb: int) -> Iterator[Path]:
    """Mount a file system of so many megabytes; a test without root fails in CI, and is skipped."""
    if os.geteuid() != 0:
        lacking("only root can mount a small file system")
    place.mkdir(mode=0o700)
    options = f"size={size_mb}m,mode=700"
    processes.run(["mount", "-t", "tmpfs", "-o", options, "dibs-test", place], check=True)
    try:
        yield place
    finally:
        processes.run(["umount", "--lazy", place], check=True)


def free(place: Path) -> int:
    """Bytes that may still be written."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def fill(place: Path, leave: int = 0) -> Path:
    """Take all room but `leave` bytes, as another program would; return the file that has it."""
    taken = place / "somebody else's"
    with open(taken, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while free(place) > leave:
            file.write(bytes(min(MB // 4, max(4096, free(place) - leave))))
    return taken
