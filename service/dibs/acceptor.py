"""Accepting of connections: all that wait, as long as there are slots.

uvicorn would leave this to the event loop, which knows nothing of slots: connections beyond them
would be refused, holders' too. The loop also accepts one connection per turn, and with many busy
ones a turn takes long. Here a connection without a slot waits in the kernel's queue, in order.
"""

import asyncio
import contextlib
from collections.abc import Callable
from socket import socket

from dibs.connection_slots import ConnectionSlots

AT_ONCE = 256
"""Connections accepted before the event loop does anything else."""
AGAIN_S = 0.01
"""Seconds after which to try again while there is no free slot."""


class Acceptor:
    """The owner of the listening socket."""

    def __init__(self, listener: socket, slots: ConnectionSlots) -> None:
        self._listener, self._slots = listener, slots
        self._entering: set[asyncio.Task[object]] = set()
        self._later: asyncio.TimerHandle | None = None

    def open(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Start accepting; `protocol` makes a connection."""
        self._protocol = protocol
        self._look_out()

    def _look_out(self) -> None:
        self._later = None
        asyncio.get_running_loop().add_reader(self._listener, self._let_in)

    def _let_in(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(AT_ONCE):
            if not self._slots.has_room(loop.time(), len(self._entering)):
                self._rest()
                return
            try:
                one, _ = self._listener.accept()
            except BlockingIOError:  # no connection waits
                return
            except ConnectionAbortedError:  # the caller has already gone
                continue
            except OSError:  # no file descriptor is left
                self._rest()
                return
            one.setblocking(False)
            entering = loop.create_task(self._enter(one))
            self._entering.add(entering)
            entering.add_done_callback(self._entering.discard)

    def _rest(self) -> None:
        """Pause for AGAIN_S: waiting connections would wake the loop in every turn."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._later = loop.call_later(AGAIN_S, self._look_out)

    async def _enter(self, one: socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, one)
        except OSError:  # the caller has already gone
            one.close()

    def close(self) -> None:
        """Stop accepting, and close the socket."""
        if self._listener.fileno() < 0:
            return
        if self._later:
            self._later.cancel()
        with contextlib.suppress(RuntimeError):  # no event loop is running
            asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
