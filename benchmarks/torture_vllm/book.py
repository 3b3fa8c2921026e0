"""The results so far, a line each: a run that was stopped continues where it was, with the same code only."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import its_proxy
from benchmarks.torture_vllm.case import Case, Found
from its_proxy.codesign.manifest import FILE_NAME

JUDGES = (
    "handshake.py", "evidence.py", "probes.py", "checkpoint.py", "plan.py", "protocol/chat.py",
    "codesign/manifest.py", "codesign/strategies.py", "codesign/personas.py",
)  # fmt: skip
"""What decides the outcome of a case; by default results of other code are not mixed in."""


def code_digest() -> str:
    """Of the code that judges, and of the demo's manifests."""
    package = Path(its_proxy.__file__).parent
    files = [package / name for name in JUDGES] + sorted((package / "demo").glob(f"*/{FILE_NAME}"))
    return sha256(b"".join(sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:16]


CODE = code_digest()  # as it was when this process loaded it


@dataclass(frozen=True, slots=True)
class Row:
    """One case with what was found; `start` is the server's name, empty for cases of files alone."""

    case: str
    kind: str
    group: str
    start: str
    right: tuple[str, ...]
    state: str
    said: str
    figures: dict[str, float]
    seconds: float
    date: str
    code: str = CODE

    @property
    def is_right(self) -> bool:
        return not self.right or self.state in self.right


def row_of(case: Case, start: str, found: Found, seconds: float, date: str) -> Row:
    right = tuple(sorted(case.right))
    return Row(
        case.name, case.kind, case.group, start, right, found.state, found.said, dict(found.figures), seconds, date
    )


class Book:
    """A JSONL file of rows. `any_code`: what other versions of the code have judged right counts as well."""

    def __init__(self, path: Path, *, any_code: bool = False) -> None:
        self.path = path
        self.any_code = any_code
        path.parent.mkdir(parents=True, exist_ok=True)

    def rows(self) -> list[Row]:
        """The last one for each case."""
        if not self.path.exists():
            return []
        rows = [_row(json.loads(line)) for line in self.path.read_text("utf-8").splitlines()]
        return list({row.case: row for row in rows if row.code == CODE or (self.any_code and row.is_right)}.values())

    def missing(self, cases: Iterable[Case]) -> list[Case]:
        known = {row.case for row in self.rows()}
        return [case for case in cases if case.name not in known]

    def add(self, row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def _row(fields: dict[str, Any]) -> Row:
    return Row(**{**fields, "right": tuple(fields["right"])})
