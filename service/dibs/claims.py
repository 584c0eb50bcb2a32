"""What every act needs: the store, its live events, and the bounds on a request."""

from dataclasses import dataclass, field

from dibs.model import Project
from dibs.store import Store
from dibs.store.broadcast import EventBroadcaster
from dibs.stream_limit import StreamLimit


class OutOfBounds(ValueError):
    """A ttl or wait that the service does not grant; the message says what it does."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a caller may ask for, in seconds."""

    min_ttl_s: int = 10
    max_ttl_s: int = 86_400


@dataclass(frozen=True, slots=True)
class Claims:
    """What every act is given to work with."""

    store: Store
    broadcaster: EventBroadcaster
    bounds: Bounds
    streams: StreamLimit = field(default_factory=lambda: StreamLimit(1_000))
    """Who waits is counted together with who listens."""

    def check_ttl(self, ttl_s: int | None) -> None:
        """Raise OutOfBounds for a ttl that is not granted."""
        least, most = self.bounds.min_ttl_s, self.bounds.max_ttl_s
        if ttl_s is not None and not least <= ttl_s <= most:
            raise OutOfBounds("ttl", f"A ttl is {least} to {most} seconds; this is {ttl_s}.")

    async def end_of(self, project: Project) -> str:
        """Return the id of a project's last event, where a follower may start."""
        epoch, last = await self.store.events.end(project)
        return f"{epoch}-{last}"
