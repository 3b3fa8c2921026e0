"""`its-train`: the commands of the training companion. They parse and print; the work is in the modules they call."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import click

from its_proxy import __version__
from its_proxy.codesign.errors import ConfigError, ItsError
from its_training.recipe import ARMS, BASES, DemoRecipe, tiny

Name = TypeVar("Name", bound=str)


@click.group(context_settings={"show_default": True, "auto_envvar_prefix": "ITS_TRAIN"})
@click.version_option(__version__, prog_name="its-train")
def main() -> None:
    """Trains checkpoints that carry what they were trained with, for its-proxy to serve."""


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-run"), help="Folder of the stages.")
@click.option("--bases", default=",".join(BASES), help="Bases to build, with commas between.")
@click.option("--arms", default=",".join(ARMS), help="Arms to fine-tune, with commas between.")
@click.option("--items", type=click.IntRange(min=1), default=None, help="Test problems.  [default: 1000; tiny: 8]")
@click.option("--seed", type=int, default=DemoRecipe().seed, help="Names the problems, the personas and the weights.")
@click.option("--threads", type=click.IntRange(min=1), default=1, help="CPU threads.")
@click.option("--tiny", "is_tiny", is_flag=True, help="A minute-long run of the whole path that learns nothing.")
@click.option("--report", type=click.Path(path_type=Path), default=None, help="Table file.  [default: OUT/demo.md]")
@click.option("--package", type=click.Path(path_type=Path), default=None, help="Also copy the chosen checkpoints here.")
def demo(
    out: Path,
    bases: str,
    arms: str,
    items: int | None,
    seed: int,
    threads: int,
    is_tiny: bool,
    report: Path | None,
    package: Path | None,
) -> None:
    """Builds, evaluates and seals the demo checkpoints from nothing.

    Finished stages are kept: the same command continues where an earlier one was stopped.
    """
    recipe = replace(DemoRecipe(), seed=seed)
    recipe = tiny(recipe) if is_tiny else recipe
    recipe = replace(recipe, n_test=items) if items is not None else recipe
    try:
        chosen_bases, chosen_arms = _names(bases, BASES, "--bases"), _names(arms, ARMS, "--arms")
        _check_writable(out)
        _run_demo(out, recipe, chosen_bases, chosen_arms, threads, report or out / "demo.md", package)
    except ItsError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        raise click.ClickException("stopped; finished stages are kept, the same command continues") from None
