"""A bundle: one JSON file that holds a manifest and every file that it names, byte for byte.

    {"its_bundle": 1, "pair_id": "...", "files": {"its.json": {"sha256": "...", "text": "..."},
                                                  "its-personas.jsonl": {"sha256": "...", "base64": "..."}}}

One file is what a Kubernetes ConfigMap carries best. Text stays readable; anything else goes in base64.
"""

import base64
import binascii
import json
import os
import re
import stat
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from its_proxy.codesign.canonical import strict_json
from its_proxy.codesign.errors import DigestMismatch, ManifestError, UnknownSchema
from its_proxy.codesign.manifest import FILE_NAME, Manifest, Sha256, parse_manifest
from its_proxy.codesign.personas import MAX_POOL_BYTES
from its_proxy.source import MAX_PROMPT_FILES, Files, Source

VERSION = 1
CONFIG_MAP_BYTES = 2**20
"""What Kubernetes accepts as a ConfigMap, all of its files together."""
# A pool at its limit, in base64, and the rest.
MAX_BUNDLE_BYTES = 96 * 2**20
MAX_MANIFEST_BYTES = 4 * 2**20
# A plain name, or one inside a folder of that name: nothing is ever opened by it.
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(/[^/\\\x00-\x1f\x7f]{1,255})?$"
_AGAIN = "its-proxy manifest bundle makes it anew"
# JSON leaves these as they are, but tools that carry it as YAML take them for line breaks or refuse them.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Entry(_Strict):
    sha256: Sha256
    text: str | None = None
    base64: str | None = None


class _Bundle(_Strict):
    its_bundle: int
    pair_id: Sha256
    files: Annotated[
        dict[Annotated[str, StringConstraints(pattern=_NAME)], _Entry],
        Field(max_length=MAX_PROMPT_FILES + 3),
    ]


def bundle_of(source: Source, manifest: Manifest) -> bytes:
    """The bundle of an opened checkpoint; raises ManifestError where a file that it names is gone."""
    document = {
        "its_bundle": VERSION,
        "pair_id": manifest.pair_id,
        "files": {name: _entry(data) for name, data in named_files(source, manifest).items()},
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return (_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n").encode()


def named_files(source: Source, manifest: Manifest) -> dict[str, bytes]:
    """`its.json` and the files that its pair names, by name; those of a folder as `folder/file`."""
    files = {FILE_NAME: _read(source, FILE_NAME, MAX_MANIFEST_BYTES)}
    for side in (manifest.pair.trained_with, manifest.pair.serve_with):
        if side.personas is None:
            continue
        if side.personas.source == "pool" and side.personas.file is not None:
            files[side.personas.file] = _read(source, side.personas.file, MAX_POOL_BYTES)
        written_by = side.personas.written_by
        if written_by is not None and written_by.prompts is not None:
            folder = written_by.prompts.folder.rstrip("/")
            files |= {f"{folder}/{name}": data for name, data in (source.read_folder(folder) or {}).items()}
    return files


def _read(source: Source, name: str, max_bytes: int) -> bytes:
    data = source.read(name, max_bytes)
    if data is None:
        raise ManifestError(f"{source}: {name} is missing", hint="copy it along with the manifest")
    return data


def _entry(data: bytes) -> dict[str, str]:
    digest = {"sha256": sha256(data).hexdigest()}
    try:
        return {**digest, "text": data.decode()}
    except UnicodeDecodeError:
        return {**digest, "base64": base64.b64encode(data).decode()}


def read_bundle(path: Path) -> Files:
    """The files in the bundle at `path`, each the one that its digest names; raises ManifestError in one line.

    A link is followed here: a mounted ConfigMap is made of links, and the operator named this very path.
    """
    bundle = _parse(path, _read_capped(path))
    files = Files(str(path), {name: _bytes_of(f"{path}: {name}", entry) for name, entry in bundle.files.items()})
    manifest = parse_manifest(_read(files, FILE_NAME, MAX_MANIFEST_BYTES))
    if manifest.pair_id != bundle.pair_id:
        raise DigestMismatch(f"{path}: its {FILE_NAME} holds another pair than {bundle.pair_id[:8]}", hint=_AGAIN)
    if strangers := sorted(files.contents.keys() - named_files(files, manifest).keys()):
        raise ManifestError(f"{path}: {strangers[0]} is no file that the manifest names", hint=_AGAIN)
    return files


def is_bundle(path: Path) -> bool:
    """Whether the file is a bundle by its looks, of whatever version, whole or not."""
    try:
        return b'"its_bundle"' in _read_capped(path)[:200]
    except ManifestError:
        return False


def _read_capped(path: Path) -> bytes:
    try:
        # O_NONBLOCK: a named pipe must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ManifestError(f"{path} is neither a folder nor a bundle")
            data = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise ManifestError(f"{path} cannot be opened: {error.strerror}") from None
    if len(data) > MAX_BUNDLE_BYTES:
        raise ManifestError(f"{path} is larger than {MAX_BUNDLE_BYTES} bytes", hint="that is no bundle")
    return data


def _parse(path: Path, data: bytes) -> _Bundle:
    try:
        document = strict_json(data)
    except ValueError as error:
        raise ManifestError(f"{path} is not a bundle: {error}", hint="its-proxy manifest bundle makes one") from None
    if not isinstance(document, dict) or "its_bundle" not in document:
        raise ManifestError(f"{path} is not a bundle", hint="its-proxy manifest bundle makes one")
    version = document["its_bundle"]
    if version != VERSION or isinstance(version, bool):
        known = repr(version)[:40] if isinstance(version, int | str) else f"of type {type(version).__name__}"
        raise UnknownSchema(f"{path}: its_bundle {known} cannot be read here", hint=f"this its-proxy reads {VERSION}")
    try:
        return _Bundle.model_validate(document)
    except ValidationError as error:
        raise ManifestError(f"{path}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    first, *others = error.errors(include_url=False, include_input=False)
    place = ".".join(ascii(part) if not str(part).isprintable() else str(part) for part in first["loc"])
    more = f" (and {len(others)} more)" if others else ""
    return f"{place[:200]}: {'unknown key' if first['type'] == 'extra_forbidden' else first['msg']}{more}"


def _bytes_of(place: str, entry: _Entry) -> bytes:
    if (entry.text is None) == (entry.base64 is None):
        raise ManifestError(f"{place}: either text or base64 is needed")
    try:
        data = base64.b64decode(entry.base64, validate=True) if entry.base64 is not None else str(entry.text).encode()
    except (binascii.Error, UnicodeEncodeError, ValueError):
        raise ManifestError(f"{place}: unreadable {'text' if entry.base64 is None else 'base64'}") from None
    if sha256(data).hexdigest() != entry.sha256:
        raise DigestMismatch(f"{place} is not the file that was bundled", hint=_AGAIN)
    return data
