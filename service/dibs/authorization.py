"""Parses an Authorization header."""

import base64

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
