"""Accepts all waiting connections at once.

uvloop accepts one connection per turn of its loop. With many busy connections a turn takes long,
and new connections, holders' among them, would wait for seconds. So each time it has accepted one,
the others that wait are accepted here.
"""

import asyncio
from collections.abc import Callable
from socket import socket

from dibs.seats import Seats

AT_ONCE = 256
"""So many are accepted before anybody else has a turn."""
AGAIN_S = 0.01
"""After so long those outside are looked after again, while there is no seat for them."""


class Door:
    """The listening socket, beside what the server does with it."""

    def __init__(self, listener: socket, seats: Seats) -> None:
        self._listener, self._seats = listener.dup(), seats
        self._asked = False
        self._entering: set[asyncio.Task[object]] = set()
        self.protocol: Callable[[], asyncio.Protocol]
        """What makes a connection."""

    def came(self) -> None:
        """Somebody came in: see soon if there are more."""
        if not self._asked:
            self._asked = True
            asyncio.get_running_loop().call_soon(self._let_in)

    def _let_in(self) -> None:
        self._asked = False
        loop = asyncio.get_running_loop()
        for _ in range(AT_ONCE):
            if not self._seats.has_room(loop.time()):
                self._asked = True
                loop.call_later(AGAIN_S, self._let_in)
                return
            try:
                one, _ = self._listener.accept()
            except OSError:  # nobody waits, or it is closed
                return
            one.setblocking(False)
            entering = loop.create_task(self._enter(one))
            self._entering.add(entering)
            entering.add_done_callback(self._entering.discard)
        self.came()

    async def _enter(self, one: socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self.protocol, one)
        except OSError:  # it has gone already
            one.close()

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.close()
