"""Strangers attack an open service while a team works on it, and the team notices nothing.

A short form of each attack runs with the other tests; `make abuse` runs each for 20 seconds.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.abuse.deployment import (
    BEAT_S,
    BEHIND_FLY,
    KEPT_S,
    MACHINE,
    OPEN,
    SECONDS,
    SESSIONS,
    Deployed,
    WorkingTeam,
)
from tests.harness.processes import until
from tests.harness.services import new_session

ATTACKS = {
    "filling": ("fat", "fat_in_one_project", "projects", "tombstones", "queues"),
    "reading": (
        *("home", "boards", "unread_boards", "searches", "refusals", "events", "board_streams"),
        *("waits", "totals"),
    ),
    "locking": ("quota", "finished", "rate", "one_session", "acts"),
    "connecting": ("trailers", "extensions", "heads", "pipelined", "idle", "slow", "busy"),
}
CASES = [f"{family}.{name}" for family, names in ATTACKS.items() for name in names]
ATTEMPTS = 3
"""A shared machine may stall for a second, so a late call counts only if each attempt has one: the
service's own delays do. A refused call of the team counts at once."""
HEALTH_S = 3.0
"""The timeout of the health checks in fly.toml and the Dockerfile."""


@pytest.fixture(scope="module")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Deployed]]:
    """Start an open service for each family of attacks, which then run on it one after another."""
    folder = tmp_path_factory.mktemp("abuse")
    with contextlib.ExitStack() as held:
        found = {}
        for family in ATTACKS:
            found[family] = held.enter_context(Deployed(folder / family, OPEN))
            found[family].is_worked_with()
        yield found


@pytest.mark.long
@pytest.mark.timeout(120 + 3 * 4 * SECONDS)
@pytest.mark.parametrize("attack", CASES)
def test_a_team_feels_nothing_of_an_attack(
    deployments: dict[str, Deployed], attack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed = deployments[attack.split(".")[0]]
    for attempt in range(ATTEMPTS):
        seen = deployed.suffers(attack, attempt=attempt)
        if "DIBS_ABUSE_SECONDS" in os.environ:
            with capsys.disabled():
                print(f"\n{seen}")
        assert sum(seen.told.values()) > 0, "the attack sent nothing"
        assert [answer for answer in seen.own if answer.refused] == []
        assert len(seen.own) >= SESSIONS * SECONDS / BEAT_S / 2
        assert seen.memory < MACHINE
        health = seen.of("readyz", "livez")
        assert health
        late = [one for one in seen.own if one.late]
        late += [one for one in health if one.refused or one.seconds > HEALTH_S]
        if not late:
            break
    assert late == []


@pytest.mark.long
@pytest.mark.timeout(120 + 4 * SECONDS)
@pytest.mark.parametrize("family", ATTACKS)
def test_what_strangers_wrote_goes_by_itself(deployments: dict[str, Deployed], family: str) -> None:
    deployed, within_s = deployments[family], 3 * KEPT_S + 60
    until(lambda: deployed.used() < 2 * deployed.before, "the store is small again", within_s)


@pytest.mark.long
def test_one_stranger_takes_no_team_its_room(tmp_path: Path) -> None:
    with Deployed(tmp_path, {"DIBS_OPEN": "yes", **BEHIND_FLY}) as deployed:
        told = deployed.attacked("locking.quota_of_one", SECONDS)
        assert 0 < told["201"] * 32 <= 500
        with WorkingTeam(deployed.service) as team:
            answer = team.ask("claim", {"task": "something new"}, new_session())
        assert answer.status == 201, answer


def at_rest(deployed: Deployed) -> dict[bytes, bytes] | None:
    """Return the store's contents if the service itself does not change them, else None."""
    before = deployed.written()
    time.sleep(2)  # two rounds of maintenance, each of a second
    return before if deployed.written() == before else None


def test_where_projects_are_named_strangers_write_nothing(tmp_path: Path) -> None:
    env = {"DIBS_OPEN": "yes", "DIBS_PROJECTS": "mine.*"}
    with Deployed(tmp_path, env) as deployed:
        assert deployed.service.claim("T-1", project="mine.web")[0] == 201
        before = until(lambda: at_rest(deployed), "the service's own writes are over")
        assert any(b"{mine.web}" in key for key in before)
        told = deployed.attacked(",".join(CASES), len(CASES) * 0.4)
        assert told["404"] > 500
        assert told["201"] == 0
        # The store's rate counters expire meanwhile.
        assert deployed.written().items() <= before.items()
