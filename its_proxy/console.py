"""Where the commands print their tables, and the colours of what they say about a state."""

import sys

from rich.console import Console
from rich.text import Text

_PIPE_COLUMNS = 300
_STYLES = {
    "verified": "green", "ok": "green", "none": "dim", "skipped": "dim",
    "unverified": "yellow", "pending": "yellow", "unknown": "yellow", "mismatch": "bold red", "failed": "bold red",
}  # fmt: skip


def console() -> Console:
    """Texts keep their own line breaks, and tables their whole values where no terminal tells its width."""
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    return Console(width=width, soft_wrap=True, highlight=False, markup=False)


def coloured(words: str, style: str = "") -> Text:
    """A state in its colour, anything else as it is; names that servers list must not steer the terminal."""
    printable = "".join(character if character.isprintable() else "?" for character in words)
    return Text(printable, _STYLES.get(words, style))
