"""Remembers the deliveries of a forge: none takes effect twice, or after a newer change.

A signature covers the body alone: a thief of a delivery may send it with another id. So the store
keeps both the id and a digest of the body; and for each pull request and issue the time of its last
change, because a forge sends deliveries in no order (decision 21).
"""

import logging
from hashlib import sha256
from typing import NamedTuple

from dibs.forge.github import ForgeEvent, Issue, PullRequest
from dibs.model import Project
from dibs.store import Store, StoreFull
from dibs.store.scripts import Declaration

log = logging.getLogger("dibs.forge")


class Arguments(NamedTuple):
    """The arguments of delivery.lua."""

    id: str
    digest: str
    thing: str
    at_ms: str
    keep: str


SCRIPT = Declaration("delivery", Arguments, rates="none")


class Delivery(NamedTuple):
    """One call of a forge: its id, its body, and the event in it."""

    id: str
    body: bytes
    event: ForgeEvent


async def seen(store: Store, project: Project, delivery: Delivery) -> str:
    """Return why a delivery is ignored: `replayed`, `overtaken`, `old`; or ''.

    Raises StoreDown.
    """
    tag, _, _ = await store.run(SCRIPT, project, arguments=_arguments(delivery, ""))
    return "" if tag == "new" else tag


async def keep(store: Store, project: Project, delivery: Delivery) -> None:
    """Remember a delivery. A full store may not keep it: its acts are done, and safe to repeat.

    Raises StoreDown.
    """
    try:
        await store.run(SCRIPT, project, arguments=_arguments(delivery, "1"))
    except StoreFull:
        log.warning("delivery_not_kept project=%s: the store is full", project)


def _arguments(delivery: Delivery, keep: str) -> Arguments:
    digest, at_ms = sha256(delivery.body).hexdigest()[:40], str(delivery.event.at_s * 1000)
    return Arguments(delivery.id, digest, thing_of(delivery.event), at_ms, keep)


def thing_of(event: ForgeEvent) -> str:
    """Return a name for the pull request or issue of an event, '' for none."""
    match event.thing:
        case PullRequest(url=url):
            return f"pr {url}"[:600]
        case Issue(number=number):
            return f"{event.repository} #{number}"[:600]
        case _:
            return ""
