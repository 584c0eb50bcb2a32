"""Requirements of a test on its machine: a test without one is skipped, but fails in CI."""

import os
from typing import NoReturn

import pytest


def lacking(why: str) -> NoReturn:
    """Skip a test that lacks a requirement; fail it in CI, where `.ci/run` installs them."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
