"""The client's files as modules in the test's own process, for tests that need no separate one.

Tests import them from here so that a type checker knows their types, though they are in no package.
"""

import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from tests.client.conftest import CLIENT

__all__ = ["checklists", "client", "formats", "hook", "importing", "passing", "shell", "work"]


def loaded() -> ModuleType:
    """Return dibs.py, loaded under the name by which its parts import it."""
    found = sys.modules.get("dibs_client")
    if found is not None and str(found.__file__) == str(CLIENT):
        return found
    spec = importlib.util.spec_from_file_location("dibs_client", CLIENT)
    assert spec
    assert spec.loader
    module = sys.modules["dibs_client"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from client import checklists, formats, hook, importing, passing, shell, work
    from client import dibs as client
else:
    client = loaded()
    globals().update((name, client.part(name)) for name in __all__ if name != "client")
