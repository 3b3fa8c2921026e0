"""Makes what a grid still lacks: the arms, then the candidates of every cell, each a folder that is complete or absent.

OUT/arms/<arm>-s<seed>/                                   fine-tuned checkpoints (demo bases only)
OUT/cells/<split>/<arm>-s<seed>/as-<way>-p<seed>/         candidates.jsonl of one cell
OUT/grid.json                                             what there is, for `report` and `recommend`
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from its_proxy.candidates import CandidateRow, Item, Row
from its_proxy.codesign.canonical import digest
from its_proxy.codesign.manifest import recipe_of
from its_proxy.codesign.strategies import Recipe, rewrite
from its_proxy.upstreams.engine import Checkpoint, load_checkpoint
from its_proxy.upstreams.rows import Sampling
from its_proxy.voting.answers import read_answer
from its_training.demo.measure import item_seed
from its_training.files import build, is_built
from its_training.grid.cells import BASE, CANDIDATES_FILE, Cell, n_candidates, write_index
from its_training.grid.lab import Lab, open_pool, side_for, weights_sha256
from its_training.grid.sampler import Completion, sample
from its_training.grid.spec import GridSpec
from its_training.progress import Advance, Stages
from its_training.versions import versions


def cells_of(spec: GridSpec, splits: Sequence[str]) -> Iterator[Cell]:
    """All cells, the most telling first: whoever stops early has matched and one-sided ones of every training seed."""
    first, *more = spec.persona_seeds
    for seed in spec.train_seeds:
        for split in splits:
            for arm in spec.arms:
                for way in dict.fromkeys([spec.matched(arm), *spec.one_sided(arm)[:1]]):
                    yield Cell(arm, way, split, seed, first)
    if spec.base.folder is not None or spec.base.demo is not None:
        yield from (Cell(BASE, way, split, None, first) for split in splits for way in spec.asked)
    for seed in spec.train_seeds:
        for split in splits:
            for arm in spec.arms:
                yield from (Cell(arm, way, split, seed, first) for way in spec.asked)
                yield from (Cell(arm, spec.matched(arm), split, seed, other) for other in more)


@dataclass(frozen=True, slots=True)
class Runner:
    """Fills `out` with the cells of `spec`; what an earlier run finished is kept."""

    spec: GridSpec
    lab: Lab
    out: Path
    stages: Stages
    command: str

    def run(self, splits: Sequence[str]) -> None:
        """The index holds from the start what an earlier run left, whose inputs are compared when its turn comes."""
        cells = [cell for cell in dict.fromkeys(cells_of(self.spec, splits)) if not self._is_redundant(cell)]
        done = {cell for cell in cells if (self.out / cell.folder).is_dir()}
        for cell in cells:
            self._measure(cell)
            done.add(cell)
            write_index(self.out, self.spec, [one for one in cells if one in done], self.conditions())

    def conditions(self) -> dict[str, Any]:
        return {"command": self.command, "versions": versions(), "engine": "in process, fp32, prompts of one length"}

    def _is_redundant(self, cell: Cell) -> bool:
        """A plain query is the same whatever the persona seed."""
        return self.spec.is_plain(cell.asked) and cell.persona_seed != self.spec.persona_seeds[0]

    def _measure(self, cell: Cell) -> None:
        source = self.lab.base() if cell.train_seed is None else self.lab.checkpoint(cell.trained, cell.train_seed)
        assert source is not None  # cells_of asks a base only where there is one
        way = self.spec.arms[cell.asked]
        pool = open_pool(way)
        side = side_for(way, pool, cell.persona_seed)
        items = self.lab.items(cell.split)
        inputs = {
            "weights_sha256": weights_sha256(source),
            "asked": side.model_dump(mode="json"),
            "vote": self.spec.vote.model_dump(mode="json") | {"n": n_candidates(self.spec, cell)},
            "sampling_seed": self.spec.sampling_seed,
            "ids_sha256": digest([item.id for item in items]),
            "reads": self.spec.base.reads if cell.trained == BASE else "chat",
        }
        folder = self.out / cell.folder
        if is_built(folder, inputs):
            return

        def make(work: Path, advance: Advance) -> None:
            asking = Asking(self.spec, cell, recipe_of(side, pool), load_checkpoint(source))
            rows = asking.rows(items, advance)
            (work / CANDIDATES_FILE).write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")

        with self.stages.show(cell.title) as advance:
            build(folder, inputs, lambda work: make(work, advance))


@dataclass(frozen=True, slots=True)
class Asking:
    """One checkpoint asked in one way."""

    spec: GridSpec
    cell: Cell
    recipe: Recipe
    checkpoint: Checkpoint

    def rows(self, items: Sequence[Item], advance: Advance) -> list[Row]:
        """All candidates and one greedy reply of every item."""
        prompts = [self._prompt(item) for item in items]
        samplings = [self._samplings(item) for item in items]
        n_done = 0

        def on_done(n_more: int) -> None:
            nonlocal n_done
            n_done += n_more
            advance(n_done, len(items))

        drawn = sample(self.checkpoint, prompts, samplings, eos_ids=self._eos_ids(), on_done=on_done)
        return [self._row(item, prompt, texts) for item, prompt, texts in zip(items, prompts, drawn, strict=True)]

    @property
    def _is_text(self) -> bool:
        return self.cell.trained == BASE and self.spec.base.reads == "text"

    def _prompt(self, item: Item) -> tuple[int, ...]:
        messages = rewrite(self.recipe, [{"role": "user", "content": item.query}]).messages
        if self._is_text:
            text = f"{messages[-1]['content']}\n"
        else:
            text = self.checkpoint.render(messages, add_generation_prompt=True)
        return self.checkpoint.encode(text)

    def _eos_ids(self) -> frozenset[int]:
        """A base that reads plain text ends with the token that padded its documents."""
        ends = self.checkpoint.encode("<|endoftext|>") if self._is_text else ()
        return self.checkpoint.eos_ids | frozenset(ends[:1] if len(ends) == 1 else ())

    def _samplings(self, item: Item) -> list[Sampling]:
        vote, seed = self.spec.vote, item_seed(self.spec.sampling_seed, item.id)
        assert vote.temperature is not None  # the spec's own check
        assert vote.max_tokens is not None
        drawn = [
            Sampling(seed + index, vote.max_tokens, vote.temperature, vote.top_p or 1.0, vote.top_k or 0)
            for index in range(n_candidates(self.spec, self.cell))
        ]
        return [*drawn, Sampling(seed, vote.max_tokens, temperature=0.0)]

    def _row(self, item: Item, prompt: Sequence[int], drawn: Sequence[Completion]) -> Row:
        samplings = self._samplings(item)
        candidates = [
            self._candidate(index, sampling, completion)
            for index, (sampling, completion) in enumerate(zip(samplings, drawn, strict=True))
        ]
        return Row(
            id=item.id,
            query=item.query,
            gold=item.gold,
            model=self.cell.trained if self.cell.train_seed is None else f"{self.cell.trained}-s{self.cell.train_seed}",
            strategy=self.cell.asked,
            forced=self.cell.trained == BASE or self.cell.asked != self.spec.matched(self.cell.trained),
            temperature=self.spec.vote.temperature,
            asked={"engine": "in process", "prompt_tokens": len(prompt), "persona_seed": self.cell.persona_seed},
            candidates=tuple(candidates[:-1]),
            greedy=candidates[-1].model_copy(update={"index": 0}),
        )

    def _candidate(self, index: int, sampling: Sampling, completion: Completion) -> CandidateRow:
        is_valid = completion.finish_reason == "stop"
        answer = read_answer(completion.text, self.spec.vote.answer) if is_valid else None
        return CandidateRow(
            index=index,
            seed=sampling.seed,
            text=completion.text,
            answer=answer.text if answer is not None else None,
            finish_reason=completion.finish_reason,
            completion_tokens=completion.n_tokens,
            answer_kind=self.spec.vote.answer,
        )
