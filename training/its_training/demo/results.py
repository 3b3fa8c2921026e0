"""What the measured cells say: the choice of the base that ships, evaluation rows for manifests, the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from its_proxy.candidates import Row, read_candidates
from its_proxy.codesign.manifest import Evaluation
from its_proxy.evaluate import as_markdown, compare, score
from its_proxy.statistics import Estimate
from its_training.demo.measure import Cell
from its_training.demo.recipe import BaseName
from its_training.files import file_sha256

BENCHMARK = "demo-word-problems"


@dataclass(frozen=True, slots=True)
class Run:
    """One cell's candidates file, and its rows."""

    file: Path
    rows: Sequence[Row]

    @classmethod
    def read(cls, file: Path) -> "Run":
        return cls(file, read_candidates(file))


Runs: TypeAlias = Mapping[Cell, Run]
"""The cells of one base on one split."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The base whose checkpoints ship, and why, in one sentence."""

    base: BaseName
    why: str


def choose(validation: Mapping[BaseName, Runs]) -> Choice:
    """`seen` if voting and co-design both show on it in every arm with intervals above 0, else `unseen`."""
    if len(validation) == 1:
        (base,) = validation
        return Choice(base, "it is the only base that was built")
    weak = [effect for effect in effects(validation["seen"]) if effect.difference.low <= 0]
    if not weak:
        return Choice(
            "seen",
            "on validation, the vote's gain over one candidate and what asking otherwise than trained costs have "
            "intervals above 0 in every arm",
        )
    missing = "; ".join(f"{effect.name} {effect.difference}" for effect in weak)
    return Choice("unseen", f"on validation, not every effect shows on `seen` with an interval above 0: {missing}")


@dataclass(frozen=True, slots=True)
class Effect:
    """A paired difference over the same problems."""

    name: str
    difference: Estimate


def effects(runs: Runs) -> list[Effect]:
    """For each arm: what voting gains over one candidate, and what asking as trained gains over asking otherwise."""
    found = []
    for cell, run in runs.items():
        if cell.is_matched:
            found.append(Effect(f"{cell.trained}: maj@8 - pass@1", score(run.rows).majority_minus_pass))
        else:
            matched = runs[Cell(cell.trained, cell.trained)]
            name = f"{cell.trained}: asked {cell.trained} - asked {cell.asked}, pass@1"
            found.append(Effect(name, compare(matched.rows, run.rows).pass_at_1))
    return found


def evaluation_rows(run: Run, seeds: Mapping[str, Any]) -> list[Evaluation]:
    """pass@1, maj@k and greedy of a cell on the test split, with intervals and the run they come from."""
    result = score(run.rows)
    metrics = {"pass@1": result.pass_at_1, f"maj@{result.k}": result.majority, "greedy": result.greedy}
    return [
        Evaluation.model_validate(
            {
                "benchmark": BENCHMARK,
                "split": "test",
                "items": result.n_items,
                "metric": metric,
                "value": round(estimate.value, 4),
                "ci95": (round(estimate.low, 4), round(estimate.high, 4)),
                "asked": result.strategy,
                "seeds": dict(seeds),
                "run": {"file": run.file.name, "sha256": file_sha256(run.file)},
            }
        )
        for metric, estimate in metrics.items()
        if estimate is not None
    ]


def tables(runs: Runs) -> str:
    """Scores, then paired differences, as Markdown."""
    effect_lines = ["| paired difference over the same problems | points [95%] |", "| --- | --- |"]
    effect_lines += [f"| {effect.name} | {effect.difference} |" for effect in effects(runs)]
    return "\n\n".join([as_markdown([score(run.rows) for run in runs.values()]), "\n".join(effect_lines)])
