"""A file of finished measurements, a JSON object a line: what stands in it is not measured again."""

import json
from pathlib import Path
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]


class Kept:
    """The records of one file, in the order in which they were measured."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if len(whole) < len(lines):  # the last one was cut off when the writer was killed
            path.write_bytes(b"".join(whole))
        self.records: list[Record] = [json.loads(line) for line in whole]

    def add(self, record: Record) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps(record).encode() + b"\n")
        self.records.append(record)

    def where(self, **fields: Any) -> list[Record]:
        """The records that have these values."""
        return [record for record in self.records if all(record[name] == fields[name] for name in fields)]
