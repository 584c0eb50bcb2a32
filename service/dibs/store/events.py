"""The log of a project's transitions: a stream, read from a cursor that contains its epoch."""

import re
from collections.abc import Sequence

from redis.exceptions import ResponseError

from dibs.model import Event, Holder, Project, Task
from dibs.store.clock import ClockReading, LeaseClock
from dibs.store.keys import keys
from dibs.store.redis.link import Link

_EPOCH = re.compile("[0-9]{1,16}")
PAGE = 1_000
"""Events read at once in a search for the events of one task."""


class CursorExpired(Exception):
    """The events after the cursor are not, or no longer, in the stream."""


class EventLog:
    """The events of all projects."""

    def __init__(self, link: Link, clock: LeaseClock) -> None:
        self._link, self._clock = link, clock

    async def read(self, project: Project, after: str, limit: int) -> list[Event]:
        """Return at most `limit` events after the id `after`; '' starts at the oldest one kept.

        Raises CursorExpired where events after that id are missing. Raises StoreDown.
        """
        given, _, entry = after.partition("-")
        stream, start = keys(project) + ":events", f"({entry}" if after else "-"
        entries = await self._link.command("XRANGE", stream, start, "+", "COUNT", limit)
        # Checked after the read: an event that is kept now was also kept then.
        epoch = await self._epoch(project)
        # A cursor of epoch 0 is older than the project's first event, so it fits any epoch.
        if after and (given not in (epoch, "0") or not await self._kept_since(project, entry)):
            raise CursorExpired
        return [event(epoch, entry, flat, self._clock.reading) for entry, flat in entries]

    async def of_task(
        self, project: Project, task: Task, after: str, limit: int
    ) -> tuple[list[Event], str]:
        """Return at most `limit` events of one task after the id `after`, and the id to continue
        from. O(events kept). Raises CursorExpired or StoreDown."""
        found: list[Event] = []
        while page := await self.read(project, after, PAGE):
            for each in page:
                after = each.id
                found += [each] if each.task == task else []
                if len(found) == limit:
                    return found, after
        return found, after

    async def latest(self, project: Project, most: int) -> list[Event]:
        """Return the last `most` events, the newest first. Raises StoreDown."""
        epoch = await self._epoch(project)
        stream = f"{keys(project)}:events"
        entries = await self._link.command("XREVRANGE", stream, "+", "-", "COUNT", most)
        return [event(epoch, entry, flat, self._clock.reading) for entry, flat in entries]

    async def end(self, project: Project) -> tuple[str, str]:
        """Return the epoch of a project's stream ('0' before its first event) and its last id.

        Raises StoreDown.
        """
        epoch = await self._epoch(project)
        stream = keys(project) + ":events"
        last = await self._link.command("XREVRANGE", stream, "+", "-", "COUNT", 1)
        return epoch, last[0][0] if last else "0-0"

    async def look(self, project: Project, entry: str) -> tuple[str, bool]:
        """Return the stream's epoch, and whether events after `entry` are known to be missing.

        Raises StoreDown.
        """
        epoch = await self._epoch(project)
        return epoch, await self._kept_since(project, entry) is False

    async def _epoch(self, project: Project) -> str:
        """Return the instant at which the project's stream began; '0' where there is none, or it
        is damaged."""
        epoch = await self._link.command("HGET", keys(project) + ":meta", "epoch") or ""
        return str(epoch) if _EPOCH.fullmatch(epoch) else "0"

    async def _kept_since(self, project: Project, entry: str) -> bool | None:
        """Return whether all events after `entry` are still kept. Return None where that is
        unknown: Redis before 7 does not report it for the beginning of a stream."""
        try:
            flat = await self._link.command("XINFO", "STREAM", keys(project) + ":events")
        except ResponseError as error:
            if "no such key" not in str(error):
                raise
            return entry == "0-0"
        told = dict(zip(flat[::2], flat[1::2], strict=True))
        if entry == "0-0":
            return (
                bool(told["entries-added"] == told["length"]) if "entries-added" in told else None
            )
        first, last = told["first-entry"], told["last-generated-id"]
        return bool(first) and stream_id(first[0]) <= stream_id(entry) <= stream_id(last)


def stream_id(text: str) -> tuple[int, int]:
    """Return a stream entry's id as a tuple that compares in stream order."""
    ms, _, seq = text.partition("-")
    return int(ms), int(seq or 0)


def is_later(one: str, than: str) -> bool:
    """Return whether the event with id `one` is later than that with id `than`; '' precedes all.

    An event of another epoch counts as later.
    """
    epoch, _, entry = one.partition("-")
    other, _, known = than.partition("-")
    return epoch != other or stream_id(entry) > stream_id(known)


def event(epoch: str, entry_id: str, flat: Sequence[str], reading: ClockReading) -> Event:
    """Decode an entry of a project's stream; an unreadable one gives an event of type `damaged`."""
    rec = dict(zip(flat[::2], flat[1::2], strict=False))
    try:
        return _event(epoch, entry_id, rec, reading)
    except (KeyError, ValueError):
        ms, _, _ = entry_id.partition("-")
        return Event(
            id=f"{epoch}-{entry_id}",
            type="damaged",
            task=Task(rec.get("task", "")),
            at=ClockReading(0, 0, "").instant(int(ms)),
            fence=0,
            holder=None,
        )


def _event(epoch: str, entry_id: str, rec: dict[str, str], reading: ClockReading) -> Event:
    return Event(
        id=f"{epoch}-{entry_id}",
        type=rec["type"],
        task=Task(rec["task"]),
        at=reading.instant(int(rec["at"])),
        fence=int(rec["fence"]),
        holder=Holder(rec["ref"], rec["label"] or None) if rec.get("ref") else None,
        note=rec.get("note") or None,
        reason=rec.get("reason") or None,
        by=rec.get("by") or None,
        pr=rec.get("pr") or None,
    )
