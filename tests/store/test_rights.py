"""A store's user with few rights: the documented ones are enough, and missing ones are named."""

import asyncio
import contextlib
import re
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

ROOT = Path(__file__).parents[2]
FREE = Rules(rate_per_session=0, rate_per_project=0)
PROJECT = Project("rig.hts")
PASSWORD = "a-password-of-this-test"
anywhere = pytest.mark.parametrize("kind", KINDS)


def documented() -> str:
    """Return the rights that docs/deploy.md says are enough, in the form of ACL SETUSER."""
    page = (ROOT / "docs/deploy.md").read_text()
    found = re.search(r"ACL SETUSER dibs on '>PASSWORD' ((?:.|\\\n)+?)\n```", page)
    assert found, "docs/deploy.md has no such line"
    return " ".join(found[1].replace("\\\n", " ").split()).replace("'", "")


def config(rights: str) -> str:
    """Return the configuration line of a user with these rights."""
    return f"user dibs on >{PASSWORD} {rights}"


@contextlib.asynccontextmanager
async def as_user(server: StoreServer) -> AsyncIterator[Store]:
    """Yield the store, not opened, as that user."""
    store = Store(PipelineLink.to(server.url_of("dibs", PASSWORD)), FREE)
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def as_default(server: StoreServer) -> AsyncIterator[Store]:
    """Yield the store, not opened, as the default user."""
    store = Store(PipelineLink.to(server.url), FREE)
    try:
        yield store
    finally:
        await store.close()


COMMANDS = [word[1:] for word in documented().split() if word.startswith("+")]
NOT_NEEDED = ("info", "config|get")
"""Commands that dibs can do without, with a notice."""
ELSEWHERE = (
    *("select", "wait", "ping", "role", "scan", "unlink"),
    *("cluster|slots", "cluster|nodes", "cluster|info"),
    *("fcall", "function|load", "function|list", "function|delete"),
)
"""Commands for some kinds of store only, or for commands of the operator only."""


def test_the_documented_rights_are_what_the_code_asks_for(tmp_path: Path) -> None:
    with serving("valkey", tmp_path) as server, server.client() as operator:
        known = {name.lower() for name in operator.command()}
    asked: set[str] = set()
    for file in (ROOT / "service/dibs/store").rglob("*.lua"):
        quoted = {word.lower() for word in re.findall(r"'([A-Z]{3,})'", file.read_text())}
        asked |= quoted & known
    words = re.compile(r"(?:command|ask|replicated)\(\s*\"([A-Z]+)\"(?:, \"([A-Z]{3,})\")?")
    for file in (ROOT / "service/dibs").rglob("*.py"):
        for found in words.finditer(file.read_text()):
            asked.add("|".join(word.lower() for word in found.groups() if word))
    asked = {command for command in asked if not command.startswith("xread|")} | {"xread"}
    asked -= {"sentinel|master", "sentinel", *ELSEWHERE}
    assert asked == set(COMMANDS)
    page = (ROOT / "docs/deploy.md").read_text().replace("\\|", "|")
    for command in ELSEWHERE:
        assert f"+{command}" in page


@anywhere
@pytest.mark.parametrize("command", [each for each in COMMANDS if each not in NOT_NEEDED])
async def test_a_right_that_is_missing_is_named_at_start_in_one_line(
    kind: str, command: str, tmp_path: Path
) -> None:
    words = documented().split()
    words.remove(f"+{command}")
    with serving(kind, tmp_path, config(" ".join(words))) as server:
        async with as_user(server) as store:
            with pytest.raises((UnsupportedStore, StoreDown)) as refused:
                await store.open()
            line = str(refused.value)
            assert re.search(rf"\b{command.replace('|', ' ').upper()}\b", line), line
            assert "no right" in line
            assert "\n" not in line


@anywhere
async def test_all_that_is_missing_is_named_together(kind: str, tmp_path: Path) -> None:
    words = [word for word in documented().split() if word not in ("+time", "+pfadd", "+xread")]
    with serving(kind, tmp_path, config(" ".join(words))) as server:
        async with as_user(server) as store:
            with pytest.raises(UnsupportedStore, match="no right to TIME, PFADD, XREAD: docs"):
                await store.open()


@anywhere
async def test_nothing_is_left_in_the_store_of_what_it_was_asked_at_start(
    kind: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path, config(documented())) as server, server.client() as operator:
        async with as_user(server) as store:
            await store.open()
            assert sorted(operator.keys()) == ["dibs:clock", "dibs:format", "dibs:secret"]


@anywhere
async def test_services_that_start_together_do_not_disturb_one_another(
    kind: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path) as server:
        stores = [Store(PipelineLink.to(server.url), FREE) for _ in range(12)]
        try:
            await asyncio.gather(*(store.open() for store in stores))
        finally:
            for store in stores:
                await store.close()


@anywhere
async def test_a_full_store_lacks_nothing(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as server, server.client() as operator:
        async with as_default(server) as first:
            await first.open()
        operator.config_set("maxmemory", 1)
        async with as_default(server) as second:
            await second.open()


@anywhere
@pytest.mark.parametrize(
    ("rights", "told"),
    [
        ("-config", "CONFIG GET appendfsync"),
        ("-info", "INFO"),
        ("-config -info", "set maxmemory-policy to noeviction"),
        ("-@dangerous", "set maxmemory-policy to noeviction"),
    ],
)
async def test_a_user_who_may_not_see_the_configuration_can_start_and_is_told_what_is_not_known(
    kind: str, rights: str, told: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path, config(f"~dibs:* &* +@all {rights}")) as server:
        async with as_user(server) as store:
            await store.open()
            health = await store.health()
            assert health.status == "ready"
            assert health.server != "in memory"
            assert any(told in reason for reason in health.reasons), health.reasons
            unnoticed = any("does not notice a restart" in reason for reason in health.reasons)
            assert unnoticed == ("-info" in rights or "-@dangerous" in rights)
            granted = await acting.claim(store, PROJECT, new_session(), [Task("T-1")])
            assert isinstance(granted, results.Granted)


@anywhere
async def test_keys_that_are_out_of_reach_are_named(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path, config("~others:* &* +@all")) as server:
        async with as_user(server) as store:
            with pytest.raises((UnsupportedStore, StoreDown), match="keys that begin with dibs:"):
                await store.open()


@anywhere
async def test_a_right_that_is_taken_while_dibs_runs_is_named_and_given_back_it_goes_on(
    kind: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path, config("~dibs:* &* +@all")) as server:
        async with as_user(server) as store:
            await store.open()
            await acting.claim(store, PROJECT, new_session(), [Task("T-0")])
            with server.client() as operator:
                operator.execute_command("ACL", "SETUSER", "dibs", "-zadd")
                with pytest.raises(StoreDown, match="no right") as refused:
                    await acting.claim(store, PROJECT, new_session(), [Task("T-1")])
                assert refused.value.sent, "the script had begun"
                operator.execute_command("ACL", "SETUSER", "dibs", "-@all", "+ping")
                with pytest.raises(StoreDown, match="no right"):
                    await store.health()
                operator.execute_command("ACL", "SETUSER", "dibs", "+@all")
            assert (await store.health()).status == "ready"
            granted = await acting.claim(store, PROJECT, new_session(), [Task("T-2")])
            assert isinstance(granted, results.Granted)
