"""The log of a project's transitions: one stream, read from a cursor that names its epoch."""

import re
from collections.abc import Sequence

from redis.exceptions import ResponseError

from dibs.model import Event, Holder, Project, Task
from dibs.store.clock import ClockReading, LeaseClock
from dibs.store.keys import keys
from dibs.store.redis.link import Link

_EPOCH = re.compile("[0-9]{1,16}")
PAGE = 1_000
"""Events that are read at once where those of one task are looked for."""


class CursorExpired(Exception):
    """The events asked for are not (or no longer) in the stream."""


class EventLog:
    """The events of every project."""

    def __init__(self, link: Link, clock: LeaseClock) -> None:
        self._link, self._clock = link, clock

    async def read(self, project: Project, after: str, limit: int) -> list[Event]:
        """Return the events after the id `after`, at most `limit`; '' means from the oldest kept.

        Raises CursorExpired when the stream cannot go on from there without a gap.
        """
        given, _, entry = after.partition("-")
        stream, start = keys(project) + ":events", f"({entry}" if after else "-"
        entries = await self._link.command("XRANGE", stream, start, "+", "COUNT", limit)
        # Looked at after they were read: what is kept now was kept then.
        epoch = await self._epoch(project)
        # Epoch 0 is before a project's first event: whichever that is, nothing is missed.
        if after and (given not in (epoch, "0") or not await self._kept_since(project, entry)):
            raise CursorExpired
        return [event(epoch, entry, flat, self._clock.reading) for entry, flat in entries]

    async def of_task(
        self, project: Project, task: Task, after: str, limit: int
    ) -> tuple[list[Event], str]:
        """Return the events of one task after the id `after`, at most `limit`, and from where to go
        on. O(events kept). Raises CursorExpired."""
        found: list[Event] = []
        while page := await self.read(project, after, PAGE):
            for each in page:
                after = each.id
                found += [each] if each.task == task else []
                if len(found) == limit:
                    return found, after
        return found, after

    async def latest(self, project: Project, most: int) -> list[Event]:
        """Return the last events, the newest first."""
        epoch = await self._epoch(project)
        stream = f"{keys(project)}:events"
        entries = await self._link.command("XREVRANGE", stream, "+", "-", "COUNT", most)
        return [event(epoch, entry, flat, self._clock.reading) for entry, flat in entries]

    async def end(self, project: Project) -> tuple[str, str]:
        """Return the epoch of a project's stream ('0' before its first event) and its last id."""
        epoch = await self._epoch(project)
        stream = keys(project) + ":events"
        last = await self._link.command("XREVRANGE", stream, "+", "-", "COUNT", 1)
        return epoch, last[0][0] if last else "0-0"

    async def look(self, project: Project, entry: str) -> tuple[str, bool]:
        """Return the epoch of a project's stream, and if events after `entry` are known to be gone.

        Raises StoreDown.
        """
        epoch = await self._epoch(project)
        return epoch, await self._kept_since(project, entry) is False

    async def _epoch(self, project: Project) -> str:
        """Return when the project's stream began; '0' before that, and where nobody can read it."""
        epoch = await self._link.command("HGET", keys(project) + ":meta", "epoch") or ""
        return str(epoch) if _EPOCH.fullmatch(epoch) else "0"

    async def _kept_since(self, project: Project, entry: str) -> bool | None:
        """Return if all that came after `entry` is still kept; None where that is unknown: Redis
        before 7 does not tell it of the beginning."""
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
    """Return a stream entry's id as numbers that compare."""
    ms, _, seq = text.partition("-")
    return int(ms), int(seq or 0)


def is_later(one: str, than: str) -> bool:
    """Say if an event is later than another, by their ids; '' is before all."""
    epoch, _, entry = one.partition("-")
    other, _, known = than.partition("-")
    return epoch != other or stream_id(entry) > stream_id(known)


def event(epoch: str, entry_id: str, flat: Sequence[str], reading: ClockReading) -> Event:
    """Return one entry of a project's stream; one that nobody can read is of the type `damaged`."""
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
