"""Declares a model that was not trained with its-train: a manifest whose probes are taken from the live server.

    declaration = Declaration("llama", Side(strategy="none"), Side(strategy="none"), VoteAdvice(n=8, temperature=0.8))
    declared = await declare(upstream, declaration)
    write_declared(Path("llama.its"), declared)

Nothing is guessed: what the server does not show is left out, and `declared.remarks` says so.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from its_proxy import __version__
from its_proxy.checkpoint import MAX_CONFIG_BYTES, open_checkpoint
from its_proxy.codesign.errors import ConfigError, ManifestError
from its_proxy.codesign.manifest import (
    FILE_NAME,
    SCHEMA_VERSION,
    Manifest,
    Pair,
    Personas,
    Side,
    VoteAdvice,
    check_pair_rule,
    parse_manifest,
    recipe_of,
)
from its_proxy.codesign.personas import Pool, taxonomy_pool
from its_proxy.handshake import MAX_PROBES
from its_proxy.probing import N_ROUNDS, QUERIES, Prober
from its_proxy.seal import manifest_bytes, replace_file
from its_proxy.source import Files, Folder, read_file
from its_proxy.upstreams.base import Upstream

POOL_FILE = "its-personas.jsonl"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What an operator says of a model. `pool` is the file that both sides' personas are drawn from, if one is."""

    served_name: str
    trained_with: Side
    serve_with: Side
    vote: VoteAdvice
    queries: Sequence[str] = QUERIES
    pool: bytes | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Declared:
    """The files to write, by name, the manifest's last; `remarks`, a line each: what the server did not show."""

    manifest: Manifest
    files: Mapping[str, bytes]
    remarks: tuple[str, ...]


async def declare(
    upstream: Upstream, declaration: Declaration, on_step: Callable[[str], None] = lambda what: None
) -> Declared:
    """Asks the live server, and puts the manifest together; writes nothing. `on_step` is told of every call.

    Raises ConfigError where the upstream does not list the model, ManifestError for sides that do not hold
    together, UpstreamError where the upstream cannot be asked.
    """
    check_pair_rule(Pair(trained_with=declaration.trained_with, serve_with=declaration.serve_with))
    recipe = recipe_of(declaration.serve_with, pool_of(declaration.serve_with, declaration.pool))
    card = _card(await upstream.models(), declaration.served_name)
    root = card.get("root")
    pair = _pair(declaration, _template_digest(root))
    template_kwargs = pair.serve_with.chat_template_kwargs
    prober = Prober(upstream, declaration.served_name, recipe, template_kwargs, on_step)
    probes, remark = await prober.probes(declaration.queries[:MAX_PROBES])
    document = {
        "schema_version": SCHEMA_VERSION,
        "origin": "declared",
        "pair": _plain(pair),
        "vote": _plain(declaration.vote),
        "probes": [_plain(probe) for probe in probes],
        "evaluation": [],
        "provenance": {
            "declared": {"served_name": declaration.served_name, "root": root if isinstance(root, str) else None},
            **declaration.provenance,
            "versions": {"its-proxy": __version__},
        },
    }
    data = manifest_bytes(document)
    files = {FILE_NAME: data} if declaration.pool is None else {POOL_FILE: declaration.pool, FILE_NAME: data}
    return Declared(parse_manifest(data), files, (remark,) if remark else ())


def n_steps(declaration: Declaration) -> int:
    """How many steps `declare` tells of, on a server that shows everything."""
    return min(len(declaration.queries), MAX_PROBES) * (1 + N_ROUNDS)


def pool_of(side: Side, data: bytes | None) -> Pool | None:
    """The personas that a side draws from: those of the file, or our template personas, or none."""
    if side.personas is None:
        return None
    return taxonomy_pool() if data is None else Pool.from_jsonl(data)


def personas_of(pool: bytes | None) -> Personas:
    """How a side names them."""
    if pool is None:
        return Personas(source="taxonomy", sha256=taxonomy_pool().sha256, domains="taxonomy/1")
    return Personas(source="pool", file=POOL_FILE, sha256=sha256(pool).hexdigest(), domains="taxonomy/1")


def _pair(declaration: Declaration, template: str | None) -> Pair:
    sides = (declaration.trained_with, declaration.serve_with)
    trained, serve = (side.model_copy(update={"chat_template_sha256": template}) for side in sides)
    return Pair(trained_with=trained, serve_with=serve)


def _plain(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_unset=True)


def _card(cards: Sequence[Mapping[str, Any]], served_name: str) -> Mapping[str, Any]:
    for card in cards:
        if card.get("id") == served_name:
            if "its" in card:
                raise ConfigError("the upstream is an its-proxy itself", hint="name the server behind it")
            return card
    listed = ", ".join(ascii(card.get("id"))[:80] for card in cards[:8]) or "nothing"
    raise ConfigError(f"the upstream lists no model {served_name!r}", hint=f"it lists {listed}")


def _template_digest(root: object) -> str | None:
    """Of the chat template in the model's own folder, where that lies on this machine; else None: unknown."""
    if not isinstance(root, str) or not os.path.isabs(root):
        return None
    try:
        template = read_file(Path(root), "chat_template.jinja", MAX_CONFIG_BYTES)
    except (ManifestError, ValueError):
        return None
    return None if template is None else sha256(template).hexdigest()


# -- files -------------------------------------------------------------------------------------------------------------


def write_declared(folder: Path, declared: Declared, *, force: bool = False) -> None:
    """Puts the files into `folder`, which is made if it is not there; the manifest comes last.

    Raises ConfigError where a manifest is there already (unless `force`) or nothing can be written, and
    ManifestError where the folder's own config.json or chat template belongs to another pair.
    """
    check_free(folder, force=force)
    own = {name: Folder(folder).read(name, MAX_CONFIG_BYTES) for name in ("config.json", "chat_template.jinja")}
    present = {name: data for name, data in own.items() if data is not None}
    open_checkpoint(Files(str(folder), {**present, **declared.files}))
    try:
        if folder.is_dir():
            for name, data in declared.files.items():
                replace_file(folder / name, data)
        else:
            _make_folder(folder, declared.files)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}", hint="choose a writable --out") from None


def check_free(folder: Path, *, force: bool) -> None:
    """Raises ConfigError where a manifest is there already, unless `force`, or nothing can be written."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise ConfigError(f"{nearest} is not a folder", hint="--out names another one")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write {folder}: {nearest} is not ours to write", hint="choose a writable --out")
    if not force and os.path.lexists(folder / FILE_NAME):
        raise ConfigError(f"{folder} holds a manifest already", hint="--force replaces it, --out names another folder")


def _make_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """The folder appears by one rename, with all of its files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        aside.mkdir()
        for name, data in files.items():
            replace_file(aside / name, data)
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
