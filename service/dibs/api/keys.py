"""Who may come in: the team key and the admin key."""

import base64
import binascii
import hmac
from collections.abc import Sequence
from hashlib import sha256

from dibs.api.problems import ProblemError
from dibs.text import fault_of_name

REALM = 'Basic realm="dibs", charset="UTF-8"'
NAME_CHARS = 100


class Keys:
    """The keys of one service. Comparing takes the same time wherever two keys differ."""

    def __init__(self, team: Sequence[str] = (), admin: Sequence[str] = ()) -> None:
        self._team = [_digest(key) for key in team]
        self._admin = [_digest(key) for key in admin]

    @property
    def open(self) -> bool:
        """Nobody needs a key."""
        return not self._team

    @property
    def breakable(self) -> bool:
        """Somebody may break a claim."""
        return bool(self._admin)

    def is_admin(self, key: str) -> bool:
        """Say if `key` is an admin key."""
        return _among(key, self._admin)

    def check_team(self, authorization: str | None) -> None:
        """Let a team or admin key pass, or anybody where there is no team key."""
        if not self._team:
            return
        given, _ = _read(authorization)
        if given is None or not _among(given, self._team + self._admin):
            word = "is missing" if given is None else "is not one of this service's"
            raise ProblemError(
                "unauthorized",
                f"The team key {word}. Send `Authorization: Bearer <team key>` (DIBS_KEY for the "
                "client), or HTTP Basic with the key as the password.",
                headers={"WWW-Authenticate": REALM},
            )

    def check_admin(self, authorization: str | None) -> str:
        """Let an admin key pass; return who it says it is (the Basic user name, if that can be a
        name), or ''."""
        given, user = _read(authorization)
        if given is None or not _among(given, self._admin):
            raise ProblemError(
                "forbidden",
                "Breaking a claim takes an admin key. "
                + (
                    "Send it as `Authorization: Bearer <admin key>`."
                    if self._admin
                    else "This service has none: whoever runs it can set DIBS_ADMIN_KEY."
                ),
            )
        return "" if fault_of_name(user) else user[:NAME_CHARS]


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def _among(given: str, keys: Sequence[bytes]) -> bool:
    digest = _digest(given)
    matches = [hmac.compare_digest(digest, key) for key in keys]  # all of them, every time
    return any(matches)


def _read(authorization: str | None) -> tuple[str | None, str]:
    """Return the key and the user name of an Authorization header."""
    scheme, _, value = (authorization or "").strip().partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip(), ""
    if scheme.lower() == "basic":
        try:
            user, _, key = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None, ""
        return key, user
    return None, ""
