"""Limits on event streams and waiting claims, which hold connections that others need."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator


class TooMany(Exception):
    """The limit of streams is reached: of a project, of an address, or in total."""

    def __init__(self, whose: str, limit: int) -> None:
        super().__init__(whose)
        self.whose, self.limit = whose, limit


class StreamLimit:
    """The streams of one process: half of its connections at most, a quarter for each project and
    each address."""

    def __init__(self, max_connections: int) -> None:
        self._most = max(2, max_connections // 2)
        self._share = max(1, max_connections // 4)
        self._all = 0
        self._export = asyncio.Lock()
        self._projects: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()

    def check(self, project: str, address: str) -> None:
        """Raise TooMany if there is no room for one more stream."""
        if self._all >= self._most:
            raise TooMany("service", self._most)
        if self._projects[project] >= self._share:
            raise TooMany("project", self._share)
        if self._addresses[address] >= self._share:
            raise TooMany("address", self._share)

    def has_room(self, project: str, address: str) -> bool:
        """Return whether there is room for one more stream."""
        try:
            self.check(project, address)
        except TooMany:
            return False
        return True

    async def counted(
        self, project: str, address: str, stream: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """Yield from `stream`, and count it until it ends."""
        with self.one(project, address):
            async for chunk in stream:
                yield chunk

    @contextlib.asynccontextmanager
    async def exporting(self) -> AsyncIterator[None]:
        """Hold the turn to read a part of an export, then pause as long as the read took: all
        exports together take at most half of the time."""
        async with self._export:
            began = time.monotonic()
            yield
            await asyncio.sleep(time.monotonic() - began)

    @contextlib.contextmanager
    def one(self, project: str, address: str) -> Iterator[None]:
        """Count one more stream until the block ends."""
        self._all += 1
        self._projects[project] += 1
        self._addresses[address] += 1
        try:
            yield
        finally:
            self._all -= 1
            for counter, name in ((self._projects, project), (self._addresses, address)):
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]
