"""Bugs that the machine found, each by a short way. Every act is compared with the model."""

from collections.abc import Iterator

import pytest
from tests.proofs.rig import RULES, FrozenServer, Rig

from dibs import results

ANN, BOB, CAT = 0, 1, 2
TTL, GRACE, WINDOW, TICKET = RULES.ttl_ms, RULES.grace_ms, RULES.handover_ms, RULES.ticket_ms


@pytest.fixture
def rig(server: FrozenServer) -> Iterator[Rig]:
    rig = Rig(server)
    yield rig
    rig.close()


def test_a_full_store_does_not_stop_the_lease_clock(rig: Rig) -> None:
    rig.claim(ANN, "T")
    rig.fill(on=True)
    rig.pass_time(12_000)
    assert isinstance(rig.beat(ANN), results.Renewed)
    rig.pass_time(12_000)
    rig.sweep()
    assert isinstance(rig.release(ANN, "T"), results.Ended)


def test_a_service_starts_on_a_full_store_and_its_holders_renew_by_claiming(rig: Rig) -> None:
    rig.claim(ANN, "T")
    rig.fill(on=True)
    rig.restart_service()
    assert isinstance(rig.claim(ANN, "T"), results.Granted)
    assert isinstance(rig.claim(BOB, "U"), results.Full)


@pytest.mark.parametrize("swept", [False, True])
def test_releasing_all_ends_a_lapsed_claim_swept_or_not(rig: Rig, swept: bool) -> None:
    rig.claim(ANN, "T")
    rig.pass_time(TTL)
    if swept:
        rig.sweep()
    ended = rig.release(ANN)
    assert [release.task for release in ended.releases] == ["T"]
    assert isinstance(rig.claim(BOB, "T"), results.Granted)


def test_a_ticket_that_lapsed_is_no_place_to_come_back_to(rig: Rig) -> None:
    rig.claim(ANN, "T", ttl_s=60)
    rig.claim(BOB, "T", queue=True)
    rig.pass_time(TICKET)
    rig.claim(CAT, "T", queue=True)
    assert rig.claim(BOB, "T", queue=True).refusals[0].position == 2


def test_who_leaves_at_the_head_leaves_the_next_one_a_whole_window(rig: Rig) -> None:
    rig.claim(ANN, "T")
    rig.claim(BOB, "T", queue=True)
    rig.claim(CAT, "T", queue=True)
    rig.release(ANN, "T")
    rig.pass_time(WINDOW - 1)
    rig.claim(CAT, "T", queue=True)
    rig.release(BOB, "T")
    rig.pass_time(WINDOW - 1)
    assert rig.claim(ANN, "T").refusals[0].reason == "reserved"
    assert isinstance(rig.claim(CAT, "T"), results.Granted)


def test_a_window_whose_ticket_lapsed_in_it_ends_then_and_the_next_has_its_own(rig: Rig) -> None:
    rig.claim(ANN, "T", ttl_s=60)
    rig.claim(BOB, "T", queue=True)
    rig.pass_time(TICKET - 1_000)
    rig.claim(CAT, "T", queue=True)
    rig.release(ANN, "T")
    rig.pass_time(1_000)
    rig.pass_time(WINDOW - 1)
    assert rig.claim(ANN, "T").refusals[0].reason == "reserved"
    assert isinstance(rig.claim(CAT, "T"), results.Granted)


def test_who_waits_for_a_task_that_they_had_before_can_leave_its_queue(rig: Rig) -> None:
    rig.claim(ANN, "T")
    rig.claim(BOB, "T", queue=True)
    rig.release(ANN, "T")
    rig.claim(ANN, "T", queue=True)
    left = rig.release(ANN, "T")
    assert [release.already for release in left.releases] == [False]
    assert [release.already for release in rig.release(ANN, "T").releases] == [True]


def test_a_late_repeat_of_a_release_is_one_though_the_task_was_had_again(rig: Rig) -> None:
    first = rig.claim(ANN, "T").claims[0].fence
    rig.release(ANN, "T", first)
    rig.claim(ANN, "T")
    rig.release(ANN, "T")
    assert [release.already for release in rig.release(ANN, "T", first).releases] == [True]


def test_a_retry_hears_of_a_loss_again_though_the_task_lapsed_since(rig: Rig) -> None:
    first = rig.claim(ANN, "T").claims[0].fence
    rig.break_("T", first)
    told = rig.claim(ANN, "T", ttl_s=10, request="one")
    assert [loss.fence for loss in told.lost] == [first]
    rig.pass_time(11_000)
    again = rig.claim(ANN, "T", ttl_s=10, request="one")
    assert [loss.fence for loss in again.lost] == [first]


def test_a_longer_ttl_after_an_outage_gives_no_time_for_the_outage(rig: Rig) -> None:
    rig.claim(ANN, "T")
    rig.jump(60_000)
    assert rig.claim(ANN, "T", ttl_s=60).claims[0].expires_in == 55
    rig.show("T")


def test_a_queue_that_was_empty_for_a_while_is_counted_again(rig: Rig) -> None:
    rig.claim(ANN, "T", ttl_s=60)
    rig.claim(BOB, "T", queue=True)
    rig.pass_time(TICKET)
    rig.sweep()
    rig.claim(CAT, "T", queue=True)
    assert rig.run(rig.store.sweep(rig.project))


@pytest.mark.parametrize("begun_by", ["a list", "a hold", "a claim"])
def test_a_fence_from_before_its_project_is_forgotten_whatever_began_that(
    rig: Rig, begun_by: str
) -> None:
    if begun_by == "a list":
        rig.write(ANN, {"task": "T"})
    elif begun_by == "a hold":
        rig.hold("T", 20)
        rig.unhold("T")
    [claim] = rig.claim(ANN, "U").claims
    rig.pass_time(5)
    assert rig.release(BOB, "U", claim.fence - 1).why == "lost"


def test_a_verdict_on_what_is_done_leaves_the_time_it_was_held(rig: Rig) -> None:
    rig.claim(ANN, "T")
    rig.release(ANN, "T", outcome="done")
    rig.pass_time(1)
    rig.resolve("merged", task="T")
    rig.claim(ANN, "T", reopen=True)
