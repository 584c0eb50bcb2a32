"""A small file system for tests of a full disk. Needs root, which CI has."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.harness import processes
from tests.harness.needs import lacking

MB = 1 << 20


@contextlib.contextmanager
def volume(place: Path, size_mb: int) -> Iterator[Path]:
    """Mount a file system of `size_mb` megabytes; without root, fail in CI and skip elsewhere."""
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
    """Return the number of bytes that can still be written."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def fill(place: Path, leave: int = 0) -> Path:
    """Fill the file system up to `leave` bytes, as another program would; return its file."""
    taken = place / "somebody else's"
    with open(taken, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while free(place) > leave:
            file.write(bytes(min(MB // 4, max(4096, free(place) - leave))))
    return taken
