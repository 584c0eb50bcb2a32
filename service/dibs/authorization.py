"""Parsing of the headers that identify a caller: Authorization, and a browser's Origin."""

import base64
from urllib.parse import urlsplit

REALM = 'Basic realm="dibs", charset="UTF-8"'


def read(authorization: str | None) -> tuple[str | None, str]:
    """Return the key (None without one) and the user name of an Authorization header."""
    scheme, _, value = (authorization or "").strip().partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip(), ""
    if scheme.lower() == "basic":
        try:
            user, _, key = base64.b64decode(value, validate=True).decode().partition(":")
        except ValueError:  # of Base64, or of UTF-8
            return None, ""
        return key, user
    return None, ""


def place_of(origin: str) -> str:
    """Return the host and port of an Origin header, '' if it has none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
