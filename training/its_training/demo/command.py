"""`its-train demo`: parses and prints; the work is in build.py."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console

from its_proxy.codesign.errors import ConfigError
from its_training.demo.recipe import ARMS, BASES, DemoRecipe, tiny
from its_training.files import check_writable
from its_training.progress import Stages
from its_training.quiet import quiet_libraries

Name = TypeVar("Name", bound=str)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-run"), help="Folder of the stages.")
@click.option("--bases", default=",".join(BASES), help="Bases to build, with commas between.")
@click.option("--arms", default=",".join(ARMS), help="Arms to fine-tune, with commas between.")
@click.option("--items", type=click.IntRange(min=1), default=None, help="Test problems.  [default: 1000; tiny: 8]")
@click.option("--seed", type=int, default=DemoRecipe().seed, help="Names the problems, the personas and the weights.")
@click.option("--threads", type=click.IntRange(min=1), default=1, help="CPU threads.")
@click.option("--tiny", "is_tiny", is_flag=True, help="A minute-long run of the whole path that learns nothing.")
@click.option("--report", type=click.Path(path_type=Path), default=None, help="Table file.  [default: OUT/demo.md]")
@click.option("--package", type=click.Path(path_type=Path), default=None, help="Also copy the chosen checkpoints here.")
def command(
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
    chosen_bases, chosen_arms = _names(bases, BASES, "--bases"), _names(arms, ARMS, "--arms")
    check_writable(out, "--out")
    quiet_libraries(threads)
    # Imported here: it brings torch along, and `--help` should not wait for that.
    from its_training.demo.build import Demo

    run = Demo(out, recipe, Stages(Console()), threads)
    choice = run.run(chosen_bases, chosen_arms, _command(), report or out / "demo.md")
    if package is not None:
        run.package(choice.base, chosen_arms, package)
    click.echo(f"base {choice.base!r} ships: {choice.why}")


def _names(text: str, known: tuple[Name, ...], option: str) -> tuple[Name, ...]:
    """The comma-separated names, in the order of `known`; raises ConfigError for any other name."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(f"{option}: unknown name {name!r}", hint=f"known: {', '.join(known)}")
    if not names:
        raise ConfigError(f"{option}: name at least one", hint=f"known: {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _command() -> str:
    """The command that repeats this run: its options, without where it put the files."""
    given = click.get_current_context().params
    names = [name for name in ("bases", "arms", "items", "seed", "threads") if given[name] is not None]
    tiny_flag = ["--tiny"] if given["is_tiny"] else []
    return " ".join(["its-train demo", *(f"--{name} {given[name]}" for name in names), *tiny_flag])
