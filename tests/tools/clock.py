"""Steps the wall clock of a running store, forward and back.

    clock = SteppedClock(tmp_path / "clock")
    store = EmbeddedStore.start(tmp_path / "data", env=clock.env)
    clock.advance(60)  # the store's TIME is a minute later
    clock.step(-5)  # and five seconds earlier
    clock.freeze()  # from here on it moves only by steps

Only processes started with `env` see the steps, and only in their wall clock: their monotonic clock
stays real. Needs Linux and a C compiler.
"""

import atexit
import functools
import mmap
import shutil
import struct
import sys
import tempfile
import time
from pathlib import Path

from tests.harness import processes
from tests.harness.needs import lacking

_SOURCE = Path(__file__).with_name("clockshim.c")


@functools.cache
def _shim() -> Path:
    """Build the preloadable library, once per process, and return its path."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler or sys.platform != "linux":
        lacking("stepping a store's clock needs Linux and a C compiler")
    directory = tempfile.mkdtemp(prefix="dibs-clock-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    library = Path(directory) / "clockshim.so"
    command: list[str | Path] = [
        compiler,
        "-O2",
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        library,
        _SOURCE,
    ]
    built = processes.run(command)
    assert built.returncode == 0, f"{_SOURCE.name} does not compile:\n{built.stderr}"
    return library


class SteppedClock:
    """An offset on the wall clock of the processes that were started with `env`."""

    def __init__(self, path: Path) -> None:
        self.env = {"LD_PRELOAD": str(_shim()), "STEPPED_CLOCK": str(path.resolve())}
        path.write_bytes(struct.pack("=qq", 0, 0))
        with open(path, "r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), 16)
        # One aligned store of eight bytes: a reader sees the old offset or the new one, never a
        # mix.
        self._offset_us = memoryview(self._mapped).cast("q")

    @property
    def offset_s(self) -> float:
        """Seconds by which this clock is ahead of the real one."""
        return self._offset_us[0] / 1e6

    def freeze(self) -> None:
        """Stop the clock at its present time; from here on only steps move it."""
        self._offset_us[1] = time.time_ns() // 1000

    @property
    def now_us(self) -> int:
        """The clock's time, in microseconds since the epoch."""
        return (self._offset_us[1] or time.time_ns() // 1000) + self._offset_us[0]

    def step(self, seconds: float) -> None:
        """Move the clock at once and permanently: forward, or back if negative."""
        self._offset_us[0] += round(seconds * 1e6)

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        assert seconds >= 0, "time passes forward; use step() to set the clock back"
        self.step(seconds)
