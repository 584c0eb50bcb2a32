"""What no schema can say, for schemathesis: cases that break only such rules are left out."""

import unicodedata
from typing import Any
from urllib.parse import urlsplit

import schemathesis

from dibs import words

FORM = "application/x-www-form-urlencoded"
MOST_WAIT_S, LEAST_TTL_S, MOST_TTL_S = 25, 10, 86_400
"""Settings, so no part of the interface: the least and most that the service under test grants."""


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Say if the schema says all about this case."""
    body = case.body if isinstance(case.body, dict) else {}
    query = case.query or {}
    return (
        all(map(normal, names(body, case.path_parameters or {})))
        and all(map(readable, [*body.values(), *names(body, case.path_parameters or {})]))
        and within(body.get("ttl"), LEAST_TTL_S, MOST_TTL_S)
        and within(body.get("wait"), 0, MOST_WAIT_S)
        and not query.get("cursor")  # only the service knows its cursors
        and not (case.media_type == FORM and None in body.values())  # a form cannot say null
    )


def names(body: dict[str, Any], path: dict[str, Any]) -> list[object]:
    """Every task that a case names."""
    several = [body.get("any_of"), body.get("all_of")]
    lists = [each if isinstance(each, list) else [each] for each in several]
    return [body.get("task"), path.get("task"), *lists[0], *lists[1]]


def normal(name: object) -> bool:
    return not isinstance(name, str) or unicodedata.is_normalized("NFC", name)


def readable(value: object) -> bool:
    """Say if schemathesis can go on: it parses each URL that an answer holds, and ends with an
    error of its own at one like https://[ that Python cannot."""
    try:
        return not isinstance(value, str) or bool(urlsplit(value))
    except ValueError:
        return False


def within(value: object, least: int, most: int) -> bool:
    try:
        return least <= words.duration_s(value) <= most
    except words.Refused:
        return True  # wrong in a way that the schema does say
