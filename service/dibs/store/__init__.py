"""The store: its keys, its scripts, and the lease clock."""

from dibs.store.counts import Counts
from dibs.store.redis.failures import Damaged, StoreDown, StoreFull, Unwilling
from dibs.store.rules import Rules
from dibs.store.store import Store

__all__ = ["Counts", "Damaged", "Rules", "Store", "StoreDown", "StoreFull", "Unwilling"]
