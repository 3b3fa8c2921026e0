"""`its-train sft`: parses and prints; the work is in run.py."""

import os
import sys
from pathlib import Path

import click
from rich.console import Console

from its_proxy.codesign.errors import ItsError
from its_training.files import check_writable
from its_training.progress import Stages
from its_training.quiet import quiet_libraries
from its_training.recipe import Recipe, load_recipe
from its_training.sft.metrics import PACKAGES, check_loggers
from its_training.sft.processes import Processes, check_launch, launched, take_leave


@click.command()
@click.argument("recipe_file", type=click.Path(path_type=Path), metavar="RECIPE.yaml")
@click.option("--arm", "arms", multiple=True, help="Only this arm; may be repeated.  [default: the recipe's]")
@click.option(
    "--seed", "seeds", type=int, multiple=True, help="Only this seed; may be repeated.  [default: the recipe's]"
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), help="Folder of the runs.")
@click.option("--base", default=None, help="Folder or Hub id of the base.  [default: the recipe's]")
@click.option(
    "--dataset", type=click.Path(path_type=Path), default=None, help="Prepared data.  [default: the recipe's]"
)
@click.option("--resume/--no-resume", default=True, help="Go on with a run that was stopped, or refuse to.")
@click.option("--max-steps", type=click.IntRange(min=1), default=None, help="End earlier than the recipe says.")
@click.option(
    "--log-to", type=click.Choice(list(PACKAGES)), multiple=True, help="Also log there.  [default: the recipe's]"
)
@click.option("--any-world-size", is_flag=True, help="Take another number of processes than compute.n_devices.")
@click.option("--threads", type=click.IntRange(min=1), default=1, help="CPU threads of each process.")
def command(
    recipe_file: Path,
    arms: tuple[str, ...],
    seeds: tuple[int, ...],
    out: Path,
    base: str | None,
    dataset: Path | None,
    resume: bool,
    max_steps: int | None,
    log_to: tuple[str, ...],
    any_world_size: bool,
    threads: int,
) -> None:
    """Fine-tunes the arms of a recipe; the manifest goes into every saved checkpoint.

    A run that was stopped goes on with the same command, to the same weights. In several processes:
    torchrun --standalone --nproc-per-node N $(which its-train) sft RECIPE.yaml, or accelerate launch with a file of
    training/distributed.
    """
    processes = launched()
    try:
        recipe = load_recipe(recipe_file)
        recipe = recipe.model_copy(update={"log_to": log_to}) if log_to else recipe
        check_launch(recipe.compute, processes, any_world_size=any_world_size)
        check_loggers(recipe.log_to)
        check_writable(out, "--out")
        base = base or recipe.base.model
        _settle(base, recipe, threads)
        # Imported here: they bring torch along, and `--help` should not wait for that.
        from its_training.sft.arm import read_arm
        from its_training.sft.run import Sft
        from its_training.sft.settings import check_machine

        check_machine(recipe)
        folder, names = dataset or Path(recipe.data.folder), arms or recipe.data.arms
        for name in names:  # all, before hours are spent on the first; one at a time, as traces are long
            read_arm(folder, name)
        sft = Sft(recipe, base, out, processes, Stages(_console(processes)), resume, max_steps)
        for seed in seeds or recipe.seeds:
            for name in names:
                final = sft.train(read_arm(folder, name), seed)
                if processes.is_main:
                    click.echo(final)
        take_leave()
    except ItsError as error:
        if processes.is_main:
            raise
        # The main process may have met nothing, and a launcher tells of an exit code alone.
        sys.exit(f"process {processes.rank}: {error}")


def _settle(base: str, recipe: Recipe, threads: int) -> None:
    """Sets what libraries read once, when they are imported."""
    if not Path(base).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "0")  # a base of the Hub is fetched
    if recipe.compute.parallel == "fsdp2":
        os.environ["FSDP_ACTIVATION_CHECKPOINTING"] = str(recipe.compute.activation_checkpointing).lower()
    quiet_libraries(threads)


def _console(processes: Processes) -> Console:
    return Console(quiet=not processes.is_main)
