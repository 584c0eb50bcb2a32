"""Detection of guessable sessions: UUIDs that are examples or follow a pattern."""

import re

_HEX = 16
_RANDOM = 30
"""Hex digits of a UUID that may be random: all but the version and variant digits."""
_ONES = int("1" * _RANDOM, _HEX)
_RUN = re.compile(r"(.)\1{7}")
_DIGITS_LEAST, _STEPS_MOST = 6, 12


class _Alike:
    """A counter of equal digits at several distances, computed in one long integer.

    The integer holds a copy of the digits for each distance, with padding between the copies. A
    multiplication by a number that has a 1 at the offset of each copy makes the copies.
    """

    def __init__(self, *apart: int) -> None:
        rooms = [(1 << 4 * (_RANDOM + max(apart)) * turn, each) for turn, each in enumerate(apart)]
        self._earlier = sum(room for room, _ in rooms)
        self._later = sum(room << 4 * each for room, each in rooms)
        self._compared = sum((_ONES >> 4 * each << 4 * each) * room for room, each in rooms)
        self._most = self._compared.bit_count()

    def count(self, later: int, earlier: int) -> int:
        """Return, summed over all distances, how many digits of `later` equal the digit of
        `earlier` that many places before."""
        differ = later * self._later ^ earlier * self._earlier
        differ |= differ >> 2
        differ |= differ >> 1
        return self._most - (differ & self._compared).bit_count()


_REPEATS, _EACH_REPEAT = _Alike(1, 2, 4, 8), [_Alike(1), _Alike(2), _Alike(4), _Alike(8)]
_STEPS, _EACH_STEP = _Alike(1, 2), [_Alike(1), _Alike(2)]
# UUIDs from RFC 9562 and 4122, and from the documentation of PostgreSQL, Python, npm's uuid and
# OpenAPI, without the version and variant digits: people and language models copy an example and
# correct these two.
_EXAMPLES = frozenset(
    """
    c232ab00-9414-1ec-3c8-9f6bdeced846
    5df41881-3aed-515-8a7-2f4a814cf09e
    919108f7-52d1-320-bac-f847db4148a8
    1ec9414c-232a-b00-3c8-9f6bdeced846
    017f22e2-79b0-cc3-8c4-dc0c0c07398f
    2489e9ad-2ee2-e00-ec9-32d5f69181c0
    5c146b14-3c52-afd-38a-375d0df1fbf6
    f81d4fae-7dec-1d0-765-00a0c91e6bf6
    6ba7b810-9dad-1d1-0b4-00c04fd430c8
    123e4567-e89b-2d3-456-426614174000
    550e8400-e29b-1d4-716-446655440000
    f47ac10b-58cc-372-567-0e02b2c3d479
    de305d54-75b4-31b-db2-eb6b9e546014
    a0eebc99-9c0b-ef8-b6d-6bb9bd380a11
    40e6215d-b5c6-896-87c-f30f3678f608
    6ecd8c99-4036-03d-f84-cf8400f67836
    3f333df6-90a4-fda-dd3-9485d27cee36
    a8098c1a-f86e-1da-d1a-00112444be1e
    6fa459ea-ee8a-ca4-94e-db77e160355e
    16fd2706-8baf-33b-2eb-8c7fada847da
    886313e1-3b8a-372-b90-0c9aee199e5d
    9b1deb4d-3b7d-bad-bdd-2b0d7b3dcb6d
    1b9d6bcd-bbfd-b2d-b5d-ab8dfbbd4bed
    10ba038e-48da-87b-6e8-8d3b99b6d18a
    109156be-c4fb-1ea-1b4-efe1671c5836
    7c9e6679-7425-0de-44b-e07fc1f90ae7
    3fa85f64-5717-562-3fc-2c963f66afa6
    """.replace("-", "").split()
)


def is_guessable(uuid: str) -> bool:
    """Return whether a UUID (lower case, with hyphens) is a known example or follows a pattern.

    Fewer than one in 10^6 random UUIDs is taken for a pattern. This runs on the request path, so
    two checks that combine several patterns come first; they clear 19 of 20 random UUIDs.
    """
    digits = uuid[:8] + uuid[9:13] + uuid[15:18] + uuid[20:23] + uuid[24:]
    if digits in _EXAMPLES or "deadbeef" in digits or "cafebabe" in digits:
        return True
    if len(set(digits)) <= _DIGITS_LEAST:
        return True
    number = int(digits, _HEX)
    following = ((number & 7 * _ONES) + _ONES) ^ (number & 8 * _ONES)  # each digit + 1, mod 16
    repeats = _REPEATS.count(number, number)
    if repeats <= _STEPS_MOST and (
        _STEPS.count(number, following) + _STEPS.count(following, number) <= _STEPS_MOST
    ):
        return False
    return (
        any(one.count(number, number) > _STEPS_MOST for one in _EACH_REPEAT)
        or any(one.count(number, following) > _STEPS_MOST for one in _EACH_STEP)
        or any(one.count(following, number) > _STEPS_MOST for one in _EACH_STEP)
        or _RUN.search(digits) is not None
    )
