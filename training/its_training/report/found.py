"""Finds what a run left behind: candidates files, training logs, sidecars, recipes, manifests, dropped rows.

    found = gather([Path("runs/gsm8k")])
    [run.label for run in found.candidates]

Files are told by name, candidates files by their first row. A label is a path from the run's own folder on, so that
equal runs in different places give equal reports.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from its_proxy.candidates import Row, read_candidates
from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import FILE_NAME, Manifest, parse_manifest
from its_training.files import file_sha256

LOG_FILES = ("metrics.jsonl", "training.jsonl")
SIDECAR_FILE, DROPPED_FILE, RUN_FILE = "dataset.json", "dropped.jsonl", "run.json"
RECIPES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class File:
    """`label` names it in the report, `sha256` proves it."""

    label: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Candidates:
    file: File
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """A training log's entries, a mapping an optimizer step or evaluation."""

    file: File
    entries: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A sidecar, a recipe or the settings of a run, as it stands."""

    file: File
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sealed:
    file: File
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many rows a preparation dropped, by step and reason."""

    file: File
    counts: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Everything, each kind in the order of its labels."""

    candidates: tuple[Candidates, ...]
    logs: tuple[Log, ...]
    sidecars: tuple[Document, ...]
    recipes: tuple[Document, ...]
    manifests: tuple[Sealed, ...]
    dropped: tuple[Dropped, ...]


def gather(runs: Sequence[Path]) -> Found:
    """Reads every file of the runs. Raises ConfigError where a run is missing, holds nothing, or a file is broken."""
    files = sorted({file.label: file for run in runs for file in _files(run)}.values(), key=lambda file: file.label)
    found = Found(
        candidates=tuple(
            Candidates(file, tuple(read_candidates(file.path))) for file in files if _holds_candidates(file)
        ),
        logs=tuple(Log(file, tuple(_rows(file))) for file in files if file.path.name in LOG_FILES),
        sidecars=_documents(files, lambda name: name == SIDECAR_FILE),
        recipes=_documents(files, lambda name: name == RUN_FILE or name.endswith(RECIPES)),
        manifests=tuple(
            Sealed(file, parse_manifest(file.path.read_bytes())) for file in files if file.path.name == FILE_NAME
        ),
        dropped=tuple(_dropped(file) for file in files if file.path.name == DROPPED_FILE),
    )
    if not any((found.candidates, found.logs, found.sidecars, found.recipes, found.manifests)):
        named = ", ".join(str(run) for run in runs)
        raise ConfigError(
            f"{named}: nothing to report", hint="candidates files, metrics.jsonl, dataset.json, recipe.yaml, its.json"
        )
    return found


def _files(run: Path) -> Iterator[File]:
    """All files of a run that may matter, hidden ones and links left out."""
    if run.is_file():
        yield File(run.name, run, file_sha256(run))
        return
    if not run.is_dir():
        raise ConfigError(f"{run} is not there", hint="a run's folder is meant, or a candidates file")
    name = run.resolve().name
    for folder, folders, names in os.walk(run):
        folders[:] = sorted(other for other in folders if not other.startswith("."))
        for file in (Path(folder) / one for one in names if not one.startswith(".")):
            is_known = file.suffix in (".jsonl", *RECIPES) or file.name in (SIDECAR_FILE, FILE_NAME, RUN_FILE)
            if is_known and not file.is_symlink():
                yield File(f"{name}/{file.relative_to(run).as_posix()}", file, file_sha256(file))


def _holds_candidates(file: File) -> bool:
    if file.path.suffix != ".jsonl" or file.path.name in (*LOG_FILES, DROPPED_FILE):
        return False
    with file.path.open("rb") as lines:
        first = lines.readline()
    try:
        row = json.loads(first)
    except ValueError:
        return False
    return isinstance(row, dict) and {"candidates", "query"} <= row.keys()


def _documents(files: Sequence[File], is_wanted: Callable[[str], bool]) -> tuple[Document, ...]:
    return tuple(Document(file, _document(file)) for file in files if is_wanted(file.path.name))


def _document(file: File) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.path.read_text(encoding="utf-8"))  # reads JSON too
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"{file.path} cannot be read", hint="it should be JSON or YAML") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file.path} is no mapping of keys")
    return content


def _rows(file: File) -> Iterator[dict[str, Any]]:
    """The rows of a log; a last line that was cut off in the writing is left out."""
    lines = file.path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                return
            raise ConfigError(f"{file.path}:{number}: not JSON") from None
        if isinstance(row, dict):
            yield row


def _dropped(file: File) -> Dropped:
    counts: dict[tuple[str, str], int] = {}
    for row in _rows(file):
        key = (str(row.get("step", "?")), str(row.get("reason", "?")))
        counts[key] = counts.get(key, 0) + 1
    return Dropped(file, tuple((step, reason, n) for (step, reason), n in sorted(counts.items())))
