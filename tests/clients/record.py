"""What a run of these tests found, as docs/results/clients.json holds it: per client its version and its cells."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.cells import CELLS


@dataclass
class Record:
    """`rows`: client -> cell -> "green", "failed", or "skipped: REASON"; a failure stays one."""

    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    not_applicable: dict[str, dict[str, str]] = field(default_factory=dict)

    def tell(self, client: str, cell: str, verdict: str) -> None:
        row = self.rows.setdefault(client, {})
        if row.get(cell, "green") == "green":
            row[cell] = verdict

    def document(self, **conditions: str) -> dict[str, Any]:
        clients = {name: {"version": self.versions.get(name, ""), "cells": self._cells(name)} for name in self.rows}
        return {**conditions, "clients": clients}

    def _cells(self, client: str) -> dict[str, str]:
        reasons = self.not_applicable.get(client, {})
        row = self.rows[client]
        return {cell: row.get(cell) or f"n/a: {reasons[cell]}" for cell in CELLS if cell in row or cell in reasons}


def write(path: Path, which: str, document: dict[str, Any]) -> None:
    """Under `which` ("pinned" or "newest"); what a run has found of other clients stays."""
    whole = json.loads(path.read_text("utf-8")) if path.exists() else {}
    clients = whole.get(which, {}).get("clients", {}) | document["clients"]
    whole[which] = {**document, "clients": dict(sorted(clients.items(), key=lambda item: item[0].lower()))}
    path.write_text(json.dumps(whole, indent=2) + "\n", "utf-8")
