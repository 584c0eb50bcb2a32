"""A parked claim waits for a person and lasts longer; one call makes it a working claim again."""

from tests.conftest import Desk


async def test_a_parked_claim_is_held_for_hours(desk: Desk) -> None:
    held = await desk.granted(desk.ann, "T-1", ttl_s=60)
    outcome = await desk.beat(desk.ann, "T-1", held.fence, state="parked", note="which colour?")
    [parked] = outcome.claims
    assert (parked.state, parked.fence, parked.expires_in) == ("parked", held.fence, 4 * 3600)
    assert parked.note == "which colour?"
    await desk.pass_time(600)
    assert (await desk.refused(desk.bob, "T-1")).claim.state == "parked"
    assert not (await desk.show("T-1")).stale


async def test_any_call_by_the_holder_makes_it_held_again_without_shortening_it(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.beat(desk.ann, "T-1", state="parked")
    [claim] = (await desk.beat(desk.ann)).claims
    assert (claim.state, claim.ttl) == ("held", 60)
    assert claim.expires_in == 4 * 3600
    assert await desk.events() == ["claimed T-1", "parked T-1", "resumed T-1"]


async def test_an_explicit_working_sets_the_deadline_to_one_ttl(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.beat(desk.ann, "T-1", state="parked")
    [claim] = (await desk.beat(desk.ann, state="working")).claims
    assert (claim.state, claim.expires_in) == ("held", 60)


async def test_parking_twice_tells_once(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1")
    await desk.beat(desk.ann, state="parked")
    await desk.beat(desk.ann, state="parked")
    assert await desk.events() == ["claimed T-1", "parked T-1"]


async def test_a_parked_claim_lapses_like_any_other(desk: Desk) -> None:
    await desk.granted(desk.ann, "T-1", ttl_s=60)
    await desk.beat(desk.ann, "T-1", state="parked", ttl_s=600)
    await desk.pass_time(631)
    await desk.granted(desk.bob, "T-1")
