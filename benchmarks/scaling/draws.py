"""What it takes to draw a persona and to rewrite a query with it, in microseconds of CPU time, by the pool's size."""

import time
from typing import Any

from benchmarks.scaling.axes import POOL_SIZES, QUERY, personas
from its_proxy.codesign import taxonomy
from its_proxy.codesign.personas import Pool
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named

STRATEGIES = ("random", "similar", "dissimilar")
ROUNDS, N_QUERIES = 5, 500


def draws() -> dict[str, Any]:
    pools = [Pool.of(personas(size)) for size in POOL_SIZES]
    return {
        "sizes": list(POOL_SIZES),
        "rewrite_us": {name: [_rewrite_us(name, pool) for pool in pools] for name in STRATEGIES},
    }


def _rewrite_us(name: str, pool: Pool) -> float | None:
    """The least of some rounds, each over other queries; None where the pool lacks domains that the strategy needs."""
    if name != "random" and len(pool.by_domain) <= len(taxonomy.NAMES):
        return None
    recipe = Recipe(strategy_named(name), pool=pool, seed=7)
    rounds = []
    for number in range(ROUNDS):
        queries = [[{"role": "user", "content": f"{number} {n}: {QUERY}"}] for n in range(N_QUERIES)]
        began = time.process_time()
        for messages in queries:
            rewrite(recipe, messages)
        rounds.append(time.process_time() - began)
    return round(min(rounds) / N_QUERIES * 1e6, 1)
