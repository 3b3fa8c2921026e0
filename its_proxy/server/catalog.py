"""What this server offers: model names, each resolved to the models behind it and the targets they run at.

A model whose manifest does not hold is kept here with its reason: asking for it says why, and the
others are served.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import log
from typing import Any, Literal

from its_proxy.codesign.errors import ModelNotFound, RequestError
from its_proxy.handshake import NO_MANIFEST, PENDING
from its_proxy.open_upstream import OpenUpstream
from its_proxy.served import Model, Served
from its_proxy.targets import Target
from its_proxy.upstreams.base import Upstream

SUFFIX = ":its-"
Sticky = Literal["query", "user", "key", "none"]


@dataclass(frozen=True, slots=True)
class Alias:
    """A public name that stands for models by weight; 0 keeps a model ready without traffic."""

    name: str
    shares: tuple[tuple[Served, int], ...]
    sticky: Sticky = "query"

    def choose(self, traits: Mapping[str, str | None]) -> Served:
        """The model for one query. The same trait gets the same model for as long as that serves, and a
        change of weights moves only as many traits as it must."""
        weighted = [(served, weight) for served, weight in self.shares if weight > 0]
        usable = [share for share in weighted if share[0].is_serving] or weighted
        trait = traits.get(self.sticky)
        return max(usable, key=lambda share: log(_uniform(self.name, share[0].name, trait)) / share[1])[0]


def _uniform(alias: str, model: str, trait: str | None) -> float:
    """A number in (0, 1), for a trait always the same (weighted rendezvous hashing takes its logarithm)."""
    if trait is None:
        return 1.0 - random.random() or 1.0
    drawn = blake2b("\0".join((alias, model, trait)).encode("utf-8", "surrogatepass"), digest_size=8)
    return (int.from_bytes(drawn.digest(), "big") + 1) / (2**64 + 1)


@dataclass(slots=True)
class Catalog:
    """`open_upstream` answers for model names nobody configured: by the manifest they are found with, or passed on."""

    served: Mapping[str, Served]
    upstreams: Sequence[Upstream]
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    open_upstream: OpenUpstream | None = None

    def exactly(self, name: str) -> Served | None:
        """The model of that very name, unless an alias has it."""
        return None if name in self.aliases else self.served.get(name)

    async def resolve(self, name: str, traits: Mapping[str, str | None] = {}) -> tuple[Served, dict[str, Any]]:
        """A request's model name -> what is served, and the overrides its suffix asks for. Exact names come first.

        `traits`: what an alias may stick to, by kind. Raises ModelNotFound.
        """
        if (known := self.exactly(name)) is not None:
            return known, {}
        if (served := await self._find(name, traits)) is not None:
            return served, {}
        base, separator, suffix = name.rpartition(SUFFIX)
        if separator and (served := await self._find(base, traits)) is not None:
            return served, _suffix_overrides(suffix)
        names = ", ".join(sorted({*self.aliases, *self.served})[:8]) or "none"
        raise ModelNotFound(f"no model named {name[:200]!r} is served here", param="model", hint=f"served: {names}")

    async def cards(self) -> list[dict[str, Any]]:
        """`GET /v1/models`: every name one may ask for, with its pair and the state of its handshake."""
        cards = [_alias_card(alias) for alias in self.aliases.values()]
        cards += [_card(served) for served in self.served.values()]
        if self.open_upstream is not None:
            listed = await self.open_upstream.cards()
            cards += [{**listed.get(name, {}), **_card(served)} for name, served in self.open_upstream.served.items()]
        return cards

    @property
    def is_ready(self) -> bool:
        return any(served.is_serving for served in self.served.values()) or self.open_upstream is not None

    @property
    def is_known(self) -> bool:
        """Whether every target has a first verdict, be it that it cannot be reached."""
        return not any(target.verdict is PENDING for target in self.targets())

    def targets(self) -> Iterator[Target]:
        """Every target once, those of models that were found included."""
        yield from self.configured_targets()
        for served in self.open_upstream.served.values() if self.open_upstream is not None else ():
            yield from served.targets

    def configured_targets(self) -> Iterator[Target]:
        """The members of ensembles are models themselves."""
        for served in self.served.values():
            if not served.is_ensemble:
                yield from served.targets

    async def close(self) -> None:
        for upstream in self.upstreams:
            await upstream.close()

    async def _find(self, name: str, traits: Mapping[str, str | None]) -> Served | None:
        if name in self.aliases:
            return self.aliases[name].choose(traits)
        if name in self.served:
            return self.served[name]
        return await self.open_upstream.find(name) if self.open_upstream is not None else None


def _suffix_overrides(suffix: str) -> dict[str, Any]:
    if suffix == "off":
        return {"vote": "off"}
    if suffix.isascii() and suffix.isdigit() and 0 < len(suffix) <= 4 and int(suffix) > 0:
        return {"n": int(suffix)}
    raise RequestError(f"unknown model suffix {SUFFIX}{suffix[:20]}", param="model", hint="NAME:its-8 or NAME:its-off")


def _card(served: Served) -> dict[str, Any]:
    model = served.models[0]
    its: dict[str, Any]
    if served.is_ensemble:
        its = {
            "pair_id": None, "strategy": None, "handshake": [_state(m) for m in served.models], "reason": None,
            "n": served.rules.n, "members": [m.name for m in served.models],
        }  # fmt: skip
    else:
        best = _best(model)
        its = {
            "pair_id": model.checkpoint.pair_id if model.checkpoint else None,
            "strategy": model.checkpoint.serve.strategy.name if model.checkpoint else None,
            "handshake": best.state,
            "reason": best.verdict.reason,
            "n": served.rules.n,
        }
        if best.verdict == NO_MANIFEST:
            its["advice"] = "`its-proxy manifest init` declares one"
        if len(model.targets) > 1:
            its["targets"] = [
                {"target": t.upstream.name, "handshake": t.state, "reason": t.verdict.reason} for t in model.targets
            ]
    return {"id": served.name, "object": "model", "created": 0, "owned_by": "its-proxy", "its": its}


def _alias_card(alias: Alias) -> dict[str, Any]:
    shares = {served.name: weight for served, weight in alias.shares}
    return {"id": alias.name, "object": "model", "created": 0, "owned_by": "its-proxy",
            "its": {"alias_of": shares, "sticky": alias.sticky, "handshake": _alias_state(alias)}}  # fmt: skip


def _alias_state(alias: Alias) -> list[str]:
    return [_state(model) for served, _ in alias.shares for model in served.models]


def _state(model: Model) -> str:
    return _best(model).state


def _best(model: Model) -> Target:
    """The target that speaks for the model: one that serves, else one that may still come."""
    order = ("verified", "none", "unverified", "pending", "mismatch")
    return min(model.targets, key=lambda target: order.index(target.state))
