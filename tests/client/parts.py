"""The client's files as modules of the test's own process, for what needs no process of its own."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from tests.client.conftest import CLIENT


def client_module() -> Any:
    """dibs.py, by the name that its parts know it by."""
    found = sys.modules.get("dibs_client")
    if found is not None and Path(str(found.__file__)) == CLIENT:
        return found
    spec = importlib.util.spec_from_file_location("dibs_client", CLIENT)
    assert spec
    assert spec.loader
    module = sys.modules["dibs_client"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def part(name: str) -> Any:
    """One of the files that belong to it."""
    return client_module().part(name)
