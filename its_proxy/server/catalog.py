"""What this server offers: model names, each resolved to the members behind it, and their handshakes.

A model whose manifest does not hold is kept here with its reason: asking for it says why, and the
others are served.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from its_proxy.checkpoint import Checkpoint
from its_proxy.codesign.errors import ModelNotFound, RequestError, UpstreamError
from its_proxy.handshake import NO_MANIFEST, Handshake, Verdict
from its_proxy.plan import Member, VoteRules
from its_proxy.upstreams.base import Upstream

SUFFIX = ":its-"
MODEL_LIST_TTL_S = 10.0


@dataclass(frozen=True, slots=True)
class Served:
    """One public model name. `is_local`: its upstream reads the very weight files of its checkpoint."""

    name: str
    members: tuple[Member, ...]
    rules: VoteRules
    requires_verified: bool = False
    is_local: bool = False

    @property
    def is_ensemble(self) -> bool:
        return len(self.members) > 1

    @property
    def handshakes(self) -> tuple[Handshake, ...]:
        return tuple(member.handshake for member in self.members if isinstance(member.handshake, Handshake))

    @property
    def is_serving(self) -> bool:
        return all(handshake.is_serving for handshake in self.handshakes)

    def require_serving(self) -> None:
        for member, handshake in zip(self.members, self.handshakes, strict=True):
            handshake.require_serving(member.name, verified=self.requires_verified)


@dataclass(slots=True)
class Catalog:
    """`open_upstream` answers for model names nobody configured: passed through, never rewritten."""

    served: Mapping[str, Served]
    upstreams: Sequence[Upstream]
    open_upstream: Upstream | None = None
    _listed: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _listed_until: float = 0.0
    _listing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def resolve(self, name: str) -> tuple[Served, dict[str, Any]]:
        """A request's model name -> what is served, and the overrides its suffix asks for. Exact names come first."""
        if (served := await self._find(name)) is not None:
            return served, {}
        base, separator, suffix = name.rpartition(SUFFIX)
        if separator and (served := await self._find(base)) is not None:
            return served, _suffix_overrides(suffix)
        known = ", ".join(sorted(self.served)[:8]) or "none"
        raise ModelNotFound(f"no model named {name[:200]!r} is served here", param="model", hint=f"served: {known}")

    async def cards(self) -> list[dict[str, Any]]:
        """`GET /v1/models`: every name one may ask for, with its pair and the state of its handshake."""
        cards = [_card(served) for served in self.served.values()]
        if self.open_upstream is not None:
            try:
                listed = await self._open_models(self.open_upstream)
            except UpstreamError:
                listed = {}
            advice = "no manifest: passed through, neither rewritten nor voted"
            cards += [{**card, "its": {"handshake": "none", "advice": advice}} for name, card in listed.items()
                      if name not in self.served]  # fmt: skip
        return cards

    @property
    def is_ready(self) -> bool:
        return any(served.is_serving for served in self.served.values()) or self.open_upstream is not None

    async def watch(self, on_change: Callable[[str, Verdict], None]) -> None:
        """Runs every handshake; ends when all have a verdict."""
        async with asyncio.TaskGroup() as group:
            for served in self.served.values():
                if not served.is_ensemble:
                    self._start_handshake(group, served, on_change)

    def _start_handshake(
        self, group: asyncio.TaskGroup, served: Served, on_change: Callable[[str, Verdict], None]
    ) -> None:
        member = served.members[0]
        if member.checkpoint is None or not served.handshakes or served.handshakes[0].state != "pending":
            return
        group.create_task(
            served.handshakes[0].run(
                member.checkpoint,
                member.upstream,
                member.served_name,
                is_local=served.is_local,
                on_change=lambda verdict: on_change(served.name, verdict),
            )
        )

    async def close(self) -> None:
        for upstream in self.upstreams:
            await upstream.close()

    async def _find(self, name: str) -> Served | None:
        if name in self.served:
            return self.served[name]
        if self.open_upstream is not None and name in await self._open_models(self.open_upstream):
            return passed_through(name, self.open_upstream, name)
        return None

    async def _open_models(self, upstream: Upstream) -> Mapping[str, Mapping[str, Any]]:
        """The upstream's own list, asked for anew every few seconds, by one request for all that wait."""
        async with self._listing:
            now = asyncio.get_running_loop().time()
            if now >= self._listed_until:
                cards = await upstream.models()
                self._listed = {card["id"]: card for card in cards if isinstance(card.get("id"), str)}
                self._listed_until = now + MODEL_LIST_TTL_S
            return self._listed


def passed_through(name: str, upstream: Upstream, served_name: str) -> Served:
    """A model without a manifest: nothing to check, nothing to rewrite, no vote."""
    member = Member(name, upstream, served_name, None, Handshake(NO_MANIFEST))
    return Served(name, (member,), VoteRules(mode="off", n=1))


def rules_for(checkpoint: Checkpoint, overrides: Mapping[str, Any], max_n: int) -> VoteRules:
    """The manifest's advice under the operator's overrides; `max_n` lowers an advised n, and refuses an asked one."""
    advice = checkpoint.manifest.vote
    rules: dict[str, Any] = {"max_n": max_n}
    if advice is not None:
        rules |= {
            "n": min(advice.n, max_n),
            "stop": advice.stop,
            "answer": advice.answer,
            "min_agreement": advice.min_agreement,
        }
    return VoteRules(**rules | {key: value for key, value in overrides.items() if value is not None})


def _suffix_overrides(suffix: str) -> dict[str, Any]:
    if suffix == "off":
        return {"vote": "off"}
    if suffix.isascii() and suffix.isdigit() and 0 < len(suffix) <= 4 and int(suffix) > 0:
        return {"n": int(suffix)}
    raise RequestError(f"unknown model suffix {SUFFIX}{suffix[:20]}", param="model", hint="NAME:its-8 or NAME:its-off")


def _card(served: Served) -> dict[str, Any]:
    pairs = [member.checkpoint.pair_id if member.checkpoint else None for member in served.members]
    strategies = [member.checkpoint.serve.strategy.name if member.checkpoint else None for member in served.members]
    its: dict[str, Any] = {
        "pair_id": None if served.is_ensemble else pairs[0],
        "strategy": None if served.is_ensemble else strategies[0],
        "handshake": [h.state for h in served.handshakes] if served.is_ensemble else served.handshakes[0].state,
        "reason": None if served.is_ensemble else served.handshakes[0].verdict.reason,
        "n": served.rules.n,
    }
    if served.is_ensemble:
        its["members"] = [member.name for member in served.members]
    return {"id": served.name, "object": "model", "created": 0, "owned_by": "its-proxy", "its": its}
