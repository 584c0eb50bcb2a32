"""Shared by the acts of people with an admin key: fields, and the problem of a moved fence."""

import re
from datetime import datetime
from typing import Annotated

from pydantic import BeforeValidator, Field

from dibs import decision_messages, model, responses, results
from dibs.problems import ProblemError
from dibs.requests import LINES, as_schema, limited_text

NOBODY = "an admin"
"""The name of a person who gives none."""

Reason = Annotated[
    str,
    limited_text("A reason", model.NOTE_CHARS, model.prose),
    Field(min_length=1),
    as_schema(type="string", minLength=1, maxLength=model.NOTE_CHARS, pattern=LINES),
]

_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)")
_SAID = "until must be a duration like 90s, 30m, 2h, or a time like 2026-12-24T18:00:00Z."


class Until:
    """The end of a hold: `for_ms` from now, or `at_ms` since 1970."""

    def __init__(self, for_ms: int | None = None, at_ms: int | None = None) -> None:
        self.for_ms, self.at_ms = for_ms, at_ms


def _until(value: object) -> Until:
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        try:
            return Until(at_ms=int(datetime.fromisoformat(value.upper()).timestamp() * 1000))
        except (ValueError, OverflowError):
            raise model.Refused(_SAID) from None
    try:
        span_s = model.duration_s(value, "until")
    except model.Refused:
        raise model.Refused(_SAID) from None
    if span_s > 999_999_999:
        raise model.Refused("until is at most 31 years away; leave it out to set no end.")
    if span_s < 1:
        raise model.Refused("until must be at least 1 s in the future.")
    return Until(for_ms=span_s * 1000)


UntilField = Annotated[
    Until,
    BeforeValidator(_until),
    as_schema(
        anyOf=[
            {"type": "integer", "minimum": 1, "maximum": 999_999_999},
            {"type": "string", "pattern": f"^([1-9][0-9]{{0,4}}[smh]?|{_INSTANT.pattern})$"},
        ]
    ),
]


def moved(result: results.Moved, fence: model.Fence | None) -> ProblemError:
    """Return the problem of an act whose fence is not the current one."""
    detail = decision_messages.moved(result.now, fence or model.Fence(0))
    claim = responses.builtin(result.now)
    return responses.problem("fence-moved", detail, result, claim=claim)
