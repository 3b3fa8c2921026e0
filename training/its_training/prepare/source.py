"""Rows of a data set as plain dicts, one at a time: JSONL, a JSON array, CSV, Parquet, or a Hub id."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, TypeAlias

from its_proxy.codesign.errors import ConfigError

Row: TypeAlias = Mapping[str, Any]
MAX_CELL = 1 << 27
"""Characters of one CSV cell: long traces exceed the standard library's own bound."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a data set of the Hub; `split`, `config` and `revision` are of the latter."""

    name: str
    split: str = "train"
    config: str | None = None
    revision: str | None = None

    @property
    def path(self) -> Path | None:
        """The file, where the name is one."""
        path = Path(self.name)
        return path if path.exists() or path.suffix.lower() in _READERS else None

    def rows(self) -> Iterator[Row]:
        """From the first row, each time it is called. Raises ConfigError naming file and line."""
        if (path := self.path) is None:
            return _hub_rows(self)
        if not path.is_file():
            raise ConfigError(f"{path}: no such file", hint="a .jsonl, .json, .csv or .parquet file, or a Hub id")
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise ConfigError(f"{path}: unknown kind of file", hint=f"known: {', '.join(_READERS)}")
        return reader(path)

    def sha256(self) -> str | None:
        if (path := self.path) is None:
            return None
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _object(path, number, line)


def _object(path: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}:{number}: not JSON", hint="one object a line is needed") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{path}:{number}: not an object", hint="one object a line is needed")
    return row


def _json(path: Path) -> Iterator[Row]:
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: not JSON", hint="an array of objects is needed; one a line is .jsonl") from None
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise ConfigError(f"{path}: not an array of objects", hint="an array of objects is needed")
    yield from document


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(MAX_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            for number, row in enumerate(csv.DictReader(file), start=2):
                if None in row:
                    raise ConfigError(f"{path}: row {number} has more cells than the header names")
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not CSV: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow", hint="pip install 'its-proxy[train]'") from None
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=256):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: not Parquet: {str(error).splitlines()[0]}") from None


def _hub_rows(source: Source) -> Iterator[Row]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise ConfigError(f"{source.name} needs datasets", hint="pip install 'its-proxy[train]'") from None
    try:
        yield from load_dataset(source.name, source.config, split=source.split, revision=source.revision)
    except Exception as error:  # the library raises nearly anything: no network, no such id, no such split
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        hint = f"a file's path, or a Hub id where the network allows; the Hub said: {reason}"
        raise ConfigError(f"{source.name} is no file here, and no data set comes from the Hub", hint=hint) from None


_READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
