"""The context of every act: the store, its live events, and the bounds on a request."""

from dataclasses import dataclass, field

from dibs.model import Project
from dibs.store import Store
from dibs.store.broadcast import EventBroadcaster
from dibs.stream_limit import StreamLimit


class OutOfBounds(ValueError):
    """A ttl or wait outside the bounds; the message states them."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a ttl, in seconds."""

    min_ttl_s: int = 10
    max_ttl_s: int = 86_400


@dataclass(frozen=True, slots=True)
class Claims:
    """The context of every act."""

    store: Store
    broadcaster: EventBroadcaster
    bounds: Bounds
    streams: StreamLimit = field(default_factory=lambda: StreamLimit(1_000))
    """The limit covers long polls and event streams together."""

    def check_ttl(self, ttl_s: int | None) -> None:
        """Raise OutOfBounds for a ttl outside the bounds."""
        least, most = self.bounds.min_ttl_s, self.bounds.max_ttl_s
        if ttl_s is not None and not least <= ttl_s <= most:
            raise OutOfBounds("ttl", f"A ttl must be {least} to {most} seconds; this is {ttl_s}.")

    async def end_of(self, project: Project) -> str:
        """Return the id of a project's last event, from which a follower can start."""
        epoch, last = await self.store.events.end(project)
        return f"{epoch}-{last}"
