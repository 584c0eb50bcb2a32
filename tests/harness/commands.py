"""Run `dibs …` in this process, to test its output without serving.

    ran = said_by("serve", env={"DIBS_PORT": "http"})
    assert ran.returncode == 2
    assert ran.stderr.startswith("dibs serve: DIBS_PORT: ")

A separate process would import everything again for each of about a hundred lines.
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
    """Run the command with `env` and no other setting; return its output and exit code."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, clean_environ(env), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _own_logging(),
    ):
        try:
            code = cli.main(arguments)
        except SystemExit as ended:  # raised by argparse for --help and for bad arguments
            code = ended.code if isinstance(ended.code, int) else 1
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Restore the loggers that the command configures for its own log."""
    loggers = [logging.getLogger(name) for name in (None, "uvicorn", "asyncio")]
    before = [(each, each.level, list(each.handlers)) for each in loggers]
    try:
        yield
    finally:
        for each, level, handlers in before:
            each.setLevel(level)
            each.handlers[:] = handlers
