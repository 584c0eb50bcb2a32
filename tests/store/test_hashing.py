"""The keyed hash of a session: the standard's, so that every version of dibs finds it the same."""

import hmac
import secrets

from dibs.store.hashing import KeyedHash


def test_a_keyed_hash_is_hmac_sha_256() -> None:
    for size in (0, 1, 32, 64):
        key = secrets.token_bytes(size)
        keyed = KeyedHash(key)
        for text in (b"", b"a", secrets.token_bytes(36), secrets.token_bytes(500)):
            assert keyed.hex(text) == hmac.digest(key, text, "sha256").hex()
