"""Opens a checkpoint folder's manifest, pool and pointer, and refuses what does not hold together.

Nothing outside the folder is ever opened: names in a manifest are plain names, links are not followed.
"""

import json
import os
import stat
from dataclasses import dataclass
from hashlib import file_digest, sha256
from io import BufferedReader
from pathlib import Path
from typing import Any

from its_proxy.codesign.canonical import digest
from its_proxy.codesign.errors import DigestMismatch, ItsError, ManifestError, ProbeMismatch
from its_proxy.codesign.manifest import FILE_NAME, Manifest, Side, check_pair_rule, parse_manifest, recipe_of
from its_proxy.codesign.personas import MAX_POOL_BYTES, Pool, taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite

MAX_MANIFEST_BYTES = 4 * 2**20
MAX_CONFIG_BYTES = 2**20
MAX_PROMPT_FILES, MAX_PROMPT_BYTES = 256, 2**20


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
    digests = checkpoint.manifest.provenance.get("weights_sha256", {})
    if not isinstance(digests, dict):
        raise ManifestError(f"{checkpoint.folder}/{FILE_NAME}: provenance.weights_sha256 is not an object")
    for name, expected in digests.items():
        path = checkpoint.folder / name
        if _is_plain(name) and (file := _open_regular(path)) is not None:
            with file:
                actual = file_digest(file, "sha256").hexdigest()
        else:
            raise DigestMismatch(f"{path} is missing", hint="the manifest names this weight file")
        if actual != expected:
            raise DigestMismatch(f"{path} is not the file that the manifest names", hint="record the checkpoint again")


def folder_digest(folder: Path) -> str:
    """sha256 over the canonical JSON of {file name: sha256} of the folder's files; raises ManifestError."""
    paths = sorted(folder.iterdir())
    if len(paths) > MAX_PROMPT_FILES:
        raise ManifestError(f"{folder} holds more than {MAX_PROMPT_FILES} files")
    contents = {path.name: read_file(folder, path.name, MAX_PROMPT_BYTES) or b"" for path in paths}
    return digest({name: sha256(data).hexdigest() for name, data in contents.items()})


def read_file(folder: Path, name: str, max_bytes: int) -> bytes | None:
    """A regular file right inside `folder`, or None if there is none; ManifestError for anything odd."""
    path = folder / name
    file = _open_regular(path)
    if file is None:
        return None
    with file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ManifestError(f"{path} is larger than {max_bytes} bytes")
    return data


def _open_regular(path: Path) -> BufferedReader | None:
    try:
        # O_NONBLOCK: a named pipe in a checkpoint folder must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ManifestError(f"{path} cannot be opened: {error.strerror}", hint="it must be a plain file") from None
    file = os.fdopen(descriptor, "rb") if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    if file is None:
        os.close(descriptor)
        raise ManifestError(f"{path} is not a regular file")
    return file


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not any(character in name for character in "/\\\0")


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
    if (actual := sha256(data).hexdigest()) != personas.sha256:
        raise DigestMismatch(
            f"{place}: {personas.file} has digest {actual[:8]}, the pair names {str(personas.sha256)[:8]}",
            hint="restore the pool that the checkpoint was trained with",
        )
    return Pool.from_jsonl(data)


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
        try:
            messages = rewrite(serve, [{"role": "user", "content": probe.query}]).messages
        except ItsError as error:
            raise ProbeMismatch(f"{folder}/{FILE_NAME}: probe {n} cannot be rewritten: {error.message}") from None
        if messages != probe.messages:
            raise ProbeMismatch(
                f"{folder}/{FILE_NAME}: probe {n} is rewritten differently here than when it was recorded",
                hint="the manifest was edited, or recorded by another version",
            )
