"""How much memory the private store may use: a share of what the container or the host gives."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")


def given(root: Path = _ROOT) -> int:
    """Return the memory that this process and its children may use, in bytes.

    The least of the host's and of every limit of a cgroup that we are in: version 2, where the
    limit of each group above counts as well, or version 1.
    """
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([host, *_limits(root)])


def budget(setting: str, root: Path = _ROOT) -> int:
    """Return the bytes that a setting like 40% or 104857600 means; 0 is no limit."""
    if setting.endswith("%"):
        return given(root) * int(setting[:-1]) // 100
    return int(setting)


def _limits(root: Path) -> Iterator[int]:
    groups = root / "sys/fs/cgroup"
    try:
        said = (root / "proc/self/cgroup").read_text()
    except OSError:
        return
    for line in said.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            places, file = [groups, groups / "unified"], "memory.max"
        elif "memory" in controllers.split(","):
            places, file = [groups / "memory"], "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be the host's, and what is mounted only our own part of it.
        inside = Path(path.lstrip("/"))
        for place in places:
            for group in (inside, *inside.parents):
                with suppress(OSError, ValueError):  # none there, or `max`
                    yield int((place / group / file).read_text())
