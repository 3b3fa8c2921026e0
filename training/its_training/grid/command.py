"""`its-train grid run | report | recommend`: parses and prints; the work is in the modules beside this one."""

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from its_training.files import check_writable
from its_training.progress import Stages
from its_training.quiet import quiet_libraries

_folder = click.argument("folder", type=click.Path(path_type=Path), metavar="GRID")
_metric = click.Choice(["pass@1", "majority", "greedy"])
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
    from its_training.grid.lab import lab_of
    from its_training.grid.run import Runner

    stages = Stages(Console())
    runner = Runner(spec, lab_of(spec, out, stages, DemoRecipe()), out, stages, f"its-train grid run {spec_file}")
    runner.run(splits or ("validation", "test"))


@command.command()
@_folder
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Page.  [default: GRID/NAME.md]")
@click.option(
    "--metric", type=click.Choice(["pass@1", "majority", "greedy"]), default="pass@1", help="Of the heat map."
)
def report(folder: Path, out: Path | None, metric: str) -> None:
    """Write the page (Markdown) and the heat map (PNG, SVG) of what was measured."""
    from datetime import UTC, datetime

    from its_training.grid.cells import read_grid
    from its_training.grid.page import page, table
    from its_training.grid.picture import draw
    from its_training.grid.values import greedy, majority, pass_at_1

    grid = read_grid(folder)
    target = out or folder / f"{grid.spec.name}.md"
    found = table(grid, "test", {"pass@1": pass_at_1, "majority": majority, "greedy": greedy}[metric])
    title = f"{grid.spec.name}: {metric} on {grid.spec.test.n:,} test problems, 95% intervals"
    matched = {arm: grid.spec.matched(arm) for arm in grid.spec.arms}
    pictures = draw(title, found.rows, found.columns, found.cells, matched, target.with_suffix(""))
    target.write_text(page(grid, f"{datetime.now(UTC):%Y-%m-%d}", pictures[0].name), encoding="utf-8")
    click.echo(f"{target}, {', '.join(path.name for path in pictures)}")


@command.command()
@_folder
@click.option("--split", type=_split, default="validation", help="What to choose on; the test split is refused.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, with every pair that was compared.")
def recommend(folder: Path, split: str, as_json: bool) -> None:
    """Recommend an arm and how to serve it, or none, against plain training and plain asking at equal tokens."""
    from its_training.grid import choose
    from its_training.grid.cells import read_grid
    from its_training.grid.page import choice_text

    choice = choose.recommend(read_grid(folder), split)
    click.echo(json.dumps({"version": 1, **asdict(choice)}, indent=1) if as_json else choice_text(choice))
