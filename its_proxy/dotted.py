"""Where a setting stands, and how that is written."""

import re
from typing import TypeAlias

Key: TypeAlias = tuple[str | int, ...]
"""`("models", "llama", "vote", "n")`, `("keys", 0, "env")`."""


def dotted(key: Key) -> str:
    """A key as a person reads it: `models.llama.vote.n`, `keys[0].env`."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[\w-]+", part):
            text += f".{part}" if text else part
        else:
            text += f"[{part!a}]"
    return text
