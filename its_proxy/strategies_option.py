"""The option `--strategies`, which `its-proxy manifest` and `its-train` share: what an operator lists is loaded."""

import click

from its_proxy.codesign.strategies import load_strategies

strategies_option = click.option(
    "--strategies",
    metavar="NAME,NAME",
    default="",
    show_default=False,
    help="Strategies of installed packages to load.",
)


def load_listed(strategies: str) -> None:
    """Loads what the option names. Raises ManifestError for one that no installed package offers."""
    load_strategies(name for name in map(str.strip, strategies.split(",")) if name)
