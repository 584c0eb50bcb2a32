"""Types of the values of settings: durations, sizes, keys, projects, networks."""

import ipaddress
import re
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, PlainSerializer, SecretStr
from pydantic_settings import NoDecode

from dibs.model import duration_s

KEY_CHARS = 20
KEY_VARIETY = 8
"""Distinct characters in a key at least: a key with fewer is typed or repeated, so guessable."""

Duration = Annotated[
    int,
    BeforeValidator(lambda value: duration_s(value)),
    PlainSerializer(lambda s: duration_text(s)),
]
"""Whole seconds, or text like 90s, 30m, 2h."""


_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)(k|m|g|)b?")
_UNIT = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def size_bytes(value: object) -> int:
    """Return whole bytes for 104857600, "100mb" or "1.5g". Raises ValueError."""
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip().lower())):
        return int(float(found[1]) * _UNIT[found[2]])
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("A size is whole bytes or text like 512kb, 100mb, 2gb.")


Size = Annotated[int, BeforeValidator(size_bytes), PlainSerializer(lambda n: size(n))]
"""Whole bytes, or text like 512kb, 100mb, 2gb."""


def _share(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[1-9]\d?%", value.strip()):
        return value.strip()
    try:
        return str(size_bytes(value))
    except ValueError:
        raise ValueError("Use 1% to 99%, or a size like 512mb, 2gb; 0 means no limit.") from None


Share = Annotated[str, BeforeValidator(_share)]
"""A share, like 40%, or bytes as digits."""


def _keys(value: object) -> object:
    if not isinstance(value, str):
        return value
    keys = tuple(SecretStr(key.strip()) for key in value.split(",") if key.strip())
    if not keys:
        raise ValueError("is set but has no key: give it one, or unset it")
    return keys


def _projects(value: object) -> object:
    if not isinstance(value, str):
        return value
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise ValueError("is set but names no project: give it names, or unset it")
    for name in names:
        if not _PROJECTS.fullmatch(name):
            raise ValueError(
                f"{name[:100]!r} is not a project: exact names like acme.web, or acme.* for all "
                "that begin with acme."
            )
    return names


_PROJECTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}|[A-Za-z0-9][A-Za-z0-9._-]{0,97}\.\*")


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    texts = [text.strip() for text in value.split(",") if text.strip()]
    if not texts:
        raise ValueError("is set but names no network: give it one, or unset it")
    networks = []
    for text in texts:
        try:
            networks.append(str(ipaddress.ip_network(text)))
        except ValueError:
            raise ValueError(
                f"{text[:100]!r} is not an address or a network like 10.0.0.0/8 or fd00::/8"
            ) from None
    return tuple(networks)


Networks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_networks)]
Keys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_keys)]
Projects = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_projects)]


def duration_text(seconds: int) -> str:
    """Return a duration as people write it: 30m, 2h, 90s."""
    for unit, letter in ((3600, "h"), (60, "m")):
        if seconds and seconds % unit == 0:
            return f"{seconds // unit}{letter}"
    return f"{seconds}s"


def size(count: int) -> str:
    """Return bytes as people write them: 100mb, 512kb."""
    for unit, letter in ((1 << 30, "gb"), (1 << 20, "mb"), (1 << 10, "kb")):
        if count and count % unit == 0:
            return f"{count // unit}{letter}"
    return str(count)


def is_public_url(url: str) -> bool:
    """Return whether a URL can be shown to people and sessions: with a host, and without login or
    query."""
    try:
        place = urlsplit(url)
        place.port  # noqa: B018 - raises if it is not a port
    except ValueError:
        return False
    return bool(place.hostname and re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url))


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, 6.3


def key_faults(name: str, keys: Sequence[SecretStr]) -> list[str]:
    """Return the faults of a setting's keys, one sentence each."""
    found = []
    for key in map(SecretStr.get_secret_value, keys):
        if len(key) < KEY_CHARS:
            found.append(f"every key in {name} needs {KEY_CHARS} characters or more")
        elif not (key.isascii() and key.isprintable()):
            found.append(f"a key in {name} has characters beyond ASCII")
        elif len(set(key)) < KEY_VARIETY:
            found.append(
                f"a key in {name} is too easy to guess: make one with python3 -c "
                "'import secrets; print(secrets.token_urlsafe(32))'"
            )
    return found
