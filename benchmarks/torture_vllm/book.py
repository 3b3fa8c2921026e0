"""The results so far, a line each: a run that was stopped continues where it was, with the same code only."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import its_proxy
from benchmarks.torture_vllm.case import Case, Found
from its_proxy.codesign.manifest import FILE_NAME

JUDGES = ("handshake.py", "evidence.py", "probes.py")
JUDGES_OF = {
    "files": ("checkpoint.py", "codesign/manifest.py", "codesign/strategies.py", "codesign/personas.py"),
    "client": ("plan.py", "protocol/chat.py"),
}
"""What decides the outcome of a case, and of a group's beside that: results of other code are not mixed in."""


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

    @property
    def is_right(self) -> bool:
        return not self.right or self.state in self.right


def row_of(case: Case, start: str, found: Found, seconds: float, date: str) -> Row:
    right = tuple(sorted(case.right))
    return Row(
        case.name, case.kind, case.group, start, right, found.state, found.said, dict(found.figures), seconds, date
    )


class Book:
    """A JSONL file of rows, each stamped with the code that judged it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def rows(self) -> list[Row]:
        """Of this code, the last one for each case."""
        if not self.path.exists():
            return []
        lines = (json.loads(line) for line in self.path.read_text("utf-8").splitlines())
        found = {
            line["row"]["case"]: _row(line["row"])
            for line in lines
            if line["code"] == code_digest(line["row"]["group"])
        }
        return list(found.values())

    def missing(self, cases: Iterable[Case]) -> list[Case]:
        known = {row.case for row in self.rows()}
        return [case for case in cases if case.name not in known]

    def add(self, row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"code": code_digest(row.group), "row": asdict(row)}) + "\n")


def _row(fields: dict[str, Any]) -> Row:
    return Row(**{**fields, "right": tuple(fields["right"])})


@cache
def code_digest(group: str) -> str:
    """Of the code that judges a case of this group, and of the demo's manifests; as it was when the run began."""
    package = Path(its_proxy.__file__).parent
    files = [package / name for name in (*JUDGES, *JUDGES_OF.get(group, ()))]
    files += sorted((package / "demo").glob(f"*/{FILE_NAME}"))
    return sha256(b"".join(sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:16]
