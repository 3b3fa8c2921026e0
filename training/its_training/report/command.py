"""`its-train report`: parses and prints; the work is in page.py, loss.py and card.py."""

from pathlib import Path

import click

from its_proxy.codesign.errors import ConfigError

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("runs", type=_PATH, nargs=-1, metavar="[RUN]...")
@click.option("--out", type=_PATH, help="Folder for report.md, loss.png and loss.svg.")
@click.option("--model-card", type=_PATH, metavar="CHECKPOINT", help="Write our section into its README.md.")
@click.option("--name", help="With --model-card: the checkpoint's name.  [default: its folder's]")
@click.option("--stdout", "to_stdout", is_flag=True, help="With --model-card: print the card, write nothing.")
def command(
    runs: tuple[Path, ...], out: Path | None, model_card: Path | None, name: str | None, to_stdout: bool
) -> None:
    """Reports on runs, from their files alone: candidates files, or folders that hold them and what made them.

    With --model-card CHECKPOINT, writes the model-card section that its manifest vouches for.
    """
    for option, value in (("--stdout", to_stdout), ("--name", name)):
        if value and model_card is None:
            raise ConfigError(f"{option} goes with --model-card", hint="a report is a page and its pictures")
    if (model_card is None) == (not runs):
        raise ConfigError("name runs, or --model-card CHECKPOINT", hint="one of the two")
    if model_card is not None:
        _write_card(model_card, name, to_stdout)
        return
    if out is None:
        raise ConfigError("--out is missing", hint="the folder for report.md and its pictures")
    from its_training.report.write import write_report

    for path in write_report(runs, out):
        click.echo(f"wrote {path}", err=True)


def _write_card(checkpoint: Path, name: str | None, to_stdout: bool) -> None:
    from its_training.report.card import card, write_card

    if to_stdout:
        click.echo(card(checkpoint, name), nl=False)
    else:
        click.echo(f"wrote {write_card(checkpoint, name)}", err=True)
