"""Compares pairs of answers by the equivalence workers: false merges, misses, time.

    python -m benchmarks.answer_equality      # some minutes of two cores, writes docs/results/answer-equality.md

Generated pairs (`answer_pairs.py`), and, where ITS_TEST_DATA names a folder with math500-test.jsonl, the gold answers
of MATH-500 written again (`real_answers.py`). Exits with 1 if two answers that differ were merged.
"""

import asyncio
import json
import os
import platform
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click

from benchmarks.answer_pairs import FAMILIES, pairs
from benchmarks.real_answers import perturbed, rewritten
from benchmarks.reliability.results import FOLDER, save
from its_proxy.equivalence import EquivalenceWorkers, Limits
from its_proxy.voting.answers import answer_of, same

PATIENT = Limits(n_workers=2, wait_s=60)
"""A measurement counts what the deadline of a pair costs, not how long it waited for a worker."""
REAL_FILE = "math500-test.jsonl"
_AT_A_TIME = 64
Pairs = Sequence[tuple[str, str, str]]
"""(family, first, second)"""


@dataclass
class Measured:
    """By family: how many pairs ended how; `form`: equal by normal form, without a worker."""

    verdicts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    merged: list[tuple[str, str, str]] = field(default_factory=list)
    missed: list[tuple[str, str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def n(self) -> int:
        return len(self.merged) + len(self.missed)

    def count(self, *verdicts: str, family: str | None = None) -> int:
        counters = self.verdicts.values() if family is None else [self.verdicts[family]]
        return sum(counter[verdict] for counter in counters for verdict in verdicts)

    @property
    def missed_by_form(self) -> float:
        return 1 - self.count("form") / self.n if self.n else 0.0

    @property
    def missed_with_workers(self) -> float:
        return len(self.missed) / self.n if self.n else 0.0


async def measure(drawn: Pairs) -> Measured:
    measured, started = Measured(), time.monotonic()
    async with EquivalenceWorkers(PATIENT) as workers:
        for begin in range(0, len(drawn), _AT_A_TIME):
            batch = drawn[begin : begin + _AT_A_TIME]
            for pair, verdict in zip(batch, await asyncio.gather(*(judged(workers, *p) for p in batch)), strict=True):
                measured.verdicts[pair[0]][verdict] += 1
                (measured.merged if verdict in ("form", "equal") else measured.missed).append(pair)
    measured.seconds = time.monotonic() - started
    return measured


async def judged(workers: EquivalenceWorkers, _family: str, first: str, second: str) -> str:
    answers = answer_of(first, "boxed"), answer_of(second, "boxed")
    return "form" if same(*answers) else await workers.compare(*answers)


def real_pairs(file: Path) -> tuple[Pairs, Pairs]:
    """Those that mean the same, and those that do not, of every gold answer in the file."""
    golds = list(dict.fromkeys(json.loads(line)["answer"] for line in file.read_text("utf-8").splitlines()))
    equal = [(rule, gold, text) for gold in golds for rule, text in rewritten(gold)]
    return equal, [(rule, gold, text) for gold in golds for rule, text in perturbed(gold)]


@dataclass(frozen=True)
class Both:
    """Pairs that differ, and pairs that are equal."""

    unequal: Measured
    equal: Measured

    @property
    def merged(self) -> list[tuple[str, str, str]]:
        return self.unequal.merged

    def figures(self) -> dict[str, float]:
        n = self.unequal.n + self.equal.n
        return {
            "unequal pairs": self.unequal.n,
            "false merges": len(self.merged),
            "equal pairs": self.equal.n,
            "missed by normal form (%)": round(100 * self.equal.missed_by_form, 2),
            "missed with workers (%)": round(100 * self.equal.missed_with_workers, 2),
            "killed at the deadline": self.unequal.count("timeout") + self.equal.count("timeout"),
            "per pair (ms)": round(1000 * (self.unequal.seconds + self.equal.seconds) / max(1, n), 2),
        }


def measured(equal: Pairs, unequal: Pairs) -> Both:
    return Both(asyncio.run(measure(unequal)), asyncio.run(measure(equal)))


def page(command: str, generated: Both, real: Both | None) -> str:
    return f"""# Answers that mean the same

Command: `{command}`. {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}, Python
{platform.python_version()}, sympy {version("sympy")}. {PATIENT.n_workers} workers under their own limits:
{PATIENT.pair_s * 1000:.0f} ms a pair, then it counts as unequal. A merge is false where two answers that differ were
found equal.

## Generated pairs

Equal and different by construction (`benchmarks/answer_pairs.py`); a pair that differs is mostly a near miss.

{told(generated)}

| family | unequal pairs | merged | equal pairs | missed by form | missed with workers |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(row(family.name, generated) for family in FAMILIES)}

Pairs that differ in their unit alone are not among them: normal forms drop units, by design. Dates and words are never
read as expressions, so equal dates in two formats stay apart.

## Real answers

{real_part(real)}"""


def real_part(real: Both | None) -> str:
    if real is None:
        return "Not measured: ITS_TEST_DATA named no folder with MATH-500.\n"
    return f"""The gold answers of MATH-500, each written again by mechanical rules so that it means the same, and
changed so that it does not (`benchmarks/real_answers.py`). Here, too, no pair differs in its unit alone.

{told(real)}

| written again by | equal pairs | missed by form | missed with workers |
| --- | --- | --- | --- |
{chr(10).join(equal_row(rule, real.equal) for rule in real.equal.verdicts)}

| changed in | unequal pairs | merged |
| --- | --- | --- |
{chr(10).join(f"| {r} | {sum(c.values()):,} | {c['form'] + c['equal']} |" for r, c in real.unequal.verdicts.items())}
"""


def told(both: Both) -> str:
    figures = both.figures()
    return (
        f"**False merges: {figures['false merges']} of {figures['unequal pairs']:,}.** Missed of "
        f"{figures['equal pairs']:,} equal pairs: {figures['missed by normal form (%)']:.1f}% by normal form alone,\n"
        f"{figures['missed with workers (%)']:.1f}% with the workers. Killed at the deadline: "
        f"{figures['killed at the deadline']}. Per pair, normal forms included: {figures['per pair (ms)']:.1f} ms."
    )


def row(family: str, both: Both) -> str:
    counter = both.unequal.verdicts[family]
    merged = both.unequal.count("form", "equal", family=family)
    return f"| {family} | {sum(counter.values()):,} | {merged} {equal_row('', both.equal, family)[3:]}"


def equal_row(rule: str, equal: Measured, family: str | None = None) -> str:
    n = sum(equal.verdicts[family or rule].values())
    by_form = n - equal.count("form", family=family or rule)
    missed = by_form - equal.count("equal", family=family or rule)
    return f"| {rule} | {n:,} | {share(by_form, n)} | {share(missed, n)} |"


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else ""


@click.command()
@click.option(
    "--pairs", "n", type=click.IntRange(len(FAMILIES)), default=100_000, help="Unequal pairs, and equal ones."
)
@click.option("--seed", type=int, default=6, help="Of the pairs.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("docs/results/answer-equality.md"), help="The page."
)
@click.option("--results", type=click.Path(path_type=Path), default=FOLDER, help="Folder of equality.json.")
def main(n: int, seed: int, out: Path, results: Path) -> None:
    """Measure, write the page and the result, and fail on a false merge."""
    command = f"python -m benchmarks.answer_equality --pairs {n} --seed {seed}"
    generated = measured(pairs(seed, n, are_equal=True), pairs(seed, n, are_equal=False))
    file = Path(os.environ.get("ITS_TEST_DATA", "")) / REAL_FILE
    real = measured(*real_pairs(file)) if file.is_file() else None
    out.write_text(page(command, generated, real), "utf-8")
    parts = {"generated": generated} | ({"MATH-500": real} if real is not None else {})
    merged = [pair for both in parts.values() for pair in both.merged]
    figures = {f"{part}: {name}": value for part, both in parts.items() for name, value in both.figures().items()}
    conditions = {"sympy": version("sympy"), "workers": PATIENT.n_workers, "deadline of a pair (ms)": 300}
    save(
        "equality",
        figures,
        passed=not merged and generated.unequal.n >= n,
        conditions=conditions,
        goal="Of 100,000 generated pairs that differ, and of changed real answers, none is taken for equal.",
        command=command,
        folder=results,
    )
    for part, both in parts.items():
        click.echo(f"{part}: {told(both)}")
    for pair in merged[:50]:
        click.echo(f"merged: {pair}", err=True)
    sys.exit(1 if merged else 0)


if __name__ == "__main__":
    main()
