"""Opens a checkpoint's manifest, pool and pointer, and refuses what does not hold together.

Nothing outside the checkpoint is ever opened: names in a manifest are plain names, links are not followed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from its_proxy.codesign.canonical import digest
from its_proxy.codesign.errors import DigestMismatch, ItsError, ManifestError, ProbeMismatch
from its_proxy.codesign.manifest import FILE_NAME, Manifest, Side, check_pair_rule, parse_manifest, recipe_of
from its_proxy.codesign.personas import MAX_POOL_BYTES, Pool, taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite
from its_proxy.source import Folder, Source, is_plain, open_regular, read_files

MAX_MANIFEST_BYTES = 4 * 2**20
MAX_CONFIG_BYTES = 2**20
_pools: WeakValueDictionary[str, Pool] = WeakValueDictionary()
"""Those in use, by digest: both sides of a pair, and all models that were trained with one, share it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A manifest that was read and believed. `is_one_sided` only where the caller allowed it."""

    source: Source
    manifest: Manifest
    trained: Recipe
    serve: Recipe
    is_one_sided: bool = False
    # What every query asks for, and is slow to tell.
    pair_id: str = field(init=False)
    sampling: Mapping[str, float] = field(init=False)
    max_tokens: int | None = field(init=False)
    chat_template_kwargs: Mapping[str, Any] | None = field(init=False)

    def __post_init__(self) -> None:
        advice = self.manifest.vote
        object.__setattr__(self, "pair_id", self.manifest.pair_id)
        object.__setattr__(self, "sampling", advice.sampling if advice is not None else {})
        object.__setattr__(self, "max_tokens", advice.max_tokens if advice is not None else None)
        object.__setattr__(self, "chat_template_kwargs", self.manifest.pair.serve_with.chat_template_kwargs)

    @property
    def folder(self) -> Path | None:
        """Where the weights lie; None for a bundle or a manifest from the Hub, which bring none."""
        return self.source.path if isinstance(self.source, Folder) else None


def source_at(path: Path) -> Source:
    """A checkpoint's folder, also by the its.json in it, or the bundle that a file holds; ManifestError for neither."""
    if path.name == FILE_NAME:
        path = path.parent
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise ManifestError(
            f"{path} is not there",
            hint="a checkpoint's folder is meant, or its bundle; its-proxy manifest init writes one for any model",
        )
    from its_proxy.bundle import read_bundle  # few checkpoints are one

    return read_bundle(path)


def open_checkpoint(source: Source | Path, *, allow_one_sided: bool = False) -> Checkpoint:
    """Opens and verifies; raises the ManifestError family, each one line that names the file."""
    source = source_at(source) if isinstance(source, Path) else source
    manifest = read_manifest(source)
    if manifest is None:
        hint = "train with its-train, or its-proxy manifest init; without it the model is passed through"
        raise ManifestError(f"{source} holds no {FILE_NAME}", hint=hint)
    is_one_sided = _breaks_pair_rule(manifest, allow_one_sided)
    trained = _open_side(source, "trained_with", manifest.pair.trained_with)
    serve = _open_side(source, "serve_with", manifest.pair.serve_with)
    _check_probes(source, manifest, serve)
    return Checkpoint(source, manifest, trained, serve, is_one_sided)


def read_manifest(source: Source | Path) -> Manifest | None:
    """The checkpoint's manifest, checked against the pointer in config.json; None where there is neither."""
    source = source_at(source) if isinstance(source, Path) else source
    pointer = _read_pointer(source)
    data = source.read(FILE_NAME, MAX_MANIFEST_BYTES)
    if data is None:
        if pointer is not None:
            raise ManifestError(
                f"{source}/config.json points to a pair, but {FILE_NAME} is missing",
                hint="copy the manifest and its pool along with the weights",
            )
        return None
    manifest = parse_manifest(data)
    if pointer is not None and pointer.get("pair_id") != manifest.pair_id:
        raise DigestMismatch(
            f"{source}/config.json points to pair {str(pointer.get('pair_id'))[:8]}, "
            f"{FILE_NAME} holds {manifest.pair_id[:8]}",
            hint="one of the two is stale: restore the pair that was trained, or record again",
        )
    return manifest


def check_weights(checkpoint: Checkpoint) -> None:
    """Compares every weight file that the manifest names with its digest; raises DigestMismatch."""
    digests = checkpoint.manifest.provenance.get("weights_sha256", {})
    if not isinstance(digests, dict):
        raise ManifestError(f"{checkpoint.source}/{FILE_NAME}: provenance.weights_sha256 is not an object")
    if checkpoint.folder is None:
        raise ManifestError(f"{checkpoint.source} holds no weights", hint="name the checkpoint's own folder")
    for name, expected in digests.items():
        path = checkpoint.folder / name
        if is_plain(name) and (file := open_regular(path)) is not None:
            with file:
                actual = file_digest(file, "sha256").hexdigest()
        else:
            raise DigestMismatch(f"{path} is missing", hint="the manifest names this weight file")
        if actual != expected:
            raise DigestMismatch(f"{path} is not the file that the manifest names", hint="record the checkpoint again")


def folder_digest(folder: Path) -> str:
    """The digest that a pair names its prompts folder by; raises ManifestError for anything but plain files."""
    return _files_digest(read_files(folder))


def _files_digest(files: Mapping[str, bytes]) -> str:
    """sha256 over the canonical JSON of {file name: sha256}."""
    return digest({name: sha256(data).hexdigest() for name, data in files.items()})


def _read_pointer(source: Source) -> dict[str, Any] | None:
    data = source.read("config.json", MAX_CONFIG_BYTES)
    if data is None:
        return None
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise ManifestError(f"{source}/config.json is not JSON") from None
    pointer = config.get("its") if isinstance(config, dict) else None
    if pointer is not None and not isinstance(pointer, dict):
        raise ManifestError(f"{source}/config.json: its is not an object")
    return pointer


def _breaks_pair_rule(manifest: Manifest, allow: bool) -> bool:
    try:
        check_pair_rule(manifest.pair)
    except ManifestError:
        if not allow:
            raise
        return True
    return False


def _open_side(source: Source, name: str, side: Side) -> Recipe:
    if side.chat_template_sha256 is not None:
        _check_chat_template(source, side.chat_template_sha256)
    pool = _open_pool(source, f"pair.{name}.personas", side) if side.personas is not None else None
    return recipe_of(side, pool)


def _open_pool(source: Source, place: str, side: Side) -> Pool | None:
    personas = side.personas
    assert personas is not None
    _check_prompts(source, place, side)
    if personas.source == "writer":
        return None
    if personas.source == "taxonomy":
        pool = taxonomy_pool()
        if pool.sha256 != personas.sha256:
            raise DigestMismatch(f"{place}: the built-in template personas are not those that the pair names",
                                 hint="another its-proxy version recorded it")  # fmt: skip
        return pool
    assert personas.file is not None
    data = source.read(personas.file, MAX_POOL_BYTES)
    if data is None:
        raise ManifestError(f"{place}: {personas.file} is missing from {source}", hint="copy it along with the weights")
    if (actual := sha256(data).hexdigest()) != personas.sha256:
        raise DigestMismatch(
            f"{place}: {personas.file} has digest {actual[:8]}, the pair names {str(personas.sha256)[:8]}",
            hint="restore the pool that the checkpoint was trained with",
        )
    if (known := _pools.get(actual)) is not None:
        return known
    pool = _pools[actual] = Pool.from_jsonl(data)
    return pool


def _check_prompts(source: Source, place: str, side: Side) -> None:
    assert side.personas is not None
    written_by = side.personas.written_by
    if written_by is None or written_by.prompts is None:
        return
    prompts = source.read_folder(written_by.prompts.folder)
    if prompts is None:
        raise ManifestError(f"{place}: the prompts folder {written_by.prompts.folder} is missing")
    if _files_digest(prompts) != written_by.prompts.sha256:
        raise DigestMismatch(f"{place}: the prompts in {written_by.prompts.folder} are not those that the pair names")


def _check_chat_template(source: Source, expected: str) -> None:
    template = source.read("chat_template.jinja", MAX_CONFIG_BYTES)
    if template is not None and sha256(template).hexdigest() != expected:
        raise DigestMismatch(
            f"{source}/chat_template.jinja is not the template that the pair names",
            hint="restore it: the model would read prompts that it was not trained on",
        )


def _check_probes(source: Source, manifest: Manifest, serve: Recipe) -> None:
    """The rewrite of each stored query must come out as stored: the last word on pool, seed and code alike."""
    personas = manifest.pair.serve_with.personas
    if personas is not None and personas.source == "writer":
        return  # a live writer's words cannot be repeated
    for n, probe in enumerate(manifest.probes):
        try:
            messages = rewrite(serve, [{"role": "user", "content": probe.query}]).messages
        except ItsError as error:
            raise ProbeMismatch(f"{source}/{FILE_NAME}: probe {n} cannot be rewritten: {error.message}") from None
        if messages != probe.messages:
            raise ProbeMismatch(
                f"{source}/{FILE_NAME}: probe {n} is rewritten differently here than when it was recorded",
                hint="the manifest was edited, or recorded by another version",
            )
