"""Recorded candidates: 32 of every item without their texts, so that a replay needs no model.

    rows = read(RECORDED / "demo-random.jsonl.gz")

A file holds how the model was asked in its first line, then a line an item. Candidate k had the seed of its item
plus k, as `its-proxy evaluate` draws it from the base seed and the item's id.
"""

import gzip
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.vllm_vote.servers import DEMO, start_embedded
from its_proxy.candidates import CandidateRow, Item, Row, read_candidates
from its_proxy.collect import collect

RECORDED = Path(__file__).parents[2] / "docs/results/cheaper-votes"
N = 32
SEED = 0
AT_ONCE = 8
"""Items that are asked side by side: the small models cost a step, hardly a row."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A model and how it is asked; `strategy` None: as its manifest says."""

    name: str
    model: str
    strategy: str | None
    title: str

    @property
    def file(self) -> Path:
        return RECORDED / f"{self.name}.jsonl.gz"


WORKLOADS = (
    Workload("matched", "demo-random", None, "`demo-random` asked as its manifest says"),
    # Not a way to serve anything: it is where candidates disagree more, as they do on harder questions.
    Workload("harder", "demo-dissimilar", "none", "`demo-dissimilar` asked against its manifest, without personas"),
)


async def record(items: Sequence[Item], keep: Path) -> None:
    """Asks the embedded engine what `keep` does not hold yet, then packs it."""
    keep.mkdir(parents=True, exist_ok=True)
    async with _embedded(keep) as url:
        for workload in WORKLOADS:
            out = keep / f"{workload.name}.jsonl"
            is_forced = workload.strategy is not None
            await collect(
                url, workload.model, items, out, n=N, strategy=workload.strategy, force=is_forced, seed=SEED,
                concurrency=AT_ONCE,
            )  # fmt: skip
            pack(read_candidates(out), workload.file)


@asynccontextmanager
async def _embedded(keep: Path) -> AsyncIterator[str]:
    config = keep / "embedded.yaml"
    models = {workload.model: {"checkpoint": str(DEMO / workload.model)} for workload in WORKLOADS}
    config.write_text(yaml.safe_dump({"models": models, "max_n": N, "max_queue": N * AT_ONCE}))
    async with start_embedded("--config", config) as url:
        yield url


def pack(rows: Sequence[Row], file: Path) -> None:
    """Writes what a replay needs of these rows; the same bytes for the same rows."""
    first = rows[0]
    head = first.model_dump(include={"model", "strategy", "forced", "temperature", "pair_id", "date", "asked"})
    kind = first.candidates[0].answer_kind
    lines = [head | {"answer_kind": kind}, *(_packed(row) for row in sorted(rows, key=lambda row: row.id))]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    file.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def read(file: Path, limit: int | None = None) -> list[Row]:
    """The rows as `its_proxy.candidates` knows them, their texts and queries empty."""
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    head = json.loads(lines[0])
    kind = head.pop("answer_kind")
    return [_row(head, kind, json.loads(line)) for line in lines[1:][:limit]]


def _packed(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "gold": row.gold,
        "seed": row.candidates[0].seed,
        "candidates": [_short(candidate) for candidate in row.candidates],
        "greedy": _short(row.greedy) if row.greedy is not None else None,
    }


def _short(candidate: CandidateRow) -> list[Any]:
    """Answer and generated tokens, and how it ended unless that was by itself."""
    short = [candidate.answer, candidate.completion_tokens]
    return short if candidate.finish_reason == "stop" else [*short, candidate.finish_reason]


def _row(head: Mapping[str, Any], kind: str, packed: Mapping[str, Any]) -> Row:
    greedy, seed = packed["greedy"], packed["seed"]
    candidates = [_candidate(index, seed, kind, short) for index, short in enumerate(packed["candidates"])]
    return Row.model_validate(
        {
            **head,
            "id": packed["id"],
            "query": "",
            "gold": packed["gold"],
            "candidates": candidates,
            "greedy": _candidate(0, seed, kind, greedy) if greedy is not None else None,
        }
    )


def _candidate(index: int, seed: int | None, kind: str, short: Sequence[Any]) -> dict[str, Any]:
    answer, n_tokens, *ended = short
    return {
        "index": index,
        "seed": None if seed is None else seed + index,
        "text": None,
        "answer": answer,
        "finish_reason": ended[0] if ended else "stop",
        "completion_tokens": n_tokens,
        "answer_kind": kind,
    }
