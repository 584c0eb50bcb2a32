"""Project tokens: a team key for one project, with an expiry, stored nowhere.

A token is `dibs1.PROJECT.EXPIRY.MAC`: the project, seconds since 1970, and an HMAC-SHA256 of both
under a key that is derived from an admin key. So a person with an admin key makes tokens without
the service (`dibs token acme.web --for 90d`), and removing that admin key revokes them.
"""

import binascii
import hmac
import time
from collections.abc import Sequence

MARK = "dibs1"
_PURPOSE = b"dibs project token 1"


def make(admin_key: str, project: str, lasts_s: int) -> str:
    """Return a token for `project` that expires in `lasts_s` seconds."""
    expiry = int(time.time()) + lasts_s
    return f"{MARK}.{project}.{expiry}.{_mac(_derived(admin_key), project, expiry)}"


class Tokens:
    """A check of tokens made with any of the admin keys."""

    def __init__(self, admin_keys: Sequence[str]) -> None:
        self._keys = [_derived(key) for key in admin_keys]

    def refusal(self, token: str, project: str) -> str | None:
        """Return '' for a valid token of `project`, else the reason; None if it is no token."""
        mark, _, rest = token.partition(".")
        named, _, mac = rest.rpartition(".")
        named, _, digits = named.rpartition(".")
        if mark != MARK or not named or not (digits.isascii() and digits.isdigit()):
            return None
        expiry = int(digits[:15])
        macs = [_mac(key, named, expiry) for key in self._keys]
        if not any(hmac.compare_digest(mac.encode(), each.encode()) for each in macs):
            return None
        if expiry < time.time():
            return (
                f"The token for {named} has expired; a person with an admin key can make another."
            )
        if named != project:
            where = f"project {project}" if project else "this path"
            return f"The token is for project {named} only, not for {where}."
        return ""


def _derived(admin_key: str) -> bytes:
    return hmac.digest(admin_key.encode(), _PURPOSE, "sha256")


def _mac(key: bytes, project: str, expiry: int) -> str:
    digest = hmac.digest(key, f"{project}.{expiry}".encode(), "sha256")
    return binascii.b2a_base64(digest, newline=False).decode().translate(_URLSAFE).rstrip("=")


_URLSAFE = str.maketrans("+/", "-_")
