"""Walks a recipe through on a tiny model: data prepared, two optimizer steps of every arm, checkpoints opened.

The commands are the real ones, `its-train prepare` and `its-train sft`, in this process; only the base, the rows and
what a laptop cannot do are stand-ins, and what was changed is listed from the two recipes themselves.
"""

import io
import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import click
import yaml

from its_proxy.checkpoint import check_weights, open_checkpoint
from its_proxy.codesign.errors import ConfigError, ItsError
from its_training.demo import problems
from its_training.plan.stand_in import N_ROWS, N_STEPS, build_base, build_tokenizer, overridden, small_recipe
from its_training.prepare.command import command as prepare
from its_training.progress import Advance, Stages
from its_training.quiet import quiet_libraries
from its_training.recipe import Recipe
from its_training.sft.command import command as sft


@dataclass(frozen=True, slots=True)
class DryRun:
    """What came of a recipe: an arm's losses by its name, what was changed for it, or why it failed."""

    recipe: str
    seconds: float
    losses: dict[str, list[float]]
    overridden: list[tuple[str, Any, Any]]
    failure: str | None = None


def dry_runs(recipes: Sequence[Recipe], stages: Stages) -> list[DryRun]:
    """Each recipe, also after one that failed."""
    quiet_libraries(threads=1)
    done = []
    for recipe in recipes:
        with stages.show(recipe.name) as advance, tempfile.TemporaryDirectory(prefix="its-dry-run-") as folder:
            done.append(_dry_run(recipe, Path(folder), advance))
    return done


def _dry_run(recipe: Recipe, folder: Path, advance: Advance) -> DryRun:
    started = monotonic()
    small = small_recipe(recipe, base=folder / "base", data=folder / "data")
    losses: dict[str, list[float]] = {}
    failure = None
    try:
        with redirect_stdout(io.StringIO()):
            _prepare(small, folder)
            for n_done, arm in enumerate(small.data.arms):
                advance(n_done, len(small.data.arms))
                losses[arm] = _train(small, arm, folder)
    except ItsError as error:
        failure = str(error)
    return DryRun(recipe.name, monotonic() - started, losses, list(overridden(recipe, small)), failure)


def _prepare(small: Recipe, folder: Path) -> None:
    """The base and the arms of the small recipe, and the recipe as a file."""
    drawn = problems.draw(N_ROWS, "sft", small.seeds[0])
    rows = [
        {"query": one.query, "thoughts": one.solution, "completion": f"\\boxed{{{one.answer}}}", "answer": one.answer}
        for one in drawn
    ]
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = build_tokenizer(small.chat.template, [" ".join(row.values()) for row in rows])
    build_base(small, tokenizer, Path(small.base.model))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(small.model_dump(mode="json")), encoding="utf-8")
    options = {
        "--out": small.data.folder,
        "--map": "query=query,thoughts=thoughts,completion=completion,answer=answer",
        "--license": "apache-2.0",
        "--arms": ",".join(small.data.arms),
        "--tokenizer": small.base.model,
        "--max-length": small.chat.max_length,
    }
    _run(prepare, [source, *_flat(options), "--no-near-duplicates"])


def _train(small: Recipe, arm: str, folder: Path) -> list[float]:
    """Two steps, whose checkpoint must open as a served one does. Returns the losses; raises ConfigError."""
    options = {"--arm": arm, "--out": folder / "runs", "--max-steps": N_STEPS}
    _run(sft, [folder / "recipe.yaml", *_flat(options)])
    run = folder / "runs" / small.name / f"{arm}-seed{small.seeds[0]}"
    opened = open_checkpoint(run / "final")
    check_weights(opened)
    if opened.manifest.pair.trained_with.strategy != arm:
        raise ConfigError(f"arm {arm!r} was sealed as {opened.manifest.pair.trained_with.strategy!r}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [float(line["loss"]) for line in lines]
    if len(losses) != N_STEPS or not all(map(math.isfinite, losses)):
        raise ConfigError(f"arm {arm!r}: losses {losses} are not those of {N_STEPS} steps")
    return losses


def _flat(options: dict[str, Any]) -> list[Any]:
    return [part for option in options.items() for part in option]


def _run(command: click.Command, arguments: Sequence[object]) -> None:
    command.main([str(argument) for argument in arguments], standalone_mode=False)
