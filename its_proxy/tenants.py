"""Keeps tenants apart in the prefix cache of an engine that they share."""

from base64 import urlsafe_b64encode
from hashlib import sha256


def cache_salt(identity: bytes, tenant: str | None = None) -> str:
    """vLLM's `cache_salt` for a caller, or for the `tenant` it speaks for: 32 letters of base64, as vLLM wants them.

    `identity` should be as hard to guess as a key, else a tenant could be imitated.
    """
    drawn = sha256(b"\0".join((b"its-proxy cache salt", identity, (tenant or "").encode("utf-8", "replace"))))
    return urlsafe_b64encode(drawn.digest()).decode()[:32]
