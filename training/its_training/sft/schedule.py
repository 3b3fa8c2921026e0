"""How many steps a recipe takes and which rows each sees: the same for every number of processes.

plan = schedule(recipe.optimizer, n_rows=1000, n_processes=8, per_device_batch=1)
order = row_order(1000, plan.steps * plan.global_batch, seed=42)
"""

import random
from dataclasses import dataclass
from hashlib import blake2b

from its_proxy.codesign.errors import ConfigError
from its_training.recipe import Optimizer


@dataclass(frozen=True, slots=True)
class Schedule:
    """Batches go on over the end of an epoch, so that each step sees exactly `global_batch` rows."""

    global_batch: int
    accumulation: int
    steps: int
    steps_per_epoch: int


def schedule(
    optimizer: Optimizer, n_rows: int, n_processes: int, per_device_batch: int, max_steps: int | None = None
) -> Schedule:
    """Raises ConfigError where the processes cannot share a global batch evenly."""
    at_once = n_processes * per_device_batch
    accumulation, rest = divmod(optimizer.global_batch, at_once)
    if rest or accumulation == 0:
        raise ConfigError(
            f"optimizer.global_batch {optimizer.global_batch} is no multiple of "
            f"{n_processes} processes x {per_device_batch} rows",
            hint="change compute.per_device_batch or the number of processes; the global batch is the recipe's",
        )
    steps = max(1, round(optimizer.epochs * n_rows / optimizer.global_batch))
    per_epoch = max(1, round(n_rows / optimizer.global_batch))
    return Schedule(optimizer.global_batch, accumulation, min(steps, max_steps or steps), per_epoch)


def row_order(n_rows: int, n_needed: int, seed: int) -> list[int]:
    """Row numbers, epoch after epoch, each in a new order that the seed alone decides: equal in matched arms."""
    order: list[int] = []
    while len(order) < n_needed:
        name = f"{seed}|epoch {len(order) // n_rows}".encode()
        epoch = list(range(n_rows))
        random.Random(int.from_bytes(blake2b(name, digest_size=8).digest(), "big")).shuffle(epoch)
        order += epoch
    return order[:n_needed]
