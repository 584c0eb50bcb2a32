"""Several processes that share one port and one store; the one here starts them and waits.

A worker is a new program, not a fork: it has nothing of the private store's locks and threads. It
hears of our end, however that comes, because its end of a pair of sockets closes.
"""

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from dibs import signals

log = logging.getLogger("dibs.workers")

STOP_S = 2.5
"""A worker that was asked to end and has not by then is killed: its own drain takes less."""
STEADY_S = 10.0
"""A worker that lived so long was well: the next one starts at once if it dies."""
_PAUSES_S = (0.0, 0.2, 1.0, 5.0)


@dataclass
class Workers:
    """The processes of one service."""

    environ: dict[str, str] = field(repr=False)
    listeners: Sequence[socket.socket]
    cells_fd: int
    rows: int
    count: int
    ready: Callable[[dict[str, object]], None]
    """Hears what the first worker says of the store, once every worker listens."""
    refused: Callable[[str], None]
    """Hears in a sentence why no worker can start, from the first that cannot."""
    died: Callable[[], None]
    """Hears of every worker that ended unasked."""
    _running: dict[int, asyncio.subprocess.Process] = field(default_factory=dict)
    _said: dict[int, dict[str, object]] = field(default_factory=dict)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _failed: bool = False

    async def run(self) -> int:
        """Keep the workers running until a signal; return the exit code."""
        loop = asyncio.get_running_loop()
        for each in signals.that_stop():
            loop.add_signal_handler(each, self.stop)
        keepers = [asyncio.create_task(self._keep(number)) for number in range(self.count)]
        try:
            await self._stopping.wait()
        finally:
            await self._end()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
        return 1 if self._failed else 0

    def stop(self, *, failed: bool = False) -> None:
        """Let `run` return."""
        self._failed = self._failed or failed
        self._stopping.set()

    async def _keep(self, number: int) -> None:
        deaths = 0
        while not self._stopping.is_set():
            began = asyncio.get_running_loop().time()
            status = await self._one(number)
            if self._stopping.is_set():
                return
            if len(self._said) < self.count:
                self.stop(failed=True)
                return
            log.error("worker_died worker=%d status=%d", number, status)
            self.died()
            lived_s = asyncio.get_running_loop().time() - began
            deaths = 0 if lived_s > STEADY_S else deaths + 1
            await asyncio.sleep(_PAUSES_S[min(deaths, len(_PAUSES_S) - 1)])

    async def _one(self, number: int) -> int:
        """Run one worker to its end; return its exit status."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                listener = self.listeners[number % len(self.listeners)]
                fds = (listener.fileno(), theirs.fileno(), self.cells_fd)
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # what lies in the working directory is no module of ours
                    "-m",
                    "dibs.worker",
                    *map(str, (*fds, self.rows, number)),
                    env=self.environ,
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for us; we pass it on, once
                )
            self._running[number] = process
            try:
                await self._listen(number, ours)
                return await process.wait()
            finally:
                self._running.pop(number, None)

    async def _listen(self, number: int, ours: socket.socket) -> None:
        ours.setblocking(False)
        loop, said = asyncio.get_running_loop(), b""
        while not said.endswith(b"\n"):
            more = await loop.sock_recv(ours, 4096)
            if not more:
                return
            said += more
        told = json.loads(said)
        if why := told.get("refused"):
            if not self._stopping.is_set():
                self.refused(why)
            if len(self._said) < self.count:  # it cannot start, and so will others
                self.stop(failed=True)
            return
        before = len(self._said)
        self._said[number] = told
        if before < len(self._said) == self.count:
            self.ready(self._said[0])
        await loop.sock_recv(ours, 1)  # says no more: returns when it is gone

    async def _end(self) -> None:
        processes = list(self._running.values())
        for process in processes:
            with suppress(ProcessLookupError):
                process.terminate()
        waits = [asyncio.create_task(process.wait()) for process in processes]
        if waits:
            await asyncio.wait(waits, timeout=STOP_S)
        for process in processes:
            if process.returncode is None:
                log.error("worker_killed pid=%d", process.pid)
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
