"""Prepares the matched arms: the same problems in the same order, only the user's text differs by strategy.

Rewriting is `its_proxy.codesign`'s, so a training row holds the very messages that the proxy sends.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from its_proxy.codesign.canonical import digest
from its_proxy.codesign.manifest import Personas, Side, recipe_of
from its_proxy.codesign.personas import Pool, taxonomy_pool
from its_proxy.codesign.strategies import DEFAULT_TEMPLATE
from its_training.demo.problems import Problem
from its_training.demo.tokenizer import CHAT_TEMPLATE
from its_training.prepare.arms import TEMPLATE_GENERATOR, Arm
from its_training.prepare.layouts import Record

ROWS_FILE, SIDECAR_FILE = "rows.jsonl", "dataset.json"


@dataclass(frozen=True, slots=True)
class Dataset:
    """An arm's rows as written. `ids_sha256` is equal in matched arms, `sha256` is the file's own."""

    rows: tuple[dict[str, Any], ...]
    sha256: str
    ids_sha256: str


def side_of(strategy: str, seed: int) -> Side:
    """What a demo arm is trained and served with: template personas, our ChatML template, no system prompt."""
    personas = Personas(source="taxonomy", sha256=taxonomy_pool().sha256, domains="taxonomy/1")
    return Side(
        strategy=strategy,
        version=1,
        template=DEFAULT_TEMPLATE,
        turns="all",
        # A plain arm names no personas: nothing of theirs may change its pair id.
        personas=None if strategy == "none" else personas,
        system_prompt=None,
        chat_template_sha256=sha256(CHAT_TEMPLATE.encode()).hexdigest(),
        chat_template_kwargs={},
        seed=seed,
    )


def training_row(problem: Problem, side: Side, pool: Pool | None = None) -> dict[str, Any]:
    """One row: equal in all arms but for the user message and `persona`; template personas unless there is a pool."""
    arm = Arm(side.strategy, side, recipe_of(side, pool or taxonomy_pool()), _generator(side))
    record = Record(problem.id, problem.query, problem.solution, answer=problem.answer)
    source = {"dataset": "its-training word problems", "split": problem.split, "license": "apache-2.0"}
    return arm.row(record, problem.solution, source)


def _generator(side: Side) -> str:
    is_pool = side.personas is not None and side.personas.source == "pool"
    return f"pool {side.personas.file}" if is_pool and side.personas else TEMPLATE_GENERATOR


def prepare(problems: Sequence[Problem], side: Side, folder: Path, pool: Pool | None = None) -> Dataset:
    """Writes the arm's `rows.jsonl` and its sidecar `dataset.json` into `folder`."""
    rows = tuple(training_row(problem, side, pool) for problem in problems)
    data = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()
    dataset = Dataset(rows, sha256(data).hexdigest(), digest([row["id"] for row in rows]))
    sidecar = {
        "rows": len(rows),
        "sha256": dataset.sha256,
        "ids_sha256": dataset.ids_sha256,
        "strategy": side.strategy,
        "seed": side.seed,
        "personas_sha256": side.personas.sha256 if side.personas else None,
    }
    (folder / ROWS_FILE).write_bytes(data)
    (folder / SIDECAR_FILE).write_text(json.dumps(sidecar, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return dataset
