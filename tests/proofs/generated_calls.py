"""Rules that no schema can express, for schemathesis: a generated case that breaks only such
rules is corrected, if most cases would break them, or skipped."""

import re
import unicodedata
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import schemathesis

from dibs import characters, model

SAID = re.compile(f"[{characters.CONTROL}{characters.FORMAT}{characters.EMPTY}{characters.BLANKS}]")
"""The characters that the description's patterns refuse."""
FORM = "application/x-www-form-urlencoded"
MOST_WAIT_S, LEAST_TTL_S, MOST_TTL_S = 25, 10, 86_400
"""Limits that the settings of the service under test give; the description does not have them."""


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    body = in_known_characters(body)
    # Nobody releases the task that a generated call waits for: without this bound a run would
    # spend most of its time there.
    return {**body, "wait": 1} if isinstance(body, dict) and waits(body.get("wait")) else body


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    return in_known_characters(query)


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    return in_known_characters(path_parameters)


def in_known_characters(value: Any, field: str = "") -> Any:
    """Replace each character that Unicode does not assign with an ideograph, in all fields of a
    request (three random characters of four are unassigned), and in a label every character that
    is neither ASCII nor a letter nor a mark.
    """
    if isinstance(value, dict):
        return {key: in_known_characters(each, str(key)) for key, each in value.items()}
    if isinstance(value, list):
        return [in_known_characters(each) for each in value]
    if not isinstance(value, str) or value.isascii():
        return value
    known = "LM" if field in ("label", "holder") else "LMNPSZ"
    return "".join(
        chr(0x4E00 + ord(char) % 0x5000) if is_odd(char, known) else char for char in value
    )


def is_odd(char: str, known: str) -> bool:
    """Return whether the category of a character is not allowed, though no pattern refuses it."""
    return (
        not SAID.match(char) and not char.isascii() and unicodedata.category(char)[0] not in known
    )


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Return whether the schema alone decides if the case is valid."""
    body = case.body if isinstance(case.body, dict) else {}
    query = case.query or {}
    tasks = names(body, case.path_parameters or {})
    lines = [*map(query.get, ("q", "holder", "tag", "branch", "pr"))]
    lines += map(body.get, ("label", "branch", "url", "pr", "tag"))
    entries = listed(body.get("tasks"))
    for entry in entries:
        if isinstance(entry, dict):
            tasks += [entry.get("task"), *listed(entry.get("needs"))]
            lines += [*map(entry.get, ("title", "url", "source")), *listed(entry.get("tags"))]
    return (
        all(map(normal, tasks))
        and all(map(written, tasks + lines))
        and all(map(readable, [*body.values(), *tasks, query.get("pr")]))
        and seen(body.get("reason"))
        and within(body.get("ttl"), LEAST_TTL_S, MOST_TTL_S)
        and within(body.get("wait"), 0, MOST_WAIT_S)
        and ahead(body.get("until"))
        and alone(entries)
        and not query.get("cursor")  # only the service can make cursors
        and not (case.media_type == FORM and None in body.values())  # a form cannot express null
    )


def names(body: dict[str, Any], path: dict[str, Any]) -> list[object]:
    """Return every task that a case names."""
    several = [body.get("any_of"), body.get("all_of")]
    lists = [each if isinstance(each, list) else [each] for each in several]
    return [body.get("task"), path.get("task"), *lists[0], *lists[1]]


def listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def alone(entries: list[object]) -> bool:
    """Return whether no task is listed twice, none needs a task of the same list, and no tag
    begins or ends with a blank: no schema can say that two tasks must not need each other."""
    named = [str(entry.get("task")) for entry in entries if isinstance(entry, dict)]
    needed = [need for e in entries if isinstance(e, dict) for need in listed(e.get("needs"))]
    blank = any(
        isinstance(t, str) and t != t.strip()
        for e in entries
        if isinstance(e, dict)
        for t in listed(e.get("tags"))
    )
    return len(set(named)) == len(named) and not set(named) & set(map(str, needed)) and not blank


def normal(name: object) -> bool:
    return not isinstance(name, str) or unicodedata.is_normalized("NFC", name)


def written(line: object) -> bool:
    """Return whether Unicode assigns all characters and no letter has too many marks; also True
    for a line that the schema itself refuses."""
    if not isinstance(line, str):
        return True
    line = unquote(line)  # a task in a path is percent-encoded
    return bool(SAID.search(line)) or not characters.fault_of_name(line)


def seen(reason: object) -> bool:
    """Return whether a reason is empty or has a visible character."""
    return not reason or bool(characters.shown(str(reason)))


def readable(value: object) -> bool:
    """Return whether schemathesis can go on: it parses every URL in an answer, and fails at one
    that Python cannot parse, such as https://[."""
    try:
        return not isinstance(value, str) or bool(urlsplit(value))
    except ValueError:
        return False


def ahead(until: object) -> bool:
    """Return whether a time is in the future; True for a span or if the schema refuses it."""
    try:
        return not re.match(r"\d{4}-", str(until)) or datetime.fromisoformat(
            str(until).upper()
        ) > datetime.now(UTC)
    except (ValueError, TypeError):
        return False


def waits(value: object) -> bool:
    """Return whether a `wait` is valid and longer than a second."""
    try:
        return 1 < model.duration_s(value) <= MOST_WAIT_S
    except model.Refused:
        return False


def within(value: object, least: int, most: int) -> bool:
    try:
        return least <= model.duration_s(value) <= most
    except model.Refused:
        return True  # the schema itself refuses it
