"""One of the processes of `dibs serve --workers N`. Started by workers.py, by nobody else."""

import asyncio
import contextlib
import dataclasses
import json
import signal
import socket
import sys

from dibs import logs
from dibs.api.observe import FAMILIES
from dibs.app import build
from dibs.metrics import Cells, Metrics
from dibs.serve import loops, refusals, why_not
from dibs.server import Server, serve
from dibs.settings import Settings, load
from dibs.store.store import Unfit
from dibs.store.target import parse


def main() -> int:
    """Serve on the socket that was handed down, until told to stop or our starter is gone."""
    listen_fd, control_fd, cells_fd, rows, row = map(int, sys.argv[1:])
    settings = load()
    logs.start(settings.log_level, settings.log_format)
    cells = Cells(cells_fd, rows, Metrics.width(FAMILIES))
    with (
        socket.socket(fileno=listen_fd) as listener,
        socket.socket(fileno=control_fd) as control,
        asyncio.Runner(loop_factory=loops()) as runner,
    ):
        store = parse(settings.redis_url.get_secret_value()).shown if settings.redis_url else ""

        def say(refusal: Exception) -> None:
            told = {"refused": why_not(refusal, store)}
            with contextlib.suppress(OSError):  # who started us is gone
                control.send(json.dumps(told).encode() + b"\n")

        return refusals(runner.run, _serve(settings, listener, control, cells, row), say)


async def _serve(
    settings: Settings, listener: socket.socket, control: socket.socket, cells: Cells, row: int
) -> None:
    if settings.redis_url is None:
        raise Unfit("a worker is given its store by the process that starts it")
    service = build(settings, settings.redis_url.get_secret_value(), cells, row)
    control.setblocking(False)
    loop = asyncio.get_running_loop()

    async def ready(server: Server) -> None:
        health = dataclasses.asdict(await service.store.health())
        control.send(json.dumps(health).encode() + b"\n")

        def starter_said() -> None:  # it says nothing: it is gone
            loop.remove_reader(control)
            server.handle_exit(signal.SIGTERM, None)

        loop.add_reader(control, starter_said)

    await serve(settings, service, listener, ready)


if __name__ == "__main__":
    sys.exit(main())
