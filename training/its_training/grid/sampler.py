"""Draws completions of thousands of prompts from a small model in this process, prompts of one length together.

Equal lengths need no padding: a batch is read once, its cache is repeated for every candidate, and rows that have
ended leave it. A row's draws follow from its seed alone, as in the embedded engine, so both draw the same candidates
but for the rounding of larger matrices. About six times as fast as asking the engine one query after the other.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from its_proxy.upstreams.engine import Checkpoint, Columns, choose_tokens
from its_proxy.upstreams.rows import Draws, FinishReason, Sampling
from its_training.grid.cache import roomy_cache

if TYPE_CHECKING:
    from torch import Tensor

MAX_ROWS = 384
"""Of one batch: more are hardly faster and need more memory."""
COMPACT_BELOW = 0.85
"""Copying the cache costs about as much as carrying a few rows that have ended."""


@dataclass(frozen=True, slots=True)
class Completion:
    """`token_ids` without the end token, which `n_tokens` counts."""

    text: str
    finish_reason: FinishReason
    n_tokens: int


def sample(
    checkpoint: Checkpoint,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sequence[Sampling]],
    *,
    eos_ids: frozenset[int] | None = None,
    on_done: Callable[[int], None] = lambda n_prompts: None,
) -> list[list[Completion]]:
    """For each prompt, a non-empty list of token ids, one completion for each of its samplings.

    All prompts have as many samplings. `eos_ids` end a completion, those of the checkpoint if None; `on_done` is told
    how many more prompts are finished.
    """
    import torch

    ends = checkpoint.eos_ids if eos_ids is None else eos_ids
    completions: list[list[Completion]] = [[] for _ in prompts]
    with torch.inference_mode():
        for places in _batches(prompts, len(samplings[0]) if samplings else 1):
            rows = [sampling for place in places for sampling in samplings[place]]
            drawn = _sample_batch(checkpoint, [prompts[place] for place in places], rows, ends)
            per_prompt = len(rows) // len(places)
            for n, place in enumerate(places):
                completions[place] = drawn[n * per_prompt : (n + 1) * per_prompt]
            on_done(len(places))
    return completions


def _batches(prompts: Sequence[Sequence[int]], rows_per_prompt: int) -> Iterator[list[int]]:
    """Places of prompts of equal length, as many as a batch holds."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        by_length[len(prompt)].append(place)
    size = max(1, MAX_ROWS // rows_per_prompt)
    for _, places in sorted(by_length.items()):
        for start in range(0, len(places), size):
            yield places[start : start + size]


@dataclass(slots=True)
class _Row:
    sampling: Sampling
    draws: Draws
    token_ids: list[int]
    finish_reason: FinishReason | None = None

    def take(self, token_id: int, eos_ids: frozenset[int]) -> None:
        self.token_ids.append(token_id)
        if token_id in eos_ids:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.sampling.max_tokens:
            self.finish_reason = "length"


def _sample_batch(
    checkpoint: Checkpoint, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling], eos_ids: frozenset[int]
) -> list[Completion]:
    import torch

    rows = [_Row(sampling, Draws(sampling.seed), []) for sampling in samplings]
    cache = roomy_cache(checkpoint.new_cache())
    logits = checkpoint.forward(torch.tensor(prompts), cache)[:, -1]
    n_each = len(rows) // len(prompts)
    cache.batch_repeat_interleave(n_each)
    _decode(checkpoint, cache, logits.repeat_interleave(n_each, 0), rows, eos_ids)
    return [_completion(checkpoint, row, eos_ids) for row in rows]


def _decode(checkpoint: Checkpoint, cache: Any, logits: "Tensor", rows: list[_Row], eos_ids: frozenset[int]) -> None:
    """Takes steps until every row has ended."""
    import torch

    columns = Columns([row.sampling for row in rows], checkpoint.vocab_size)
    while True:
        token_ids = choose_tokens(logits, columns, [row.draws.next() for row in rows])
        for row, token_id in zip(rows, token_ids.tolist(), strict=True):
            if row.finish_reason is None:
                row.take(token_id, eos_ids)
        live = [n for n, row in enumerate(rows) if row.finish_reason is None]
        if not live:
            return
        if len(live) < COMPACT_BELOW * len(rows):
            kept = torch.tensor(live)
            cache.batch_select_indices(kept)
            token_ids, rows = token_ids[kept], [rows[n] for n in live]
            columns = Columns([row.sampling for row in rows], checkpoint.vocab_size)
        logits = checkpoint.forward(token_ids[:, None], cache)[:, -1]


def _completion(checkpoint: Checkpoint, row: _Row, eos_ids: frozenset[int]) -> Completion:
    assert row.finish_reason is not None  # _decode goes on until then
    shown = row.token_ids[:-1] if row.token_ids[-1] in eos_ids else row.token_ids
    return Completion(checkpoint.decode(shown), row.finish_reason, len(row.token_ids))
