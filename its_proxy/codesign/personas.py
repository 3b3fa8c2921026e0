"""Personas, frozen pools of them, and deterministic draws.

>>> pool = taxonomy_pool()
>>> pool.draw("cooking", Draw(seed=7, strategy="similar", turn=0, text="How many eggs?")).domain
'cooking'
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b, sha256
from types import MappingProxyType

from its_proxy.codesign import taxonomy
from its_proxy.codesign.canonical import strict_json
from its_proxy.codesign.errors import ManifestError
from its_proxy.codesign.light import light

MAX_POOL_BYTES = 64 * 2**20
# To itself: the personas of a large pool share the names of their domains.
_DOMAINS = {name: name for name in (*taxonomy.NAMES, taxonomy.GENERAL)}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Persona:
    """`text` is concatenated to the query; `domain` is one of the taxonomy's names."""

    text: str
    domain: str


@light
@dataclass(frozen=True, slots=True)
class Draw:
    """Everything chance depends on. The same four values give the same draw in every process.

    `turn` counts the user turns of a conversation from 0; `text` is that turn's own text.
    """

    seed: int
    strategy: str
    turn: int
    text: str

    def number(self, purpose: str) -> int:
        """A 64-bit number, independent for each `purpose` (domain, persona, ...)."""
        key = _key(self.seed, self.strategy, self.turn, purpose)
        # surrogatepass: a lone surrogate is odd text, but text; it must not make a draw impossible.
        digest = blake2b(self.text.encode("utf-8", "surrogatepass"), digest_size=8, key=key)
        return int.from_bytes(digest.digest(), "big")


# Most draws are of one recipe's first turns. Typed: 1 and True are equal, and have other keys.
@lru_cache(maxsize=4096, typed=True)
def _key(seed: int, strategy: str, turn: int, purpose: str) -> bytes:
    return blake2b(json.dumps([seed, strategy, turn, purpose]).encode()).digest()


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Pool:
    """A frozen list of personas, sorted by domain; `sha256` is the digest of its JSON lines.

    `domains`: those of the taxonomy that have personas here, in the taxonomy's order, which `random` draws from. A
    draw costs the same from every pool: nothing in it looks at more than the persona that it finds.
    """

    personas: tuple[Persona, ...]
    by_domain: Mapping[str, tuple[Persona, ...]]
    sha256: str
    domains: tuple[str, ...]

    def draw(self, domain: str, draw: Draw) -> Persona:
        """One persona of `domain`."""
        personas = self.by_domain[domain]
        return personas[draw.number("persona") % len(personas)]

    @classmethod
    def of(cls, personas: Sequence[Persona]) -> "Pool":
        return cls.from_jsonl(pool_jsonl(personas))

    @classmethod
    def from_jsonl(cls, data: bytes) -> "Pool":
        """Reads `{"text": ..., "domain": ...}` lines; raises ManifestError naming the line."""
        if len(data) > MAX_POOL_BYTES:
            raise ManifestError(f"the persona pool has {len(data)} bytes", hint=f"at most {MAX_POOL_BYTES}")
        personas = tuple(_read_persona(line, n) for n, line in enumerate(data.splitlines(), 1) if line.strip())
        if not personas:
            raise ManifestError("the persona pool is empty", hint="one JSON object with text and domain on each line")
        by_domain: dict[str, list[Persona]] = {}
        for persona in personas:
            by_domain.setdefault(persona.domain, []).append(persona)
        frozen = MappingProxyType({domain: tuple(group) for domain, group in by_domain.items()})
        domains = tuple(name for name in taxonomy.NAMES if name in frozen)
        return cls(personas, frozen, sha256(data).hexdigest(), domains)


def _read_persona(line: bytes, n: int) -> Persona:
    try:
        row = strict_json(line)
    except ValueError as error:
        raise ManifestError(f"line {n} of the persona pool is not a persona: {error}") from None
    if not isinstance(row, dict) or not {"text", "domain"} <= row.keys():
        raise ManifestError(f"line {n} of the persona pool is not an object with text and domain")
    text, domain = row["text"], row["domain"]
    if not isinstance(text, str) or not text.strip():
        raise ManifestError(f"line {n} of the persona pool has no text")
    if not text.isascii() and _LONE_SURROGATE.search(text):
        raise ManifestError(f"line {n} of the persona pool holds a lone surrogate, which no server can be sent")
    if not isinstance(domain, str) or domain not in _DOMAINS:
        raise ManifestError(f"line {n} of the persona pool has an unknown domain: {domain!r}",
                            hint=f"domains of {taxonomy.VERSION}: {', '.join(taxonomy.NAMES[:5])}, ...")  # fmt: skip
    return Persona(text, _DOMAINS[domain])


def pool_jsonl(personas: Sequence[Persona]) -> bytes:
    """The file form of a pool; equal personas give equal bytes."""
    rows = ({"text": persona.text, "domain": persona.domain} for persona in personas)
    lines = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    return lines.encode("utf-8", "surrogatepass")


@lru_cache(maxsize=1)
def taxonomy_pool() -> Pool:
    """Our built-in template personas, a stand-in for a pool written by a language model."""
    return Pool.of([Persona(text, domain) for domain, text in taxonomy.template_personas()])
