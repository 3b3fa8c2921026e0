"""Every way over every item: accuracy, generated tokens and time, each beside the full vote on the same items.

An item is asked in several orders of its candidates, as if its seeds had been drawn again; intervals are over items.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from benchmarks.cheaper_votes.replayed import STEPS, Clock, replayed
from benchmarks.cheaper_votes.ways import TopUp, Way, adaptive_consistency, esc, served, short
from its_proxy.candidates import Row
from its_proxy.replay import tokens_of
from its_proxy.statistics import Estimate, score_interval

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
STAGED = (8, 16, 32)
TOP_UPS: tuple[TopUp, ...] = ("fewest", "rest")
FULL = "n=16"
N_ORDERS = 4
N_RESAMPLES = 1000
Array = np.ndarray[Any, np.dtype[Any]]


def ways() -> list[Way]:
    """The grid: n, first wave and stop rule; larger top-ups; the published rules."""
    grid = [way for n in SIZES for way in _of_size(n)]
    return [*grid, *_other_top_ups(), *_published()]


def staged_ways() -> list[Way]:
    """Those whose time is of interest where candidates differ in length."""
    whole = [served(n, stop) for n in (16, 8, 7, 5) for stop in ("none", "exact")]
    waves = [served(16, "exact", 9), served(8, "exact", 5), served(8, "beta", 4), served(16, "beta", 4)]
    return [*whole, served(16, "beta"), *waves, *_other_top_ups(), *_published()]


def _other_top_ups() -> list[Way]:
    shapes = [(16, "exact", 9), (8, "exact", 5), (8, "beta", 4), (16, "beta", 4), (16, "beta", 6)]
    return [served(*shape, top_up) for shape in shapes for top_up in TOP_UPS]


def _published() -> list[Way]:
    return [adaptive_consistency(16), esc(4, 16), esc(5, 16), short(1, 8), short(3, 8), short(3, 16)]


def _of_size(n: int) -> Iterator[Way]:
    yield served(n, "none")
    if n in STAGED:
        firsts = sorted({first for first in (3, 4, 6, n // 2 + 1, n) if first <= n}, reverse=True)
        yield from (served(n, "exact", first) for first in firsts)
        yield from (served(n, "beta", first) for first in firsts)


@dataclass(frozen=True, slots=True)
class Runs:
    """One way over all items: rows are orders, columns are items. `forms` are those of the answers, None without."""

    name: str
    is_right: Array
    n_tokens: Array
    time: Array
    n_started: Array
    forms: Array
    is_published: bool = False

    def is_same(self, full: "Runs") -> Array:
        return np.asarray(self.forms == full.forms, dtype=float)


@dataclass(frozen=True, slots=True)
class Greedy:
    """One greedy call an item: the least that an answer can cost."""

    is_right: Array
    n_tokens: Array


@dataclass(frozen=True, slots=True)
class Point:
    """A way beside the full vote. `minus_full`: difference in accuracy over all orders; `minus_full_once`: over the
    recorded one alone, as one evaluation sees it. `saved`: share of the full vote's tokens. `p50_ratio`, `p95_ratio`:
    time against the full vote's same quantile. `per_right`: generated tokens for each right answer, as a multiple of
    greedy's. `same`: how often the answer is the full vote's."""

    name: str
    is_published: bool
    accuracy: Estimate
    minus_full: Estimate
    minus_full_once: Estimate
    same: float
    n_tokens: float
    saved: Estimate
    n_started: float
    p50: float
    p95: float
    p50_ratio: Estimate
    p95_ratio: Estimate
    per_right: Estimate

    @property
    def is_equal(self) -> bool:
        """Whether neither interval leaves out that nothing is lost."""
        return self.minus_full.high >= 0 and self.minus_full_once.high >= 0


def orders(row: Row, n_orders: int) -> list[list[int]]:
    """The recorded order, and others that are drawn from the item's id."""
    indexes = list(range(len(row.candidates)))
    drawn = [Random(f"{number}:{row.id}").sample(indexes, len(indexes)) for number in range(1, n_orders)]
    return [indexes, *drawn]


def stretched(row: Row, spread: float) -> list[float] | None:
    """Lengths that differ by a log-normal factor of mean 1 and this sigma, drawn from the item's id; None for 0."""
    if not spread:
        return None
    random = Random(f"length:{spread}:{row.id}")
    factors = [random.lognormvariate(-spread * spread / 2, spread) for _ in row.candidates]
    return [max(1.0, tokens_of(row, one) * factor) for one, factor in zip(row.candidates, factors, strict=True)]


def greedy_of(rows: Sequence[Row]) -> Greedy:
    asked = [(row, row.greedy) for row in rows if row.greedy is not None]
    if len(asked) < len(rows):
        raise ValueError("an item was not asked greedily")
    right = [row.is_right(one.read) for row, one in asked]
    return Greedy(np.array(right, dtype=float), np.array([tokens_of(row, one) for row, one in asked], dtype=float))


def run_way(way: Way, rows: Sequence[Row], clock: Clock = STEPS, spread: float = 0.0, n_orders: int = N_ORDERS) -> Runs:
    cells, forms = np.empty((4, n_orders, len(rows))), np.empty((n_orders, len(rows)), dtype=object)
    for column, row in enumerate(rows):
        lengths = stretched(row, spread)
        for number, order in enumerate(orders(row, n_orders)):
            run = replayed(way, row, clock, order, lengths)
            cells[:, number, column] = row.is_right(run.answer), run.n_tokens, run.time, run.n_started
            forms[number, column] = run.answer and run.answer.form
    return Runs(way.name, *cells, forms, way.is_published)


def points(all_runs: Sequence[Runs], greedy: Greedy) -> list[Point]:
    """One of them has to be the full vote."""
    full = next(runs for runs in all_runs if runs.name == FULL)
    n_items = len(greedy.is_right)
    # The same resamples for every way: a ratio of two ways is then one of the same items.
    drawn = np.random.default_rng(0).integers(n_items, size=(N_RESAMPLES, n_items))
    return [_point(runs, full, greedy, drawn) for runs in all_runs]


def _point(runs: Runs, full: Runs, greedy: Greedy, drawn: Array) -> Point:
    right, tokens = runs.is_right.mean(0), runs.n_tokens.mean(0)
    full_right, full_tokens = full.is_right.mean(0), full.n_tokens.mean(0)

    def saved(items: Array) -> Array:
        return 1 - tokens[items].sum(-1) / full_tokens[items].sum(-1)

    def per_right(items: Array) -> Array:
        own = tokens[items].sum(-1) / right[items].sum(-1)
        return own / (greedy.n_tokens[items].sum(-1) / greedy.is_right[items].sum(-1))

    p50, p95 = np.quantile(runs.time, (0.5, 0.95))
    return Point(
        name=runs.name,
        is_published=runs.is_published,
        accuracy=_resampled(lambda items: right[items].mean(-1), drawn),
        minus_full=score_interval(list(right - full_right)),
        minus_full_once=score_interval(list(runs.is_right[0] - full.is_right[0])),
        same=float(runs.is_same(full).mean()),
        n_tokens=float(tokens.mean()),
        saved=_resampled(saved, drawn),
        n_started=float(runs.n_started.mean()),
        p50=float(p50),
        p95=float(p95),
        p50_ratio=_resampled(lambda items: _slower(runs, full, items, 0.5), drawn),
        p95_ratio=_resampled(lambda items: _slower(runs, full, items, 0.95), drawn),
        per_right=_resampled(per_right, drawn),
    )


def _slower(runs: Runs, full: Runs, items: Array, share: float) -> Array:
    own, other = (np.moveaxis(one.time[:, items], 0, -1).reshape(*items.shape[:-1], -1) for one in (runs, full))
    return np.quantile(own, share, axis=-1) / np.quantile(other, share, axis=-1)


def _resampled(statistic: Callable[[Array], Array], drawn: Array) -> Estimate:
    """Its value over the items, and the middle 95% of those over resampled items."""
    low, high = np.quantile(statistic(drawn), (0.025, 0.975))
    return Estimate(float(statistic(np.arange(drawn.shape[1]))), float(low), float(high))
