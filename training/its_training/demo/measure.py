"""Asks a saved checkpoint held-out problems in this process, and keeps every candidate in a candidates file.

The engine, the reading of answers and the statistics are its-proxy's own; what is measured here is
what `its-proxy evaluate` measures through a server.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from its_proxy.candidates import CandidateRow, Row
from its_proxy.codesign.manifest import Side, VoteAdvice, recipe_of
from its_proxy.codesign.personas import taxonomy_pool
from its_proxy.codesign.strategies import rewrite
from its_proxy.outcome import generated_tokens, read_candidate
from its_proxy.upstreams.base import Body
from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_training.demo.problems import Problem
from its_training.progress import Advance


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the table: the arm `trained` one way, asked another; equal where it is asked as it was trained."""

    trained: str
    asked: str

    @property
    def is_matched(self) -> bool:
        return self.trained == self.asked

    @property
    def name(self) -> str:
        return f"{self.trained}-asked-{self.asked}"


def cells_of(arms: Sequence[str]) -> list[Cell]:
    """Every arm asked as trained; persona arms asked plain; the plain arm asked with a random persona."""
    matched = [Cell(arm, arm) for arm in arms]
    return matched + [Cell(arm, "random" if arm == "none" else "none") for arm in arms]


def measure(
    folder: Path,
    cell: Cell,
    side: Side,
    problems: Sequence[Problem],
    vote: VoteAdvice,
    seed: int,
    out: Path,
    advance: Advance,
    threads: int = 1,
) -> None:
    """Writes a candidates file of `vote.n` samples and one greedy reply for each problem; `side` says how to ask."""
    asyncio.run(_measure(folder, cell, side, problems, vote, seed, out, advance, threads))


async def _measure(
    folder: Path,
    cell: Cell,
    side: Side,
    problems: Sequence[Problem],
    vote: VoteAdvice,
    seed: int,
    out: Path,
    advance: Advance,
    threads: int,
) -> None:
    model = f"demo-{cell.trained}"
    upstream = EmbeddedUpstream("embedded", {model: folder}, threads=threads)
    recipe = recipe_of(side, taxonomy_pool())
    try:
        with out.open("w", encoding="utf-8") as file:
            for n_done, problem in enumerate(problems, start=1):
                messages = rewrite(recipe, [{"role": "user", "content": problem.query}]).messages
                body = {"model": model, "messages": messages, "max_tokens": vote.max_tokens}
                candidates, greedy = await _ask(upstream, body, vote, item_seed(seed, problem.id))
                row = Row(
                    id=problem.id,
                    query=problem.query,
                    gold=problem.answer,
                    model=model,
                    strategy=cell.asked,
                    forced=not cell.is_matched,
                    temperature=vote.temperature,
                    asked={"engine": "embedded", "n": vote.n, "top_p": vote.top_p, "seed": seed},
                    candidates=tuple(candidates),
                    greedy=greedy,
                )
                file.write(row.model_dump_json() + "\n")
                advance(n_done, len(problems))
    finally:
        await upstream.close()


def item_seed(seed: int, item_id: str) -> int:
    """As `its-proxy evaluate` seeds an item, so that the server's candidates are these very ones."""
    return int.from_bytes(blake2b(f"{seed}:{item_id}".encode(), digest_size=4).digest(), "big") >> 1


async def _ask(
    upstream: EmbeddedUpstream, body: Body, vote: VoteAdvice, seed: int
) -> tuple[list[CandidateRow], CandidateRow]:
    """All candidates and the greedy reply; asked in one breath, they share a batch and its prompt."""
    sampling = {"temperature": vote.temperature, "top_p": vote.top_p}
    bodies: list[dict[str, Any]] = [{**body, **sampling, "seed": seed + index} for index in range(vote.n)]
    bodies.append({**body, "temperature": 0, "seed": seed})
    completions = await asyncio.gather(
        *(upstream.complete(one, f"measure-{index}") for index, one in enumerate(bodies))
    )
    asked = zip(bodies, completions, strict=True)
    rows = [_candidate(index, one, completion, vote) for index, (one, completion) in enumerate(asked)]
    return rows[:-1], rows[-1].model_copy(update={"index": 0})


def _candidate(index: int, body: Body, completion: dict[str, Any], vote: VoteAdvice) -> CandidateRow:
    _, answer = read_candidate(completion, vote.answer)
    choice = completion["choices"][0]
    return CandidateRow(
        index=index,
        seed=body["seed"],
        text=choice["message"]["content"],
        answer=answer.text if answer is not None else None,
        finish_reason=choice["finish_reason"],
        completion_tokens=generated_tokens(completion),
    )
