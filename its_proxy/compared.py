"""Answers in candidates files that are written differently, compared by worker processes: rows in, rows out.

    new, old = compared(new_rows, old_rows)
    new[0].vote().answer, how_compared(new)

The verdicts stay with the rows, so every number after that is computed from one table, whoever asks and how often.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from math import inf
from typing import Any

from its_proxy.candidates import Row
from its_proxy.equivalence import Comparer, EquivalenceWorkers, Limits
from its_proxy.equivalence.comparisons import OFF

PATIENT = Limits(
    n_workers=max(1, min(4, os.cpu_count() or 1)),
    # Longer than the second of processor time that a worker gives a pair: a busy machine finds what an idle one does.
    pair_s=30,
    wait_s=inf,
    max_pending=1 << 20,
    max_cached=1 << 20,
    max_forms=1 << 10,
)
_AT_A_TIME = 16


def compared(*files: Sequence[Row], is_off: bool = False) -> tuple[list[Row], ...]:
    """Each file's rows with the verdicts on their answers. Not to be called inside an event loop."""
    if is_off:
        return tuple([row.with_comparisons(OFF) for row in rows] for rows in files)
    return asyncio.run(_compared(files))


async def _compared(files: Sequence[Sequence[Row]]) -> tuple[list[Row], ...]:
    async with EquivalenceWorkers(PATIENT) as workers:
        return tuple([await compare_rows(rows, workers) for rows in files])


async def compare_rows(rows: Sequence[Row], comparer: Comparer) -> list[Row]:
    """The gold answer, the greedy one and those of all candidates, an item at a time."""
    gate = asyncio.Semaphore(_AT_A_TIME)

    async def compare(row: Row) -> Row:
        async with gate:
            return row.with_comparisons(await comparer.compare_all(row.answers, inf))

    return list(await asyncio.gather(*map(compare, rows)))


def how_compared(rows: Sequence[Row]) -> dict[str, Any]:
    """For a run file: by whom, and how many pairs of forms of one item came to what."""
    reason = next((row.comparisons.by_form_because for row in rows if row.comparisons.by_form_because), None)
    if reason is not None:
        return {"by": "form", "reason": reason}
    counts = sum((Counter(row.comparisons.counts) for row in rows), Counter[str]())
    return {"by": "workers", "sympy": version("sympy"), "pairs": dict(sorted(counts.items()))}


def as_sentence(rows: Sequence[Row]) -> str:
    """The same for people."""
    how = how_compared(rows)
    if how["by"] == "form":
        return f"Answers are equal by normal form alone: {how['reason']}."
    pairs = ", ".join(f"{n} {verdict}" for verdict, n in how["pairs"].items())
    told = f"of pairs that normal forms leave open: {pairs}" if pairs else "normal forms left no pair open"
    return f"Answers are equal by normal form or by proof (sympy {how['sympy']}); {told}."
