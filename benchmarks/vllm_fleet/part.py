"""One part of the measurement: its events as they happen, what was asked of it, and what was found."""

import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


@dataclass(slots=True)
class Part:
    """`checks` decide whether it holds; `rows` are its figures, a table. Kept in `folder` once it is whole."""

    name: str
    folder: Path
    conditions: str = ""
    began: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    events: list[tuple[float, str]] = field(default_factory=list)
    checks: list[tuple[bool, str, str]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    _began_s: float = field(default_factory=time.monotonic)

    @property
    def holds(self) -> bool:
        return all(is_held for is_held, *_ in self.checks)

    def progress(self, line: str) -> None:
        """For whoever watches."""
        print(f"[{self.name} {time.monotonic() - self._began_s:5.0f} s] {line}", file=sys.stderr, flush=True)

    def event(self, line: str) -> None:
        """For the report, too."""
        self.events.append((round(time.monotonic() - self._began_s, 1), line))
        self.progress(line)

    def check(self, is_held: bool, asked: str, found: object) -> None:
        self.checks.append((bool(is_held), asked, str(found)))
        self.progress(f"{'ok' if is_held else 'FAILED'}: {asked}: {found}")

    def add_rows(self, rows: Iterable[Row]) -> None:
        self.rows += [dict(row) for row in rows]

    def keep(self) -> None:
        told = asdict(self)
        del told["folder"], told["_began_s"]
        _file(self.folder).write_text(json.dumps(told, indent=1))


def read_part(folder: Path) -> Part | None:
    """A part that was measured whole, whatever it found; None where there is none."""
    if not _file(folder).exists():
        return None
    return Part(folder=folder, **json.loads(_file(folder).read_text()))


def _file(folder: Path) -> Path:
    return folder / "part.json"
