"""Writes small grids whose truth is known: every cell's accuracy is given, candidates are drawn from a seed."""

import json
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from its_proxy.candidates import CandidateRow, Row
from its_training.grid.cells import Cell, Grid, read_grid, write_index
from its_training.grid.spec import GridSpec

ARMS = {
    "none": {"strategy": "none"},
    "similar": {"strategy": "similar"},
    "dissimilar": {"strategy": "dissimilar"},
    "random": {"strategy": "random"},
    "mixed": {"strategy": "mixed", "served_as": "random"},
    "filler": {"strategy": "filler"},
}


def spec(**changes) -> GridSpec:
    document = {
        "name": "small",
        "base": {"name": "b", "checkpoints": "{arm}-{seed}"},
        "arms": ARMS,
        "asked": ["none", "similar", "dissimilar", "random"],
        "train_seeds": [1, 2, 3],
        "persona_seeds": [1],
        "validation": {"n": 200},
        "test": {"n": 200},
        "vote": {"n": 8, "temperature": 0.8, "max_tokens": 96},
        "ensemble": {"members": ["similar", "dissimilar", "random"], "n": 8},
    }
    return GridSpec.model_validate({**document, **changes})


def row(item: int, accuracy: float, *, prompt_tokens: int = 40, tokens: int = 10, seed: str = "", n: int = 8) -> Row:
    """n candidates, each right with the item's own chance around `accuracy`."""
    chance = random.Random(f"{seed}|{item}")
    ease = min(1.0, max(0.0, accuracy + random.Random(item).uniform(-0.2, 0.2)))
    answers = ["1" if chance.random() < ease else str(chance.randint(2, 9)) for _ in range(n + 1)]
    drawn = [
        CandidateRow(index=index, seed=index, text=f"\\boxed{{{answer}}}", answer=answer, finish_reason="stop",
                     completion_tokens=tokens)
        for index, answer in enumerate(answers)
    ]  # fmt: skip
    return Row(
        id=f"i{item}", query="?", gold="1", model="m", strategy="s", temperature=0.8,
        asked={"prompt_tokens": prompt_tokens}, candidates=tuple(drawn[:n]), greedy=drawn[n],
    )  # fmt: skip


def write_grid(
    folder: Path,
    grid_spec: GridSpec,
    accuracies: dict[tuple[str, str], float],
    *,
    splits=("validation", "test"),
    prompt_tokens: dict[str, int] | None = None,
    n_items: int = 200,
    persona_seeds: Sequence[int] = (1,),
) -> Grid:
    """A cell for each (arm, way) in `accuracies`, on each split, training seed and persona seed."""
    cells = []
    for (trained, asked), accuracy in accuracies.items():
        for split in splits:
            train_seeds = grid_spec.train_seeds if trained != "base" else [None]
            for train_seed, persona_seed in product(train_seeds, persona_seeds):
                cell = Cell(trained, asked, split, train_seed, persona_seed)
                file = folder / cell.folder / "candidates.jsonl"
                file.parent.mkdir(parents=True)
                n_prompt = (prompt_tokens or {}).get(asked, 40)
                n = grid_spec.n_candidates(trained, asked, split, cell.persona_seed)
                rows = [row(k, accuracy, prompt_tokens=n_prompt, seed=cell.title, n=n) for k in range(n_items)]
                file.write_text("".join(one.model_dump_json() + "\n" for one in rows), "utf-8")
                cells.append(cell)
    write_index(folder, grid_spec, cells, {"command": "test"})
    assert json.loads((folder / "grid.json").read_text())["cells"]
    return read_grid(folder)
