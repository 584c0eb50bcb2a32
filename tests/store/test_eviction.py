"""A store that may evict live claims grants none, even if it hides its configuration."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.harness import acting
from tests.harness.services import new_session
from tests.tools.servers import KINDS, StoreServer, serving

from dibs import results
from dibs.model import Project, Task
from dibs.store import Rules, Store, StoreDown
from dibs.store.format import UnsupportedStore
from dibs.store.redis.link import PipelineLink
from dibs.store.server_info import may_evict_claims

FREE = Rules(rate_per_session=0, rate_per_project=0, claims_per_session=2_000)
PROJECT = Project("evic.tion")
SMALL = ("maxmemory 4mb", "appendonly no")
NO_CONFIG = 'rename-command CONFIG ""'
NO_INFO = 'rename-command INFO ""'
HIDDEN_CONFIG = "rename-command CONFIG operators-config"
EVICTING = "maxmemory-policy allkeys-lru"

anywhere = pytest.mark.parametrize("kind", KINDS)


@contextlib.asynccontextmanager
async def at(url: str) -> AsyncIterator[Store]:
    """Yield a store at `url`, not opened."""
    store = Store(PipelineLink.to(url), FREE)
    try:
        yield store
    finally:
        await store.close()


@anywhere
@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
async def test_a_store_that_evicts_any_key_is_refused_though_it_hides_its_configuration(
    kind: str, policy: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path, *SMALL, f"maxmemory-policy {policy}", NO_CONFIG) as server:
        async with at(server.url) as store:
            with pytest.raises(UnsupportedStore, match=f"{policy}.*noeviction"):
                await store.open()


@anywhere
@pytest.mark.parametrize("rights", ["-config", "-@dangerous +info", "-info", "+@all"])
async def test_a_store_that_evicts_any_key_is_refused_whatever_its_user_may_see(
    kind: str, rights: str, tmp_path: Path
) -> None:
    user = f"user dibs on >password ~dibs:* &* +@all {rights}"
    with serving(kind, tmp_path, *SMALL, EVICTING, user) as server:
        async with at(server.url_of("dibs", "password")) as store:
            with pytest.raises(UnsupportedStore, match="noeviction"):
                await store.open()


@anywhere
async def test_a_policy_is_refused_before_a_limit_makes_it_evict(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path, "maxmemory 0", EVICTING) as server:
        async with at(server.url) as store:
            with pytest.raises(UnsupportedStore, match="noeviction"):
                await store.open()


@pytest.mark.parametrize(
    ("policy", "evicts"),
    [
        ("noeviction", False),
        ("volatile-lru", False),
        ("volatile-lfu", False),
        ("volatile-random", False),
        ("volatile-ttl", False),
        ("allkeys-lru", True),
        ("allkeys-lrm", True),
        ("eviction", True),  # Dragonfly as a cache
        ("whatever-comes-next", True),
        ("", False),  # hidden: other tests cover it
    ],
)
def test_only_policies_known_to_spare_claims_are_let_through(policy: str, evicts: bool) -> None:
    assert may_evict_claims(policy) is evicts


@anywhere
async def test_a_store_that_evicts_only_what_has_a_ttl_is_as_durable_as_its_log(
    kind: str, tmp_path: Path
) -> None:
    log = ("appendonly yes", "appendfsync always", "maxmemory 4mb", "maxmemory-policy volatile-lru")
    with serving(kind, tmp_path, *log) as server:
        async with at(server.url) as store:
            await store.open()
            health = await store.health()
            assert (health.durability, health.reasons) == ("strict", [])


@anywhere
@pytest.mark.parametrize(
    "hidden",
    [("CONFIG",), ("CONFIG", "CLUSTER", "COMMAND", "ACL"), ("CONFIG", "CLUSTER", "CLIENT")],
)
async def test_a_managed_store_without_these_commands_serves_and_says_what_it_does_not_show(
    kind: str, hidden: tuple[str, ...], tmp_path: Path
) -> None:
    renamed = [f'rename-command {command} ""' for command in hidden]
    with serving(kind, tmp_path, "maxmemory-policy volatile-lru", *SMALL, *renamed) as server:
        async with at(server.url) as store:
            await store.open()
            granted = await acting.claim(store, PROJECT, new_session(), [Task("T-1")])
            assert isinstance(granted, results.Granted)
            health = await store.health()
            assert health.status == "ready"
            assert any("CONFIG" in reason for reason in health.reasons)


@anywhere
async def test_a_store_that_shows_no_policy_says_so_and_what_to_set(
    kind: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path, *SMALL, NO_CONFIG, NO_INFO) as server:
        async with at(server.url) as store:
            await store.open()
            health = await store.health()
            assert health.durability == "unknown"
            assert any("set maxmemory-policy to noeviction" in said for said in health.reasons)


@anywhere
async def test_a_store_that_begins_to_evict_grants_nothing_until_it_no_longer_may(
    kind: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path, *SMALL, HIDDEN_CONFIG) as server:
        async with at(server.url) as store:
            await store.open()
            ann, bob = new_session(), new_session()
            await acting.claim(store, PROJECT, ann, [Task("T-1")])
            _set_policy(server, "allkeys-lru")
            await store.tick()
            assert "allkeys-lru" in store.unsafe
            with pytest.raises(StoreDown, match="noeviction") as refused:
                await acting.claim(store, PROJECT, bob, [Task("T-2")])
            assert not refused.value.sent
            with pytest.raises(StoreDown, match="noeviction"):
                await store.health()
            assert isinstance(await acting.heartbeat(store, PROJECT, ann), results.Renewed)
            assert isinstance(await acting.release(store, PROJECT, ann, Task("T-1")), results.Ended)
            _set_policy(server, "noeviction")
            await store.tick()
            assert not store.unsafe
            assert isinstance(
                await acting.claim(store, PROJECT, bob, [Task("T-2")]), results.Granted
            )
            assert (await store.health()).status == "ready"


@anywhere
async def test_a_store_that_comes_back_evicting_grants_not_even_the_first_claim(
    kind: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path, *SMALL) as server:
        async with at(server.url) as store:
            await store.open()
            await acting.claim(store, PROJECT, new_session(), [Task("T-1")])
            with server.client() as operator:
                operator.config_set("maxmemory-policy", "allkeys-lru")
                operator.client_kill_filter(_type="normal", skipme=True)
            with pytest.raises(StoreDown, match="allkeys-lru"):
                await acting.claim(store, PROJECT, new_session(), [Task("T-2")])


@anywhere
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
async def test_what_is_held_is_not_granted_again_while_others_fill_the_store(
    kind: str, policy: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path, *SMALL, HIDDEN_CONFIG) as server:
        async with at(server.url) as store:
            await store.open()
            ann, bob = new_session(), new_session()
            tasks = [Task(f"T-{number}") for number in range(200)]
            for task in tasks:
                assert isinstance(await acting.claim(store, PROJECT, ann, [task]), results.Granted)
            _set_policy(server, policy)
            await store.tick()
            with server.client() as other, other.pipeline(transaction=False) as filling:
                for number in range(6_000):
                    filling.set(f"other:{number}", "x" * 900)
                filling.execute(raise_on_error=False)
                assert policy != "allkeys-lru" or other.info("stats")["evicted_keys"] > 0
            taken = 0
            for task in tasks:
                with contextlib.suppress(StoreDown):
                    taken += isinstance(
                        await acting.claim(store, PROJECT, bob, [task]), results.Granted
                    )
            assert taken == 0


def _set_policy(server: StoreServer, policy: str) -> None:
    with server.client() as operator:
        operator.execute_command("operators-config", "SET", "maxmemory-policy", policy)
