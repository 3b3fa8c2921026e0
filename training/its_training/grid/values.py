"""What a cell is worth, item by item: arrays (training seeds, persona seeds, items) of one measure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from its_proxy.candidates import CandidateRow, Row
from its_proxy.codesign.errors import ConfigError
from its_proxy.metrics import Metric, value
from its_training.grid.cells import Cell, Grid

if TYPE_CHECKING:
    from numpy import ndarray

Measure: TypeAlias = Callable[[Row], float]
"""What one item is worth."""


def pass_at_1(row: Row) -> float:
    return value(row, Metric("pass", 1))


def majority(row: Row) -> float:
    """maj@n over all n candidates."""
    return value(row, Metric("maj", len(row.candidates)))


def greedy(row: Row) -> float:
    return value(row, Metric("greedy"))


def tokens_of(row: Row, candidates: Sequence[CandidateRow]) -> int:
    """Read and generated: the prompt once, since candidates share it in the server's cache, and every completion."""
    n_prompt = row.asked.get("prompt_tokens") or 0
    return int(n_prompt) + sum(candidate.completion_tokens or 0 for candidate in candidates)


@dataclass(frozen=True, slots=True)
class Values:
    """`array` (training seeds, persona seeds, items); the base has one training seed, None."""

    train_seeds: tuple[int | None, ...]
    persona_seeds: tuple[int, ...]
    ids: tuple[str, ...]
    array: "ndarray"

    @property
    def mean(self) -> float:
        return float(self.array.mean())

    def of_train_seeds(self, seeds: Sequence[int | None]) -> "Values":
        places = [self.train_seeds.index(seed) for seed in seeds]
        return replace(self, train_seeds=tuple(seeds), array=self.array[places])


def values(grid: Grid, trained: str, asked: str, split: str, measure: Measure) -> Values | None:
    """The measure over all seeds of one place in the table; None where nothing was measured there.

    Only persona seeds that every training seed was asked with are taken, so that the array is whole.
    """
    found = [cell for cell in grid.cells if (cell.trained, cell.asked, cell.split) == (trained, asked, split)]
    train_seeds = tuple(dict.fromkeys(cell.train_seed for cell in found))
    persona_seeds = tuple(
        seed
        for seed in dict.fromkeys(cell.persona_seed for cell in found)
        if all(Cell(trained, asked, split, train_seed, seed) in grid.files for train_seed in train_seeds)
    )
    if not persona_seeds:
        return None
    return _array(grid, trained, asked, split, measure, train_seeds, persona_seeds)


def _array(
    grid: Grid,
    trained: str,
    asked: str,
    split: str,
    measure: Measure,
    train_seeds: tuple[int | None, ...],
    persona_seeds: tuple[int, ...],
) -> Values:
    import numpy

    cells = [[Cell(trained, asked, split, train, persona) for persona in persona_seeds] for train in train_seeds]
    measured = [[_by_id(grid, cell, measure) for cell in row] for row in cells]
    ids = tuple(sorted(measured[0][0]))
    for one in (one for row in measured for one in row):
        if tuple(sorted(one)) != ids:
            raise ConfigError(f"{trained} asked as {asked}: its cells were asked different items")
    array = numpy.array([[[one[name] for name in ids] for one in row] for row in measured])
    return Values(train_seeds, persona_seeds, ids, array)


@lru_cache(maxsize=4096)
def _by_id(grid: Grid, cell: Cell, measure: Measure) -> dict[str, float]:
    return {row.id: measure(row) for row in grid.rows(cell)}


def difference(first: Values, second: Values) -> Values:
    """First minus second, over the same items and, where both have them, the same training and persona seeds.

    What has no such seeds of its own (the base, a plain query) is the same for all of the other's.
    """
    if first.ids != second.ids:
        raise ConfigError("a paired difference needs the same items")
    train = _shared(first.train_seeds, second.train_seeds)
    persona = [seed for seed in _shared(first.persona_seeds, second.persona_seeds) if seed is not None]
    array = _picked(first, train, persona) - _picked(second, train, persona)
    return Values(tuple(train), tuple(persona), first.ids, array)


def _shared(first: Sequence[int | None], second: Sequence[int | None]) -> list[int | None]:
    """The seeds that both have; where one has a single one, it stands for all of the other's."""
    shared = [seed for seed in first if seed in second]
    if len(first) == 1 or len(second) == 1:
        return list(first if len(first) > len(second) else second)
    return shared or list(first[:1])


def _picked(one: Values, train: Sequence[int | None], persona: Sequence[int | None]) -> "ndarray":
    rows = [one.train_seeds.index(seed) if seed in one.train_seeds else 0 for seed in train]
    columns = [list(one.persona_seeds).index(seed) if seed in one.persona_seeds else 0 for seed in persona]
    return one.array[rows][:, columns]
