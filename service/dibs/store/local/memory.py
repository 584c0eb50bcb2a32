"""The memory limit of the private store: a share of the container's or the host's memory."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")


def given(root: Path = _ROOT) -> int:
    """Return the memory that this process and its children may use, in bytes.

    This is the least of the host's memory and the limits of this process's cgroups, version 1 or 2.
    The limits of parent groups count as well.
    """
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([host, *_limits(root)])


def budget(setting: str, root: Path = _ROOT) -> int:
    """Return the bytes for a setting such as 40% or 104857600; 0 means no limit."""
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
        # In a container, the path may be the host's while only the container's part is mounted.
        inside = Path(path.lstrip("/"))
        for place in places:
            for group in (inside, *inside.parents):
                with suppress(OSError, ValueError):  # no such file, or `max`
                    yield int((place / group / file).read_text())
