"""How small a change of the weights is still seen: perturbed copies, read in place by one real server."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

from benchmarks.torture_vllm.case import NEVER_VERIFIED, VERIFIED, Ask, Case, Found, World, examined, reload_weights
from benchmarks.torture_vllm.workshop import Workshop, edit_weights, perturbed

SCALES = (0.001, 0.003, 0.005, 0.006, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3)
"""Shares of each tensor's own standard deviation."""

SEEDS = range(8)
STARTED = (0.003, 0.01, 0.03, 0.3)
"""With seed 0 also served by a server that was started on them: weights read in place must give the same."""

SMALLEST = 0.01
"""From here on perturbed weights must never be verified."""


def perturbed_copy(shop: Workshop, scale: float, seed: int) -> Path:
    return shop.variant(f"perturbed-{scale:g}-{seed}", lambda folder: edit_weights(folder, perturbed(scale, seed)))


def cases() -> tuple[Case, ...]:
    """On a server of the demo's arm that may be told to read other weights."""
    return tuple(
        Case(_name(scale, seed), "power", "read in place", _right(scale), _read_in_place(scale, seed))
        for scale in SCALES
        for seed in SEEDS
    )


def started(scale: float) -> Case:
    """On a server that was started on the perturbed copy of seed 0."""
    name = f"{_name(scale, 0)}, started"
    return Case(name, "power", "started", _right(scale), _measured(scale, 0))


def _name(scale: float, seed: int) -> str:
    return f"perturbed by {100 * scale:g}%, seed {seed}"


def _right(scale: float) -> frozenset[str]:
    return NEVER_VERIFIED if scale >= SMALLEST else NEVER_VERIFIED | VERIFIED


def _read_in_place(scale: float, seed: int) -> Ask:
    async def ask(world: World) -> Found:
        folder = await asyncio.to_thread(perturbed_copy, world.shop, scale, seed)
        await reload_weights(world, folder)
        try:
            return await _measured(scale, seed)(world)
        finally:
            await reload_weights(world, world.shop.demo())
            if scale not in STARTED or seed:
                shutil.rmtree(folder)

    return ask


def _measured(scale: float, seed: int) -> Ask:
    async def ask(world: World) -> Found:
        found = await examined(world.shop.demo(), world.server.name, world.server.url)
        return replace(found, figures={**found.figures, "scale": scale, "seed": seed})

    return ask
