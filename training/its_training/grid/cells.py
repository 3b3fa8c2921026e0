"""Cells of a grid, and `grid.json`, the index of those that were measured.

    grid = read_grid(Path("grid-run"))
    grid.rows(grid.cells[0])

The index is plain JSON: candidates files that `its-proxy evaluate` made before a real server are listed in it by hand.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from its_proxy.candidates import Row, read_candidates
from its_proxy.codesign.errors import ConfigError
from its_proxy.seal import replace_file
from its_training.files import file_sha256
from its_training.grid.spec import GridSpec

INDEX_FILE, CANDIDATES_FILE = "grid.json", "candidates.jsonl"
BASE = "base"
"""In the place of an arm: the untouched base."""

Split: TypeAlias = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm of one training seed (None for the base), asked one way with one persona seed, on one split."""

    trained: str
    asked: str
    split: str
    train_seed: int | None
    persona_seed: int

    @property
    def folder(self) -> str:
        arm = self.trained if self.train_seed is None else f"{self.trained}-s{self.train_seed}"
        return f"cells/{self.split}/{arm}/as-{self.asked}-p{self.persona_seed}"

    @property
    def title(self) -> str:
        seed = "" if self.train_seed is None else f" (seed {self.train_seed})"
        return f"{self.split}: {self.trained}{seed} asked as {self.asked}, personas {self.persona_seed}"


def n_candidates(spec: GridSpec, cell: Cell) -> int:
    return spec.n_candidates(cell.trained, cell.asked, cell.split, cell.persona_seed)


class _Measured(BaseModel):
    """One line of the index; `file` is relative to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trained: str
    asked: str
    split: Split
    train_seed: int | None
    persona_seed: int
    file: str
    sha256: str | None = None

    @property
    def cell(self) -> Cell:
        return Cell(self.trained, self.asked, self.split, self.train_seed, self.persona_seed)


class _Index(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    spec: GridSpec
    conditions: dict[str, Any] = {}
    cells: tuple[_Measured, ...]


@dataclass(frozen=True, eq=False)
class Grid:
    """A measured grid: its spec, and the candidates files by cell. Equal to itself only, so that it can key caches."""

    folder: Path
    spec: GridSpec
    conditions: Mapping[str, Any]
    files: Mapping[Cell, Path]

    @property
    def cells(self) -> list[Cell]:
        return list(self.files)

    def rows(self, cell: Cell) -> Sequence[Row]:
        """Each item with the candidates of one vote."""
        return _rows(self.files[cell], self.spec.vote.n)

    def with_n(self, n: int) -> "Grid":
        """Read for votes of n candidates: those cells alone that were asked for as many."""
        vote = self.spec.vote.model_copy(update={"n": n})
        files = {cell: file for cell, file in self.files.items() if n_candidates(self.spec, cell) >= n}
        return replace(self, spec=self.spec.model_copy(update={"vote": vote}), files=files)


@lru_cache(maxsize=512)
def _rows(path: Path, n: int) -> Sequence[Row]:
    rows = read_candidates(path)
    return tuple(row.model_copy(update={"candidates": row.candidates[:n]}) for row in rows)


def write_index(out: Path, spec: GridSpec, cells: Sequence[Cell], conditions: Mapping[str, Any]) -> None:
    """Lists the measured cells with the digests of their files."""
    measured = [
        {
            **{name: getattr(cell, name) for name in ("trained", "asked", "split", "train_seed", "persona_seed")},
            "file": f"{cell.folder}/{CANDIDATES_FILE}",
            "sha256": _digest(out / cell.folder / CANDIDATES_FILE),
        }
        for cell in cells
    ]
    document = {
        "schema_version": 1,
        "spec": spec.model_dump(mode="json", exclude_unset=True),
        "conditions": dict(conditions),
        "cells": measured,
    }
    replace_file(out / INDEX_FILE, (json.dumps(document, indent=1) + "\n").encode())


@lru_cache(maxsize=4096)
def _digest(path: Path) -> str:
    return file_sha256(path)


def read_grid(folder: Path) -> Grid:
    """Opens a folder's index and checks every file against it. Raises ConfigError."""
    path = folder / INDEX_FILE
    try:
        index = _Index.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="its-train grid run writes it") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    files: dict[Cell, Path] = {}
    for measured in index.cells:
        file = folder / measured.file
        if not file.is_file():
            raise ConfigError(f"{path}: {measured.file} is not there")
        if measured.sha256 is not None and file_sha256(file) != measured.sha256:
            raise ConfigError(f"{path}: {measured.file} is not the file that was measured")
        if measured.cell in files:
            raise ConfigError(f"{path}: {measured.cell.title} is listed twice")
        files[measured.cell] = file
    if not files:
        raise ConfigError(f"{path}: lists no cells")
    return Grid(folder, index.spec, index.conditions, files)
