"""Runs `dibs …` in this process, for what it says without serving.

    ran = said_by("serve", env={"DIBS_PORT": "http"})
    assert ran.returncode == 2
    assert ran.stderr.startswith("dibs serve: DIBS_PORT: ")

A process of its own would import everything again for each of some hundred lines.
"""

import contextlib
import io
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping
from unittest import mock

from tests.harness.processes import clean_environ

from dibs import cli


def said_by(
    *arguments: str, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run the command with `env` and no other setting; return what it said and its exit code."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, clean_environ(env), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _own_logging(),
    ):
        try:
            code = cli.main(arguments)
        except SystemExit as ended:  # argparse, for --help and what it cannot read
            code = ended.code if isinstance(ended.code, int) else 1
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Put back what the command sets up for its own log."""
    loggers = [logging.getLogger(name) for name in (None, "uvicorn", "asyncio")]
    before = [(each, each.level, list(each.handlers)) for each in loggers]
    try:
        yield
    finally:
        for each, level, handlers in before:
            each.setLevel(level)
            each.handlers[:] = handlers
