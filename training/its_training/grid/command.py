"""`its-train grid run | report | recommend`: parses and prints; the work is in the modules beside this one."""

from pathlib import Path

import click
from rich.console import Console

from its_training.files import check_writable
from its_training.progress import Stages
from its_training.quiet import quiet_libraries

_folder = click.argument("folder", type=click.Path(path_type=Path), metavar="GRID")
_split = click.Choice(["validation", "test"])


@click.group()
def command() -> None:
    """Every arm asked every way, with intervals over training seeds, persona seeds and items."""


@command.command()
@click.argument("spec_file", type=click.Path(path_type=Path), metavar="GRID.yaml")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the grid; a second run goes on.")
@click.option("--split", "splits", type=_split, multiple=True, help="Only this split.  [default: both]")
@click.option("--threads", type=click.IntRange(min=1), default=1, help="CPU threads.")
def run(spec_file: Path, out: Path, splits: tuple[str, ...], threads: int) -> None:
    """Train the arms that are missing, and ask every cell that is missing."""
    from its_training.grid.spec import load_spec

    spec = load_spec(spec_file)
    check_writable(out, "--out")
    quiet_libraries(threads)
    # Imported here: they bring torch along, and `--help` should not wait for that.
    from its_training.demo.recipe import DemoRecipe
    from its_training.grid.lab import DemoLab, FolderLab
    from its_training.grid.run import Runner

    stages = Stages(Console())
    lab = DemoLab(spec, out, stages, DemoRecipe()) if spec.base.demo is not None else FolderLab(spec)
    Runner(spec, lab, out, stages, f"its-train grid run {spec_file}").run(splits or ("validation", "test"))
