"""`its-train`: the commands of the training companion. Each is loaded when it is asked for: most bring torch along."""

import os
from importlib import import_module
from typing import Any

import click

from its_proxy import __version__
from its_proxy.codesign.errors import ItsError
from its_proxy.strategies_option import load_listed, strategies_option

COMMANDS = {
    "prepare": "Make matched arms from a data set: filters, sampling, decontamination, rewriting.",
    "personas": "Have a language model write personas, freeze them into a pool, and report on their quality.",
    "plan": "Say what a recipe needs, or walk it through with a tiny model of the same architecture.",
    "sft": "Fine-tune an arm from a recipe file; the manifest goes into every saved checkpoint.",
    "record": "Measure a checkpoint's probes and seal them into its manifest.",
    "grid": "Measure every arm asked every way, with intervals over seeds and items, and recommend one or none.",
    "report": "Write the report and the model-card section of a run, from its files alone.",
    "demo": "Build, evaluate and seal the demo checkpoints from nothing.",
}
"""Name and help of each command: its click object is `command` in its_training/NAME/command.py."""


INSTALL = "pip install 'its-proxy[train]', or in a checkout make environment and .venv/bin/its-train"


def is_ours(module: str) -> bool:
    """Whether a module that is missing is one of the project's: a fault of ours, which shows its traceback."""
    return module.partition(".")[0] in ("its_proxy", "its_training")


class _Group(click.Group):
    """Every error on purpose becomes one line and exit code 1; 2 stays click's own usage error, and Ctrl-C is 130."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        found: click.Command = import_module(f"its_training.{name}.command").command
        found.name = name
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ItsError as error:
            raise click.ClickException(str(error)) from None
        except ModuleNotFoundError as error:
            if is_ours(error.name or ""):
                raise
            raise click.ClickException(f"the package {error.name!r} is not installed ({INSTALL})") from None
        except KeyboardInterrupt:
            click.echo("stopped; what is finished is kept, the same command continues", err=True)
            ctx.exit(130)


# What click writes is plain where NO_COLOR is set; rich sees to its own.
_COLOR = False if os.environ.get("NO_COLOR") else None


@click.group(cls=_Group, context_settings={"show_default": True, "auto_envvar_prefix": "ITS_TRAIN", "color": _COLOR})
@click.version_option(__version__, prog_name="its-train")
@strategies_option
def main(strategies: str) -> None:
    """Trains checkpoints that carry what they were trained with, for its-proxy to serve."""
    load_listed(strategies)
