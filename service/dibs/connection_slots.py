"""The connections of this process, and which one is closed to make room for another.

A new connection replaces the one that was idle longest. The last tenth is reserved for sessions'
acts and for health checks: while less than that is free, nothing else is answered, and each
connection is closed after its answer.
"""

from collections import OrderedDict
from typing import Protocol

KEPT_PART = 10
"""The reserved share of connections: one in KEPT_PART."""
QUIET_S = 1.0
"""Seconds; a connection idle for less makes room only if all slots are taken."""
FRESH_S = 0.25
"""Seconds; a connection idle for less never makes room: its request may be on the way."""
_HEALTH = (b"/livez", b"/readyz")


class Connected(Protocol):
    """The part of a connection that slots use."""

    def make_room(self) -> None:
        """Close without a response."""


class ConnectionSlots:
    """The connections of one process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = most - max(1, most // KEPT_PART)
        self._taken: set[Connected] = set()
        self._quiet: OrderedDict[Connected, float] = OrderedDict()
        """Idle connections, and since when; the longest first."""

    def has_room(self, now: float, coming: int = 0) -> bool:
        """Return whether there is a slot for a new connection; close idle ones to make room.
        `coming` others are accepted but have no slot yet."""
        most = self._most - coming
        if len(self._taken) >= self._open - coming:
            self._make_room(now - QUIET_S)
        while len(self._taken) >= most and self._make_room(now - FRESH_S):
            pass
        return len(self._taken) < most

    def enter(self, one: Connected, now: float) -> bool:
        """Give a slot to a new connection; return whether there was one."""
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
        """Free the slot of a closed connection."""
        self._taken.discard(one)
        self._quiet.pop(one, None)

    def busy(self, one: Connected) -> None:
        """Mark a connection as busy: a request is in progress."""
        self._quiet.pop(one, None)

    def quiet(self, one: Connected, since: float) -> None:
        """Mark a connection as idle: no request is in progress, or its response is not read."""
        if one in self._taken and one not in self._quiet:
            self._quiet[one] = since

    @property
    def scarce(self) -> bool:
        """Whether only the reserved slots are left."""
        return len(self._taken) > self._open


def is_kept_for(method: bytes, url: bytes) -> bool:
    """Return whether a request may use the reserved slots."""
    return url in _HEALTH or (method == b"POST" and url.startswith(b"/v1/"))
