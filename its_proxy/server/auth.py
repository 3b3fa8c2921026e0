"""Who is calling: API keys found and compared by digest, in a time that is the same for all of them and for any number.

A key is looked up by its digest's digest under a secret of this process, and then compared in constant time. What the
lookup's time could tell is about a number that nobody outside can compute, let alone come close to on purpose.
"""

import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256

from its_proxy.admission import NO_LIMITS, CallerLimits
from its_proxy.codesign.errors import Unauthenticated
from its_proxy.settings import KeySettings
from its_proxy.tenants import cache_salt

ALL_RIGHTS = frozenset({"force", "explain", "candidates", "front"})


@dataclass(frozen=True, slots=True)
class Caller:
    """`identity` stands for the key, and is as hard to guess; empty where there are no keys."""

    name: str
    rights: frozenset[str]
    identity: bytes = b""
    limits: CallerLimits = NO_LIMITS

    def salt(self, tenant: str | None = None) -> str | None:
        """What keeps this caller, or the `tenant` it speaks for, apart in an upstream's prefix cache; None without
        keys, where all callers are one."""
        return cache_salt(self.identity, tenant) if self.identity else None


class Doorkeeper:
    """Without keys (a loopback server) everyone is let in, with every right but, if so set, `force`.

    To say that a query has been rewritten already is to choose its strategy, so `front` goes with `force`.
    """

    def __init__(self, keys: Sequence[KeySettings], environ: Mapping[str, str], *, allow_force: bool) -> None:
        digests = [(bytes.fromhex(key.digest(environ)), key) for key in keys]
        self._secret = secrets.token_bytes(32)
        self._callers = {self._place(digest): _caller(key, digest) for digest, key in digests}
        self._nobody = Caller("nobody", frozenset(), secrets.token_bytes(32))
        anyone = Caller("anyone", ALL_RIGHTS if allow_force else ALL_RIGHTS - {"force", "front"})
        self.anyone = None if self._callers else anyone
        """Every caller, where there are no keys."""

    def admit(self, authorization: str | None) -> Caller:
        """The caller behind an `Authorization` header; raises Unauthenticated."""
        if self.anyone is not None:
            return self.anyone
        scheme, _, token = (authorization or "").partition(" ")
        presented = sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        # Whoever is not found is compared, too: the same is done for every key.
        found = self._callers.get(self._place(presented), self._nobody)
        is_right = hmac.compare_digest(found.identity, presented)
        if not is_right or scheme.lower() != "bearer":
            raise Unauthenticated("a valid API key is required", hint="Authorization: Bearer KEY")
        return found

    def _place(self, digest: bytes) -> bytes:
        return blake2b(digest, key=self._secret, digest_size=16).digest()


def _caller(key: KeySettings, digest: bytes) -> Caller:
    limits = CallerLimits(key.max_candidates, key.requests_per_minute)
    return Caller(key.name, frozenset(key.rights), digest, limits)
