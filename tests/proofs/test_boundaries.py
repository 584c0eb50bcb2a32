"""Every act, a millisecond before, at and after each instant at which time alone changes something.

Random histories reach these cases by chance; here each runs every time. The rig compares every
answer, record and event with the model.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.proofs.rig import RULES, FrozenServer, Rig

ANN, BOB, CAT = 0, 1, 2


@pytest.fixture
def rig(server: FrozenServer) -> Iterator[Rig]:
    rig = Rig(server)
    yield rig
    rig.close()


def held(rig: Rig) -> None:
    """Ann holds the task."""
    rig.claim(ANN, "T")


def held_long(rig: Rig) -> None:
    """Ann holds it, renewed until max_hold."""
    rig.claim(ANN, "T")
    for _ in range(RULES.max_hold_ms // RULES.ttl_ms):
        rig.pass_time(RULES.ttl_ms - 1_000)
        rig.beat(ANN)


def waited_for(rig: Rig) -> None:
    """Ann holds it for longer than Bob's ticket lasts."""
    rig.claim(ANN, "T", ttl_s=60)
    rig.claim(BOB, "T", queue=True)


def handed_over(rig: Rig) -> None:
    """Ann released it, and Bob's hand-over window is open."""
    waited_for(rig)
    rig.release(ANN, "T")


def lapsed(rig: Rig) -> None:
    """Ann's claim lapsed, and nobody claimed it since."""
    rig.claim(ANN, "T")
    rig.pass_until("T", "due", 0)
    rig.sweep()


def released(rig: Rig) -> None:
    """Ann released it."""
    rig.claim(ANN, "T")
    rig.release(ANN, "T")


def done(rig: Rig) -> None:
    """Ann finished it."""
    rig.claim(ANN, "T")
    rig.release(ANN, "T", outcome="done")


def broken(rig: Rig) -> None:
    """Ann's claim was broken."""
    rig.claim(ANN, "T")
    rig.break_("T", rig.model.fence)


def taken(rig: Rig) -> None:
    """Ann lost it to Cat, who released it."""
    lapsed(rig)
    rig.pass_time(RULES.grace_ms)
    rig.claim(CAT, "T")
    rig.release(CAT, "T")


def had_since(rig: Rig) -> None:
    """Ann released it, and two others have held it since."""
    released(rig)
    for who in (BOB, CAT):
        rig.pass_time(1_000)
        rig.claim(who, "T")
        rig.release(who, "T")


def broken_and_had_since(rig: Rig) -> None:
    """Ann's claim was broken, and two others have held it since."""
    broken(rig)
    for who in (BOB, CAT):
        rig.pass_time(1_000)
        rig.claim(who, "T")
        rig.release(who, "T")


def gone(rig: Rig) -> None:
    """Nothing is left of the project."""
    broken(rig)
    rig.pass_time(RULES.history_ms)
    for _ in range(2):
        rig.sweep()
    assert not rig.model.epoch, rig.audit.left()
    rig.claim(BOB, "T")


def first(rig: Rig) -> int:
    """Return the fence of the first tenure that a release or a break ended."""
    return min((fence for fence, _, _ in rig.model.endings), default=older(rig))


def older(rig: Rig) -> int:
    """Return a fence that an earlier tenure may have had."""
    return rig.model.fence - 1


SITUATIONS = {
    "due": (held, "due"),
    "grace": (held, "grace"),
    "stale": (held, "stale"),
    "max_hold": (held_long, "max_hold"),
    "ticket": (waited_for, "ticket"),
    "window": (handed_over, "window"),
    "a lapse that nobody noticed is over": (held, "over"),
    "a lapse is over": (lapsed, "over"),
    "a release is over": (released, "over"),
    "done is over": (done, "over"),
    "a break is over": (broken, "over"),
    "a repeat is too late": (had_since, "ending"),
    "a repeated break is too late": (broken_and_had_since, "ending"),
    "a loss by lapse is over": (taken, "loss"),
    "a loss by break is over": (broken, "loss"),
    "it was gone as a whole": (gone, "due"),
}
ACTS: dict[str, Callable[[Rig], Any]] = {
    "nobody acts": lambda rig: None,
    "it is swept": lambda rig: rig.sweep(),
    "the holder beats": lambda rig: rig.beat(ANN, "T"),
    "the holder beats for all": lambda rig: rig.beat(ANN),
    "the holder parks": lambda rig: rig.beat(ANN, "T", state="parked"),
    "the holder claims": lambda rig: rig.claim(ANN, "T"),
    "the holder releases": lambda rig: rig.release(ANN, "T"),
    "the holder beats with an older fence": lambda rig: rig.beat(ANN, "T", older(rig)),
    "the holder releases with an older fence": lambda rig: rig.release(ANN, "T", older(rig)),
    "the first in the queue claims": lambda rig: rig.claim(BOB, "T"),
    "the first in the queue asks on": lambda rig: rig.claim(BOB, "T", queue=True),
    "another claims": lambda rig: rig.claim(CAT, "T"),
    "another queues": lambda rig: rig.claim(CAT, "T", queue=True),
    "another claims it or more": lambda rig: rig.claim(CAT, "T", "U", mode="any"),
    "another claims it and more": lambda rig: rig.claim(CAT, "T", "U", mode="all"),
    "the first holder releases again": lambda rig: rig.release(ANN, "T", first(rig)),
    "the first holder beats on": lambda rig: rig.beat(ANN, "T", first(rig)),
    "another releases the first one": lambda rig: rig.release(BOB, "T", first(rig)),
    "the first one is broken": lambda rig: rig.break_("T", first(rig)),
    "an older one is broken": lambda rig: rig.break_("T", older(rig)),
    "it is broken": lambda rig: rig.break_("T", rig.model.fence),
}


@pytest.mark.parametrize("off_ms", [-1, 0, 1])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_act_is_right_to_the_millisecond(
    rig: Rig, situation: str, act: str, off_ms: int
) -> None:
    begin, instant = SITUATIONS[situation]
    begin(rig)
    rig.pass_until("T", instant, off_ms)
    ACTS[act](rig)
    rig.show("T")
    # A loser is told once, and again in a retry of the same request.
    for request in ("one", "one", "two"):
        rig.beat(ANN, "T", request=request)
    rig.show("T", BOB)
