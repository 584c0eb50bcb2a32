"""Remembers what a forge has told: nothing is told twice, and nothing old after something new.

A signature is of the body alone: a thief of one may send it with another id. So both are kept, the
id and a digest of the body; and of each pull request and issue when it was changed last, because a
forge sends in no order (decision 21).
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
    """One call of a forge: its id, its body, and what that says."""

    id: str
    body: bytes
    event: ForgeEvent


async def seen(store: Store, project: Project, delivery: Delivery) -> str:
    """Return why a delivery is not listened to: `replayed`, `overtaken`, `old`; or ''.

    Raises StoreDown.
    """
    tag, _, _ = await store.run(SCRIPT, project, arguments=_arguments(delivery, ""))
    return "" if tag == "new" else tag


async def keep(store: Store, project: Project, delivery: Delivery) -> None:
    """Remember it. A full store does not: what was done stays, and is safe to do again.

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
    """Name the pull request or issue that an event is about."""
    match event.thing:
        case PullRequest(url=url):
            return f"pr {url}"[:600]
        case Issue(number=number):
            return f"{event.repository} #{number}"[:600]
        case _:
            return ""
