"""Where the commands print their tables."""

import sys

from rich.console import Console

_PIPE_COLUMNS = 300


def console() -> Console:
    """Texts keep their own line breaks, and tables their whole values where no terminal tells its width."""
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    return Console(width=width, soft_wrap=True, highlight=False, markup=False)
