"""The format of a store's data: every service checks it, and a newer one upgrades it."""

import logging
from typing import NamedTuple

from dibs.store.keys import FORMAT, FORMAT_BEFORE
from dibs.store.redis.link import Link
from dibs.store.scripts import Script, run_script

log = logging.getLogger("dibs.store")

_KEY = "dibs:format"


class UnsupportedStore(Exception):
    """The store cannot be used in its present state; the message is a sentence with the reason."""


class Upgrade(NamedTuple):
    """The arguments of upgrade.lua."""

    before: str
    after: str


UPGRADE = Script.load("upgrade", arguments=Upgrade._fields)


async def check_format(link: Link) -> None:
    """Check that the data has format FORMAT; upgrade it if it has FORMAT_BEFORE.

    Raises StoreDown, or UnsupportedStore.
    """
    found = await settled(link, _KEY, FORMAT)
    if found == FORMAT_BEFORE:
        found = str(await run_script(link, UPGRADE, _KEY, Upgrade(FORMAT_BEFORE, FORMAT)))
        log.info("store_upgraded from=%s to=%s", FORMAT_BEFORE, found)
    if found != FORMAT:
        raise UnsupportedStore(
            f"The store holds data of format {found}; this dibs reads format {FORMAT}. "
            "Run the version of dibs that wrote it, or give this one a separate store."
        )


async def settled(link: Link, key: str, first: str) -> str:
    """Return the value of `key`, which the first caller sets to `first`. Raises StoreDown."""
    found = await link.command("GET", key)
    if found is None:  # write only then: a full store must not keep a service from starting
        await link.command("SET", key, first, "NX")
        found = await link.command("GET", key)
    return str(found)
