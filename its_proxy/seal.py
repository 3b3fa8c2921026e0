"""Writes a manifest for people to read, and writes any file whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def manifest_bytes(document: Mapping[str, Any]) -> bytes:
    """The file form of a manifest: one key a line, but lists of numbers, which are long here, on a line each."""
    return (_pretty(dict(document)) + "\n").encode()


def _pretty(value: Any, indent: str = "") -> str:
    inner = indent + " "
    if isinstance(value, dict) and value:
        lines = (f"{inner}{json.dumps(key)}: {_pretty(item, inner)}" for key, item in value.items())
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return "[\n" + ",\n".join(f"{inner}{_pretty(item, inner)}" for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def replace_file(path: Path, data: bytes) -> None:
    """The whole new content or the whole old one, also after a crash: written aside, synced, renamed."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in it last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
