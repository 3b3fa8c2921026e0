"""The vote of several checkpoints against its members, and against self-consistency of the best member.

The best member is chosen on validation; everything is compared on test, at equal total tokens: three checkpoints read
three prompts, so a single one affords more candidates for the same cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from its_proxy.candidates import Row, digest
from its_proxy.codesign.errors import ConfigError
from its_training.grid.cells import Cell, Grid
from its_training.grid.equal_tokens import Way, cost, majority_of, n_affordable
from its_training.grid.hierarchy import Measured, measured
from its_training.grid.spec import Ensemble
from its_training.grid.values import Values, difference, majority, values


@dataclass(frozen=True, slots=True)
class Versus:
    """An ensemble of `n_each` candidates a member against the best member's `n_single`, which cost as much.

    `is_short`: the tokens would have paid for more candidates of the best member than it was asked for.
    """

    n_each: int
    n_single: float
    is_short: bool
    ensemble: Measured
    single: Measured
    gain: Measured


@dataclass(frozen=True, slots=True)
class EnsembleResult:
    members: Sequence[Way]
    best: Way
    alone: Mapping[Way, Measured]
    """Each member's own vote over all its candidates, on test."""
    versus: Sequence[Versus]


def ensemble(grid: Grid, asked: Ensemble) -> EnsembleResult:
    """Each member is asked as it was trained. Raises ConfigError where a cell is missing."""
    ways = [Way(name, grid.spec.matched(name)) for name in asked.members]
    best = max(ways, key=lambda way: _values(grid, way, "validation").mean)
    wide, most = grid.with_n(asked.n), grid.spec.vote.n
    versus = [_versus(wide, ways, best, n_each) for n_each in (1, 2) if n_each * len(ways) <= most]
    return EnsembleResult(ways, best, {way: measured(_values(grid, way, "test")) for way in ways}, versus)


def _values(grid: Grid, way: Way, split: str) -> Values:
    found = values(grid, way.trained, way.asked, split, majority)
    if found is None:
        raise ConfigError(f"the ensemble needs {way} on {split}, which was not measured")
    return found


def _versus(grid: Grid, ways: Sequence[Way], best: Way, n_each: int) -> Versus:
    budget = sum(cost(grid, way, "test", n_each) for way in ways)
    n_single = n_affordable(grid, best, "test", budget)
    together = _together(grid, ways, n_each)
    single = values(grid, best.trained, best.asked, "test", majority_of(n_single))
    assert single is not None  # its cost was asked
    is_short = budget > cost(grid, best, "test", grid.spec.vote.n)
    return Versus(
        n_each, n_single, is_short, measured(together), measured(single), measured(difference(together, single))
    )


def _together(grid: Grid, ways: Sequence[Way], n_each: int) -> Values:
    """The right answers of the joint vote, over the training seeds that all members have."""
    import numpy

    shared = [seed for seed in _values(grid, ways[0], "test").train_seeds if all(_has(grid, way, seed) for way in ways)]
    persona = grid.spec.persona_seeds[0]
    columns = []
    for seed in shared:
        cells = [Cell(way.trained, way.asked, "test", seed, persona) for way in ways]
        by_id = [{row.id: row for row in grid.rows(cell)} for cell in cells]
        columns.append({name: _joint_vote([rows[name] for rows in by_id], n_each) for name in by_id[0]})
    ids = tuple(sorted(columns[0]))
    array = numpy.array([[[column[name] for name in ids]] for column in columns])
    return Values(tuple(shared), (persona,), ids, array)


def _has(grid: Grid, way: Way, seed: int | None) -> bool:
    return Cell(way.trained, way.asked, "test", seed, grid.spec.persona_seeds[0]) in grid.files


def _joint_vote(rows: Sequence[Row], n_each: int) -> float:
    """Ties go to the lowest index, so the order of members is turned by the item: none is favoured."""
    turn = int(digest(rows[0].id), 16) % len(rows)
    order = [*rows[turn:], *rows[:turn]]
    drawn = [row.candidates[k] for k in range(n_each) for row in order]
    renumbered = [candidate.model_copy(update={"index": n}) for n, candidate in enumerate(drawn)]
    return float(rows[0].is_right(rows[0].vote(renumbered).answer))
