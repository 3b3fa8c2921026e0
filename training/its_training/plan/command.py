"""`its-train plan RECIPE.yaml`: what a recipe needs; with --dry-run, two real steps of it on a tiny model."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from its_proxy.codesign.errors import ConfigError
from its_training.plan.alternatives import refuse_what_cannot_fit
from its_training.plan.data import rows_of
from its_training.plan.estimate import estimate
from its_training.plan.page import document, show, show_dry_runs
from its_training.progress import Stages
from its_training.recipe import Recipe, load_recipe, revised


@click.command(context_settings={"show_default": True})
@click.argument("recipes", metavar="RECIPE.yaml...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--dataset", type=click.Path(path_type=Path), help="Prepared data set to count; else the recipe's own.")
@click.option("--devices", type=click.IntRange(min=1), help="GPUs, or processes on a cpu, instead of the recipe's.")
@click.option("--memory-gb", type=click.FloatRange(min=0, min_open=True), help="Memory of each, instead of its.")
@click.option(
    "--tokens-per-second",
    type=click.FloatRange(min=0, min_open=True),
    help="Throughput of one device, measured on yours; without one no hours are told.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON list on stdout, an object for each recipe.")
@click.option("--dry-run", is_flag=True, help="Two optimizer steps of each arm on a tiny model, without network.")
def command(
    recipes: tuple[Path, ...],
    dataset: Path | None,
    devices: int | None,
    memory_gb: float | None,
    tokens_per_second: float | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Say what RECIPE.yaml needs: memory and devices, steps, tokens, hours, disk. What cannot fit is refused.

    With --dry-run the recipe is walked through: data prepared, two steps trained by the very code of `its-train sft`,
    a checkpoint saved and opened; and what a laptop has to do differently is listed.
    """
    found = [with_options(load_recipe(path), devices, memory_gb, tokens_per_second) for path in recipes]
    console = Console(stderr=as_json)
    if dry_run:
        _rehearse(found, console, as_json)
    else:
        _plan(found, dataset, console, as_json)


def _plan(recipes: Sequence[Recipe], dataset: Path | None, console: Console, as_json: bool) -> None:
    """What cannot fit is shown too, and then refused."""
    plans = [estimate(recipe, rows_of(recipe, dataset)) for recipe in recipes]
    if as_json:
        click.echo(json.dumps([document(plan) for plan in plans], indent=1))
    else:
        for plan in plans:
            show(plan, console)
    for plan in plans:
        refuse_what_cannot_fit(plan)


def _rehearse(recipes: Sequence[Recipe], console: Console, as_json: bool) -> None:
    # Imported here: it brings torch along, and numbers alone should not wait for that.
    from its_training.plan.dry_run import dry_runs

    done = dry_runs(recipes, Stages(console))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in done], indent=1))
    else:
        show_dry_runs(done, console)
    failed = [f"{one.recipe}: {one.failure}" for one in done if one.failure is not None]
    if failed:
        raise ConfigError(f"{len(failed)} of {len(done)} dry runs failed: {'; '.join(failed)}")


def with_options(
    recipe: Recipe, devices: int | None, memory_gb: float | None, tokens_per_second: float | None
) -> Recipe:
    """The recipe as the options change it, checked anew. Raises ConfigError."""
    given = {
        "n_devices": devices,
        "device_memory_gb": memory_gb,
        "tokens_per_second_per_device": tokens_per_second,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return revised(recipe, {"compute": changes}) if changes else recipe
