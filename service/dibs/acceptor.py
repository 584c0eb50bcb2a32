"""Accepts connections: all that wait outside, as long as there are slots.

uvicorn would have the event loop do that, which knows of no slots: who came beyond them would be
refused, holders too. It also accepts one connection a turn, and with many busy ones a turn takes
long. Here who finds no slot waits in the kernel's queue, in order.
"""

import asyncio
import contextlib
from collections.abc import Callable
from socket import socket

from dibs.connection_slots import ConnectionSlots

AT_ONCE = 256
"""So many are accepted before anybody else has a turn."""
AGAIN_S = 0.01
"""After so long those outside are looked after again, while there is no slot for them."""


class Acceptor:
    """The listening socket."""

    def __init__(self, listener: socket, slots: ConnectionSlots) -> None:
        self._listener, self._slots = listener, slots
        self._entering: set[asyncio.Task[object]] = set()
        self._later: asyncio.TimerHandle | None = None

    def open(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Let in who comes; `protocol` makes a connection."""
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
            except BlockingIOError:  # nobody waits
                return
            except ConnectionAbortedError:  # it has gone already
                continue
            except OSError:  # there is no file descriptor for it
                self._rest()
                return
            one.setblocking(False)
            entering = loop.create_task(self._enter(one))
            self._entering.add(entering)
            entering.add_done_callback(self._entering.discard)

    def _rest(self) -> None:
        """Look again in a moment: who is outside would wake the loop in each turn."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._later = loop.call_later(AGAIN_S, self._look_out)

    async def _enter(self, one: socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, one)
        except OSError:  # it has gone already
            one.close()

    def close(self) -> None:
        """Let nobody in any more."""
        if self._listener.fileno() < 0:
            return
        if self._later:
            self._later.cancel()
        with contextlib.suppress(RuntimeError):  # no loop runs: it looks at nothing any more
            asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
