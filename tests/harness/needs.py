"""Requirements of a test on its machine: a test without one is skipped, but fails in CI."""

import os
from typing import NoReturn

import pytest


def lacking(why: str) -> NoReturn:
    """Skip a test whose requirement is missing, or fail it in CI, where `.ci/run` installs them
    all."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
