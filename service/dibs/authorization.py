"""Parses headers that say who asks: Authorization, and a browser's Origin."""

import base64
from urllib.parse import urlsplit

REALM = 'Basic realm="dibs", charset="UTF-8"'


def read(authorization: str | None) -> tuple[str | None, str]:
    """Return the key and the user name of an Authorization header; no key is None."""
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
    """Return host and port of an Origin header, '' for what names none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
