"""Opens a checkpoint folder's manifest, pool and pointer, and refuses what does not hold together.

Nothing outside the folder is ever opened: names in a manifest are plain names, links are not followed.
"""

import json
import os
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from its_proxy.codesign.canonical import digest, strict_json
from its_proxy.codesign.errors import DigestMismatch, ManifestError, ProbeMismatch
from its_proxy.codesign.manifest import FILE_NAME, Manifest, Side, check_pair_rule, parse_manifest, recipe_of
from its_proxy.codesign.personas import MAX_POOL_BYTES, Pool, taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite

MAX_MANIFEST_BYTES = 4 * 2**20
MAX_CONFIG_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A manifest that was read and believed. `is_one_sided` only where the caller allowed it."""

    folder: Path
    manifest: Manifest
    trained: Recipe
    serve: Recipe
    is_one_sided: bool = False

    @property
    def pair_id(self) -> str:
        return self.manifest.pair_id


def open_checkpoint(folder: Path, *, allow_one_sided: bool = False) -> Checkpoint:
    """Opens and verifies; raises the ManifestError family, each one line that names the file."""
    manifest = read_manifest(folder)
    if manifest is None:
        hint = "train with its-train, or record one; without it the model is passed through"
        raise ManifestError(f"{folder} holds no {FILE_NAME}", hint=hint)
    is_one_sided = _breaks_pair_rule(manifest, allow_one_sided)
    trained = _open_side(folder, "trained_with", manifest.pair.trained_with)
    serve = _open_side(folder, "serve_with", manifest.pair.serve_with)
    _check_probes(folder, manifest, serve)
    return Checkpoint(folder, manifest, trained, serve, is_one_sided)


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, checked against the pointer in config.json; None where there is neither."""
    pointer = _read_pointer(folder)
    data = read_file(folder, FILE_NAME, MAX_MANIFEST_BYTES)
    if data is None:
        if pointer is not None:
            raise ManifestError(
                f"{folder}/config.json points to a pair, but {FILE_NAME} is missing",
                hint="copy the manifest and its pool along with the weights",
            )
        return None
    manifest = parse_manifest(data)
    if pointer is not None and pointer.get("pair_id") != manifest.pair_id:
        raise DigestMismatch(
            f"{folder}/config.json points to pair {str(pointer.get('pair_id'))[:8]}, "
            f"{FILE_NAME} holds {manifest.pair_id[:8]}",
            hint="one of the two is stale: restore the pair that was trained, or record again",
        )
    return manifest


def check_weights(checkpoint: Checkpoint) -> None:
    """Compares every weight file that the manifest names with its digest; raises DigestMismatch."""
    for name, expected in checkpoint.manifest.provenance.get("weights_sha256", {}).items():
        path = checkpoint.folder / Path(name).name
        try:
            with path.open("rb") as file:
                hasher = sha256()
                while chunk := file.read(2**20):
                    hasher.update(chunk)
        except OSError as error:
            raise DigestMismatch(f"{path}: {error.strerror}", hint="the manifest names this weight file") from None
        if hasher.hexdigest() != expected:
            raise DigestMismatch(f"{path} is not the file that the manifest names", hint="record the checkpoint again")


def folder_digest(folder: Path) -> str:
    """sha256 over the canonical JSON of {file name: sha256} of the folder's files."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    return digest({path.name: sha256(path.read_bytes()).hexdigest() for path in files})


def read_file(folder: Path, name: str, max_bytes: int) -> bytes | None:
    """A regular file right inside `folder`, or None if there is none; ManifestError for anything odd."""
    path = folder / name
    try:
        # O_NONBLOCK: a named pipe in a checkpoint folder must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ManifestError(f"{path} cannot be opened: {error.strerror}", hint="it must be a plain file") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ManifestError(f"{path} is not a regular file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ManifestError(f"{path} is larger than {max_bytes} bytes")
    return data


def _read_pointer(folder: Path) -> dict[str, Any] | None:
    data = read_file(folder, "config.json", MAX_CONFIG_BYTES)
    if data is None:
        return None
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise ManifestError(f"{folder}/config.json is not JSON") from None
    pointer = config.get("its") if isinstance(config, dict) else None
    if pointer is not None and not isinstance(pointer, dict):
        raise ManifestError(f"{folder}/config.json: its is not an object")
    return pointer


def _breaks_pair_rule(manifest: Manifest, allow: bool) -> bool:
    try:
        check_pair_rule(manifest.pair)
    except ManifestError:
        if not allow:
            raise
        return True
    return False


def _open_side(folder: Path, name: str, side: Side) -> Recipe:
    if side.chat_template_sha256 is not None:
        _check_chat_template(folder, side.chat_template_sha256)
    pool = _open_pool(folder, f"pair.{name}.personas", side) if side.personas is not None else None
    return recipe_of(side, pool)


def _open_pool(folder: Path, place: str, side: Side) -> Pool | None:
    personas = side.personas
    assert personas is not None
    _check_prompts(folder, place, side)
    if personas.source == "writer":
        return None
    if personas.source == "taxonomy":
        pool = taxonomy_pool()
        if pool.sha256 != personas.sha256:
            raise DigestMismatch(f"{place}: the built-in template personas are not those that the pair names",
                                 hint="another its-proxy version recorded it")  # fmt: skip
        return pool
    assert personas.file is not None
    data = read_file(folder, personas.file, MAX_POOL_BYTES)
    if data is None:
        raise ManifestError(f"{place}: {personas.file} is missing from {folder}", hint="copy it along with the weights")
    pool = Pool.from_jsonl(data)
    if pool.sha256 != personas.sha256:
        raise DigestMismatch(
            f"{place}: {personas.file} has digest {pool.sha256[:8]}, the pair names {str(personas.sha256)[:8]}",
            hint="restore the pool that the checkpoint was trained with",
        )
    return pool


def _check_prompts(folder: Path, place: str, side: Side) -> None:
    assert side.personas is not None
    written_by = side.personas.written_by
    if written_by is None or written_by.prompts is None:
        return
    prompts = folder / written_by.prompts.folder
    if prompts.is_symlink() or not prompts.is_dir():
        raise ManifestError(f"{place}: the prompts folder {written_by.prompts.folder} is missing")
    if folder_digest(prompts) != written_by.prompts.sha256:
        raise DigestMismatch(f"{place}: the prompts in {written_by.prompts.folder} are not those that the pair names")


def _check_chat_template(folder: Path, expected: str) -> None:
    template = read_file(folder, "chat_template.jinja", MAX_CONFIG_BYTES)
    if template is not None and sha256(template).hexdigest() != expected:
        raise DigestMismatch(
            f"{folder}/chat_template.jinja is not the template that the pair names",
            hint="restore it: the model would read prompts that it was not trained on",
        )


def _check_probes(folder: Path, manifest: Manifest, serve: Recipe) -> None:
    """The rewrite of each stored query must come out as stored: the last word on pool, seed and code alike."""
    personas = manifest.pair.serve_with.personas
    if personas is not None and personas.source == "writer":
        return  # a live writer's words cannot be repeated
    for n, probe in enumerate(manifest.probes):
        messages = rewrite(serve, [{"role": "user", "content": probe.query}]).messages
        if messages != probe.messages:
            raise ProbeMismatch(
                f"{folder}/{FILE_NAME}: probe {n} is rewritten differently here than when it was recorded",
                hint="the manifest was edited, or recorded by another version",
            )
