"""What it costs to draw a persona from a pool of 100,000."""

import time
from collections.abc import Mapping, Sequence

from its_proxy.codesign import taxonomy
from its_proxy.codesign.personas import Persona, Pool
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named

STRATEGIES = ("random", "similar", "dissimilar")
_SUBJECTS = (
    "eggs in a kitchen",
    "trains between two towns",
    "a rectangular garden",
    "coins in a jar",
    "a football team",
)


def draws(n_personas: int = 100_000, n_draws: int = 1000, rounds: int = 5) -> Mapping[str, Sequence[float]]:
    """strategy -> microseconds of CPU a draw, each round with queries that none has seen before."""
    names = (*taxonomy.NAMES, taxonomy.GENERAL)
    pool = Pool.of([Persona(f"You are expert number {k} in {names[k % len(names)]}.", names[k % len(names)])
                    for k in range(n_personas)])  # fmt: skip
    return {name: [_round(name, pool, n_draws, number) for number in range(rounds)] for name in STRATEGIES}


def _round(name: str, pool: Pool, n_draws: int, number: int) -> float:
    recipe = Recipe(strategy_named(name), pool=pool, seed=7)
    turns = [f"Question {number}-{k}: how many {_SUBJECTS[k % len(_SUBJECTS)]}?" for k in range(n_draws)]
    conversations = [[{"role": "user", "content": turn}] for turn in turns]
    began = time.process_time()
    for messages in conversations:
        rewrite(recipe, messages)
    return round(1e6 * (time.process_time() - began) / n_draws, 2)
