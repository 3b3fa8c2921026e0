"""Compares generated pairs of answers by the equivalence workers: false merges, misses, time.

    python -m benchmarks.answer_equality      # some minutes of two cores, writes docs/results/answer-equality.md

Exits with 1 if two answers that differ were merged.
"""

import asyncio
import os
import platform
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click

from benchmarks.answer_pairs import FAMILIES, pairs
from its_proxy.equivalence import EquivalenceWorkers, Limits
from its_proxy.voting.answers import answer_of, same

PATIENT = Limits(n_workers=2, wait_s=60)
"""A measurement counts what the deadline of a pair costs, not how long it waited for a worker."""


@dataclass
class Measured:
    """By family: how many pairs ended how; `form`: equal by normal form, without a worker."""

    verdicts: dict[str, Counter[str]] = field(default_factory=lambda: {family.name: Counter() for family in FAMILIES})
    merged: list[tuple[str, str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, *verdicts: str, family: str | None = None) -> int:
        counters = self.verdicts.values() if family is None else [self.verdicts[family]]
        return sum(counter[verdict] for counter in counters for verdict in verdicts)


async def measure(seed: int, n: int, *, are_equal: bool) -> Measured:
    measured, started = Measured(), time.monotonic()
    async with EquivalenceWorkers(PATIENT) as workers:
        drawn = pairs(seed, n, are_equal=are_equal)
        for begin in range(0, n, PATIENT.max_pending):
            batch = drawn[begin : begin + PATIENT.max_pending]
            for pair, verdict in zip(batch, await asyncio.gather(*(judged(workers, *p) for p in batch)), strict=True):
                measured.verdicts[pair[0]][verdict] += 1
                if verdict in ("form", "equal"):
                    measured.merged.append(pair)
    measured.seconds = time.monotonic() - started
    return measured


async def judged(workers: EquivalenceWorkers, _family: str, first: str, second: str) -> str:
    answers = answer_of(first, "boxed"), answer_of(second, "boxed")
    return "form" if same(*answers) else await workers.compare(*answers)


def page(unequal: Measured, equal: Measured, n: int, seed: int) -> str:
    rows = [row(family.name, unequal, equal) for family in FAMILIES]
    by_form, with_workers = n - equal.count("form"), n - len(equal.merged)
    n_killed = f"{unequal.count('timeout')} and {equal.count('timeout')}"
    return f"""# Answers that mean the same

Command: `python -m benchmarks.answer_equality --pairs {n} --seed {seed}`. {datetime.now(UTC):%Y-%m-%d},
{os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}, Python {platform.python_version()}, sympy {version("sympy")}.
{n:,} pairs that differ and {n:,} pairs that are equal, both by construction (`benchmarks/answer_pairs.py`), compared by
{PATIENT.n_workers} workers under their own limits: {PATIENT.pair_s * 1000:.0f} ms a pair.

**False merges: {len(unequal.merged)} of {n:,}.** Missed equal pairs: {share(by_form, n)} by normal form alone,
{share(with_workers, n)} with the workers. Killed at the deadline: {n_killed}.
Per pair, normal forms included: {1000 * unequal.seconds / n:.1f} and {1000 * equal.seconds / n:.1f} ms.

| family | unequal pairs | merged | equal pairs | missed by form | missed with workers |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

Pairs that differ in their unit alone are not among them: normal forms drop units, by design. Dates and words are never
read as expressions, so equal dates in two formats stay apart.
"""


def row(family: str, unequal: Measured, equal: Measured) -> str:
    n_unequal, n_equal = (sum(measured.verdicts[family].values()) for measured in (unequal, equal))
    by_form = n_equal - equal.count("form", family=family)
    missed = by_form - equal.count("equal", family=family)
    merged = unequal.count("form", "equal", family=family)
    return (
        f"| {family} | {n_unequal:,} | {merged} | {n_equal:,} | {share(by_form, n_equal)} | {share(missed, n_equal)} |"
    )


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%"


@click.command(context_settings={"show_default": True})
@click.option(
    "--pairs", "n", type=click.IntRange(len(FAMILIES)), default=100_000, help="Unequal pairs, and equal ones."
)
@click.option("--seed", type=int, default=6, help="Of the pairs.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("docs/results/answer-equality.md"), help="The page."
)
def main(n: int, seed: int, out: Path) -> None:
    """Measure, write the page, and fail on a false merge."""
    unequal = asyncio.run(measure(seed, n, are_equal=False))
    equal = asyncio.run(measure(seed, n, are_equal=True))
    out.write_text(page(unequal, equal, n, seed), "utf-8")
    click.echo(f"{len(unequal.merged)} false merges of {n}; {len(equal.merged)} of {n} equal pairs found; {out}")
    for pair in unequal.merged[:20]:
        click.echo(f"merged: {pair}", err=True)
    sys.exit(1 if unequal.merged else 0)


if __name__ == "__main__":
    main()
