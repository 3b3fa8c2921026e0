"""What an operator may say to the middleware: vLLM gives it no arguments, so by the environment.

ITS_VLLM_MAX_N       the most candidates that a request may ask for, and the manifest's n is lowered to (16)
ITS_VLLM_VOTE        overrides of the manifest's vote, as JSON: {"n": 4, "stop": "exact"}
ITS_VLLM_RIGHTS      what clients may override where vLLM has keys: force, explain, candidates, separated by commas
ITS_VLLM_FRONT_KEYS  sha256 of those of vLLM's keys, in hex, whose `x-its-applied` is believed, separated by commas

Without keys vLLM serves whoever reaches it, so everything is allowed and believed.
"""

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from its_proxy.codesign.errors import ConfigError
from its_proxy.served import check_vote
from its_proxy.service import MAX_N

RIGHTS = frozenset({"force", "explain", "candidates"})


@dataclass(frozen=True, slots=True)
class Options:
    max_n: int = MAX_N
    vote: Mapping[str, Any] = field(default_factory=dict)
    rights: frozenset[str] = frozenset()
    front_keys: frozenset[str] = frozenset()

    def is_front(self, authorization: str | None) -> bool:
        """Whether this key may say that a layer in front has rewritten already."""
        token = (authorization or "").partition(" ")[2].strip()
        presented = sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        # Summed, so that the time taken does not tell which key was close.
        return sum(hmac.compare_digest(presented, known) for known in self.front_keys) > 0


def options_from(environ: Mapping[str, str]) -> Options:
    """Raises ConfigError naming the variable."""
    max_n = environ.get("ITS_VLLM_MAX_N", str(MAX_N))
    if not (max_n.isascii() and max_n.isdigit() and int(max_n) > 0):
        raise ConfigError(f"ITS_VLLM_MAX_N is {max_n!r}, not a positive number")
    rights, front_keys = _listed(environ, "ITS_VLLM_RIGHTS"), _listed(environ, "ITS_VLLM_FRONT_KEYS")
    if unknown := sorted(rights - RIGHTS):
        raise ConfigError(f"ITS_VLLM_RIGHTS: unknown right {unknown[0]!r}", hint=f"known: {', '.join(sorted(RIGHTS))}")
    if not all(re.fullmatch("[0-9a-f]{64}", key) for key in front_keys):
        raise ConfigError("ITS_VLLM_FRONT_KEYS: not a sha256 in hex", hint="printf %s KEY | sha256sum")
    return Options(int(max_n), _vote(environ), rights, front_keys)


def _listed(environ: Mapping[str, str], name: str) -> frozenset[str]:
    return frozenset(word.strip() for word in environ.get(name, "").split(",") if word.strip())


def _vote(environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        vote = json.loads(environ.get("ITS_VLLM_VOTE") or "{}")
    except ValueError:
        vote = None
    if not isinstance(vote, dict):
        raise ConfigError("ITS_VLLM_VOTE is not a JSON object", hint="ITS_VLLM_VOTE='{\"n\": 4}'")
    check_vote("ITS_VLLM_VOTE", vote)
    return vote
