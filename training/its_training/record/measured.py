"""Candidates files -> the evaluation rows of a manifest: each number with its interval, conditions and run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from its_proxy.candidates import Row, read_candidates
from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import Evaluation
from its_proxy.evaluate import score
from its_proxy.statistics import Estimate, clustered_interval
from its_training.files import file_sha256

_HINT = "--evaluation BENCHMARK:SPLIT=FILE, such as gsm8k:test=candidates.jsonl"


@dataclass(frozen=True, slots=True)
class Measurement:
    """A candidates file, and what its items are."""

    benchmark: str
    split: str
    file: Path
    rows: tuple[Row, ...]

    @property
    def queries(self) -> tuple[str, ...]:
        return tuple(row.query for row in self.rows)


def read_measurement(argument: str) -> Measurement:
    """`BENCHMARK:SPLIT=FILE`. Raises ConfigError."""
    what, equals, name = argument.partition("=")
    benchmark, colon, split = what.partition(":")
    if not (equals and colon and benchmark and split and name):
        raise ConfigError(f"--evaluation {argument}: which benchmark and split is it?", hint=_HINT)
    rows = tuple(read_candidates(Path(name)))
    if not rows:
        raise ConfigError(f"{name} holds no candidates", hint=_HINT)
    if unlabelled := sum(row.gold is None for row in rows):
        raise ConfigError(f"{name}: {unlabelled} of {len(rows)} items have no gold answer", hint="no score without one")
    return Measurement(benchmark, split, Path(name), rows)


def evaluation_rows(measurement: Measurement, pair_id: str, seeds: Mapping[str, Any]) -> list[Evaluation]:
    """pass@1, maj@k, greedy and the votes' agreement, as far as they were asked for.

    Raises ConfigError for another pair's candidates."""
    for row in measurement.rows:
        if row.pair_id is not None and row.pair_id != pair_id:
            raise ConfigError(
                f"{measurement.file} holds candidates of pair {row.pair_id[:8]}, this checkpoint's is {pair_id[:8]}",
                hint="each checkpoint is scored by its own candidates",
            )
    result = score(measurement.rows)
    metrics = {
        "pass@1": result.pass_at_1,
        f"maj@{result.k}": result.majority,
        "greedy": result.greedy,
        # What votes are held against while they are served: its_proxy/evaluated.py.
        "agreement": _agreement(measurement.rows),
    }
    conditions = {
        "benchmark": measurement.benchmark,
        "split": measurement.split,
        "items": result.n_items,
        "asked": result.strategy,
        **({"forced": True} if result.is_forced else {}),
        "temperature": result.temperature,
        "model": result.model,
        "seeds": {**seeds, "sampling": measurement.rows[0].asked.get("seed")},
        "run": {"file": measurement.file.name, "sha256": file_sha256(measurement.file)},
    }
    return [
        Evaluation.model_validate(
            {
                **conditions,
                "metric": metric,
                "value": round(estimate.value, 4),
                "ci95": (round(estimate.low, 4), round(estimate.high, 4)),
            }
        )
        for metric, estimate in metrics.items()
        if estimate is not None
    ]


def _agreement(rows: Sequence[Row]) -> Estimate | None:
    """Of the items that somebody answered, as a server counts it."""
    votes = [row.vote() for row in rows]
    agreements = [vote.agreement for vote in votes if vote.winner is not None]
    return clustered_interval(agreements) if agreements else None
