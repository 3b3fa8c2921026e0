"""docs/results/clients.json -> the tables of docs/clients.md.

python -m tests.clients.page
"""

import json
from pathlib import Path
from typing import Any

from tests.clients.cells import CELLS

ROOT = Path(__file__).parent.parent.parent
RESULTS, PAGE = ROOT / "docs/results/clients.json", ROOT / "docs/clients.md"
BEGIN, END = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"
TITLES = {"pinned": "Pinned releases", "newest": "The newest releases"}


def tables(results: dict[str, Any]) -> str:
    return "\n".join(_table(TITLES[which], results[which]) for which in TITLES if which in results)


def _table(title: str, run: dict[str, Any]) -> str:
    reasons: list[str] = []
    head = ["client", "release", *CELLS]
    rows = [head, ["---"] * len(head)]
    for name, client in run["clients"].items():
        rows.append([name, client["version"], *(_cell(client["cells"].get(cell, ""), reasons) for cell in CELLS)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([f"### {title}, {run['date']}, Python {run['python']}", "", *lines, "", *notes, ""])


def _cell(verdict: str, reasons: list[str]) -> str:
    """A word, with the number of its reason where it has one."""
    word, _, reason = verdict.partition(": ")
    if not reason:
        return {"green": "yes", "": "not run"}.get(word, f"**{word}**")
    if reason not in reasons:
        reasons.append(reason)
    return f"{'-' if word == 'n/a' else word} ({reasons.index(reason) + 1})"


def with_tables(page: str, results: dict[str, Any]) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + tables(results) + "\n" + END + after


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8"), json.loads(RESULTS.read_text("utf-8"))), "utf-8")
