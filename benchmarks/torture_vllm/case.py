"""What is tried, what counts as right and what was found: the values that the other files pass on."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import aiohttp

from its_proxy.checkpoint import open_checkpoint
from its_proxy.handshake import Report, examine
from its_proxy.upstreams.http import HttpUpstream
from tests.real_vllm.server import VllmServer

if TYPE_CHECKING:
    from benchmarks.torture_vllm.workshop import Workshop

Kind: TypeAlias = Literal["mismatch", "honest", "power", "note"]
"""`mismatch` must be caught, `honest` must be verified; `power` is measured, `note` is told and not judged."""

MISMATCH = frozenset({"mismatch"})
NEVER_VERIFIED = frozenset({"mismatch", "unverified"})
NOT_SERVED = frozenset({"pending"})
REFUSED = frozenset({"refused"})
VERIFIED = frozenset({"verified"})
NO_START = "no start"
_FIGURES = {"nats": re.compile(r"([0-9.]+) nats a token"), "bound": re.compile(r"bound ([0-9.]+[0-9])")}


@dataclass(frozen=True, slots=True)
class Found:
    """The verdict's state, or what became of a request; `figures` are numbers worth keeping, nats and bytes."""

    state: str
    said: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class World:
    """What a case may use: the workshop, and the server that was started for it (None for cases of files alone)."""

    shop: "Workshop"
    vllm: VllmServer | None = None

    @property
    def server(self) -> VllmServer:
        assert self.vllm is not None
        return self.vllm


Ask: TypeAlias = Callable[[World], Awaitable[Found]]
Make: TypeAlias = Callable[["Workshop"], Path]
"""A checkpoint's folder, built on first use."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to try. `group` gathers cases of a kind in the report; `right` are the states that may be found."""

    name: str
    kind: Kind
    group: str
    right: frozenset[str]
    ask: Ask


@dataclass(frozen=True, slots=True)
class Start:
    """One server: `vllm serve CHECKPOINT --served-model-name NAMES FLAGS`, and what is tried on it, in order."""

    name: str
    checkpoint: Make
    cases: tuple[Case, ...]
    names: tuple[str, ...] = ()
    flags: Callable[["Workshop"], tuple[str, ...]] = lambda shop: ()
    env: Mapping[str, str] = field(default_factory=dict)
    needs_bases: bool = False


async def examined(checkpoint: Path, name: str, url: str) -> Found:
    """One handshake of the checkpoint's manifest with a server, as its-proxy holds it."""
    upstream = HttpUpstream("vllm", url)
    try:
        opened = await asyncio.to_thread(open_checkpoint, checkpoint)
        return found_in(await examine(opened, upstream, name, is_local=False))
    finally:
        await upstream.close()


def found_in(report: Report) -> Found:
    weights = next((check.evidence for check in report.checks if check.name == "weights"), "")
    figures = {name: pattern.search(weights) for name, pattern in _FIGURES.items()}
    return Found(
        report.verdict.state, report.verdict.reason, {name: float(found[1]) for name, found in figures.items() if found}
    )


def against(make: Make, name: str | None = None) -> Ask:
    """The handshake of that checkpoint's manifest with the running server, under its first name or another."""

    async def ask(world: World) -> Found:
        checkpoint = await asyncio.to_thread(make, world.shop)
        return await examined(checkpoint, name or world.server.name, world.server.url)

    return ask


async def post(url: str, body: Mapping[str, Any]) -> str:
    """POSTs JSON to the server itself; RuntimeError for anything but 200."""
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as reply:
        text = await reply.text()
        if reply.status != 200:
            raise RuntimeError(f"{url} answered {reply.status}: {text[:300]}")
        return text


async def reload_weights(world: World, checkpoint: Path) -> None:
    """Has the running server read another checkpoint's weights in place, as trainers do between two rollouts."""
    body = {"method": "reload_weights", "kwargs": {"weights_path": str(checkpoint.resolve())}}
    await post(f"{world.server.root}/collective_rpc", body)
    await post(f"{world.server.root}/reset_prefix_cache", {})


def with_weights(make: Make, ask: Ask, back_to: Make) -> Ask:
    """`ask` while the server holds that checkpoint's weights; afterwards it holds its own again."""

    async def ask_meanwhile(world: World) -> Found:
        checkpoint = await asyncio.to_thread(make, world.shop)
        own = await asyncio.to_thread(back_to, world.shop)
        await reload_weights(world, checkpoint)
        try:
            return await ask(world)
        finally:
            await reload_weights(world, own)

    return ask_meanwhile
