"""The connections of this process, and which one is closed to make room for another.

A new connection replaces the one that was idle longest. The last tenth is reserved for sessions'
acts and for health checks: while less than that is free, nothing else is answered, and each
connection is closed after its answer.
"""

from collections import OrderedDict
from typing import Protocol

KEPT_PART = 10
"""One in so many connections is kept."""
QUIET_S = 1.0
"""A connection that is quiet for no longer goes only when all are taken."""
FRESH_S = 0.25
"""One that is quiet for no longer never goes: its request may be on the way."""
_HEALTH = (b"/livez", b"/readyz")


class Connected(Protocol):
    """A connection, as far as slots go."""

    def make_room(self) -> None:
        """Go, without a word."""


class ConnectionSlots:
    """The connections of one process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = most - max(1, most // KEPT_PART)
        self._taken: set[Connected] = set()
        self._quiet: OrderedDict[Connected, float] = OrderedDict()
        """Those on which nothing is being answered, and since when; the longest first."""

    def has_room(self, now: float, coming: int = 0) -> bool:
        """Say if there is a slot for a newcomer, or somebody went to make room. `coming` others
        have been let in and are not here yet."""
        most = self._most - coming
        if len(self._taken) >= self._open - coming:
            self._make_room(now - QUIET_S)
        while len(self._taken) >= most and self._make_room(now - FRESH_S):
            pass
        return len(self._taken) < most

    def enter(self, one: Connected, now: float) -> bool:
        """Let a newcomer in; say if that went."""
        if not self.has_room(now):
            return False
        self._taken.add(one)
        self._quiet[one] = now
        return True

    def _make_room(self, before: float) -> bool:
        if not self._quiet:
            return False
        one, since = next(iter(self._quiet.items()))
        if since > before:
            return False
        self.leave(one)
        one.make_room()
        return True

    def leave(self, one: Connected) -> None:
        """It is over."""
        self._taken.discard(one)
        self._quiet.pop(one, None)

    def busy(self, one: Connected) -> None:
        """Something is being answered."""
        self._quiet.pop(one, None)

    def quiet(self, one: Connected, since: float) -> None:
        """Nothing is being answered, or nobody takes the answer."""
        if one in self._taken and one not in self._quiet:
            self._quiet[one] = since

    @property
    def scarce(self) -> bool:
        """Only those slots are left which are kept."""
        return len(self._taken) > self._open


def is_kept_for(method: bytes, url: bytes) -> bool:
    """Say if a request is one for which there is a slot when they are scarce."""
    return url in _HEALTH or (method == b"POST" and url.startswith(b"/v1/"))
