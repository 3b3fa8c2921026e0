"""The prepared arms that a recipe trains, checked to be matched: equal rows, unequal only in the user's words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from its_proxy.codesign.canonical import digest
from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import Side
from its_proxy.codesign.personas import MAX_POOL_BYTES
from its_proxy.source import Folder
from its_training.record.opened import Arm


@dataclass(frozen=True, slots=True)
class TrainingArm:
    """An arm as read and believed. `files` are the pool and the prompts that its side names."""

    name: str
    rows: tuple[dict[str, Any], ...]
    side: Side
    sha256: str
    ids_sha256: str
    files: Mapping[str, bytes]
    provenance: Mapping[str, Any]


def read_arm(folder: Path, name: str) -> TrainingArm:
    """The arm as dataset.json names it. Raises ConfigError, also where any other arm of it holds other ids."""
    arm = Arm(folder, name)
    entries, side = arm.sidecar()["arms"], arm.side()
    entry = entries[name]
    for other, its in entries.items():
        if its.get("ids_sha256") != entry.get("ids_sha256"):
            raise ConfigError(
                f"{folder}: arms {name!r} and {other!r} hold different rows, or in another order",
                hint="arms are matched by equal ids: prepare them together",
            )
    path = folder / str(entry.get("file"))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint=f"the rows of arm {name!r}; prepare it again") from None
    if sha256(data).hexdigest() != entry.get("sha256"):
        raise ConfigError(f"{path} is not the file that dataset.json names", hint="prepare the data again")
    # By bytes that end a line: str would also split at characters that a query may hold.
    rows = tuple(json.loads(line) for line in data.split(b"\n") if line.strip())
    ids_sha256 = digest([row["id"] for row in rows])
    if not rows or ids_sha256 != entry.get("ids_sha256"):
        raise ConfigError(f"{path} holds other rows than dataset.json says", hint="prepare the data again")
    _check_prompts(path, rows, side)
    return TrainingArm(name, rows, side, str(entry["sha256"]), ids_sha256, _files(folder, side), arm.provenance())


def _check_prompts(path: Path, rows: Sequence[Mapping[str, Any]], side: Side) -> None:
    """What is trained is what the manifest has served: the system message, and a template without arguments."""
    if side.chat_template_kwargs:
        raise ConfigError(f"{path}: the arm's chat_template_kwargs are not trained with", hint="leave them empty")
    for row in rows:
        first = row["messages"][0]
        system = first["content"] if first["role"] == "system" else None
        if system != side.system_prompt:
            raise ConfigError(
                f"{path}: row {row['id']} has another system message than dataset.json names for the arm",
                hint="prepare the data again with one system prompt",
            )


def _files(folder: Path, side: Side) -> dict[str, bytes]:
    personas, source = side.personas, Folder(folder)
    if personas is None or personas.file is None:
        return {}
    pool = source.read(personas.file, MAX_POOL_BYTES)
    if pool is None or sha256(pool).hexdigest() != personas.sha256:
        raise ConfigError(f"{folder / personas.file} is not the pool that dataset.json names")
    files = {personas.file: pool}
    if personas.written_by is not None and personas.written_by.prompts is not None:
        name = personas.written_by.prompts.folder.rstrip("/")
        files |= {f"{name}/{file}": data for file, data in (source.read_folder(name) or {}).items()}
    return files
