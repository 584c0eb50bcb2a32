"""Error sentences: who holds a task or held it last, until when, and what to do."""

from datetime import UTC, datetime
from typing import Any

import pytest

from dibs import decision_messages, messages, results
from dibs.model import Claim, Fence, Holder, Project, State, Task

AT = datetime(2026, 11, 30, 14, 19, 48, tzinfo=UTC)


def claim(state: State, **fields: Any) -> Claim:
    """Return a claim that ann holds or held last."""
    known: dict[str, Any] = dict.fromkeys(("note", "pr", "ended_at", "flag", "previous"))
    known |= {"project": Project("p"), "task": Task("T-12"), "fence": Fence(41), "state": state}
    known |= {"holder": Holder("9c1e5f03ab", "ann"), "mine": False, "ttl": 1800, "expires_in": 0}
    known |= dict.fromkeys(("expires_at", "acquired_at", "heartbeat_at"), AT)
    known |= {"stale": False, "waiters": 0, "queue": (), "grants": 1, "lapses": 0, "attempt": 1}
    return Claim(**(known | fields))


def test_a_claim_that_lapsed_is_not_told_as_held_to_a_session() -> None:
    said = messages.not_mine(results.NotMine("not-holder", claim("lapsed"), None), "T-12", 7)
    assert "lapsed at 14:19:48Z" in said or "lapsed at 2026-11-30" in said
    assert "Claim it before you work on it" in said
    assert " does, until" not in said


@pytest.mark.parametrize("say", [decision_messages.moved, decision_messages.newer])
def test_a_claim_that_lapsed_is_not_told_as_held_to_a_person(say: Any) -> None:
    lapsed, held = say(claim("lapsed"), 7), say(claim("held"), 7)
    assert "Its claim lapsed; ann (ref 9c1e5f03ab) had it last" in lapsed
    assert "has it" not in lapsed
    assert "ann (ref 9c1e5f03ab) has it" in held
    for said in (lapsed, held):
        assert "with fence 41" in said
        assert "Nothing was changed" in said


@pytest.mark.parametrize(("waiters", "place"), [(0, "be next"), (3, "be number 4 in its queue")])
def test_a_place_in_a_queue_is_told_as_it_would_be(waiters: int, place: str) -> None:
    said = messages.refused(
        results.Refusal("held", claim("held", waiters=waiters), retry_after_s=60, position=None)
    )
    assert said.endswith(f"or claim this one with queue: true to {place}.")


def test_nothing_ready_says_whose_claims_it_counts() -> None:
    counts: dict[str, Any] = dict.fromkeys(
        ("held", "parked", "review", "blocked", "on_hold", "failed"), 0
    )
    none = results.NothingReady(**counts, cooling=0, retry_after_s=None)
    some = results.NothingReady(**(counts | {"held": 2}), cooling=0, retry_after_s=None)
    assert messages.nothing_ready(none) == (
        "No listed task is ready. Stop here or ask again later. If you were given a task, claim "
        "it by its name."
    )
    assert "In this project: 2 held." in messages.nothing_ready(some)
