"""Markdown tables, and values in their cells."""

import json
from collections.abc import Sequence
from typing import Any


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(columns), ["---"] * len(columns), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def cell(text: str) -> str:
    """On one line, and without what would end the cell."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r", " ").replace("\n", "\\n")


def plain(value: Any) -> str:
    """A value as text: strings as they are, everything else as JSON with sorted keys."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def percent(value: float, ci95: tuple[float, float] | None) -> str:
    interval = "" if ci95 is None else f" [{100 * ci95[0]:.1f}, {100 * ci95[1]:.1f}]"
    return f"{100 * value:.1f}{interval}"
