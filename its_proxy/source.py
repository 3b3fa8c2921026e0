"""Where a manifest and the files that it names are read from: a folder, or a set of files at hand.

A source gives only what lies right inside of it; names with a path in them do not exist here.
"""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from its_proxy.codesign.errors import ManifestError

MAX_PROMPT_FILES, MAX_PROMPT_BYTES = 256, 2**20


class Source(Protocol):
    """`str()` of a source names it in messages: the folder's path, the bundle's, the Hub's repository."""

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """The file of that plain name, or None if there is none; ManifestError for anything odd."""
        ...

    def read_folder(self, name: str) -> Mapping[str, bytes] | None:
        """All files of a folder right inside, by name, or None if there is none; ManifestError for anything odd."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on disk. Links in it are not followed; the folder's own path may hold some."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str, max_bytes: int) -> bytes | None:
        return read_file(self.path, name, max_bytes)

    def read_folder(self, name: str) -> Mapping[str, bytes] | None:
        folder = self.path / name
        if folder.is_symlink() or not folder.is_dir():
            return None
        return read_files(folder)


@dataclass(frozen=True, slots=True)
class Files:
    """Files in memory, by name; those of a folder are named `folder/file`. `label` says where they came from."""

    label: str
    contents: Mapping[str, bytes]

    def __str__(self) -> str:
        return self.label

    def read(self, name: str, max_bytes: int) -> bytes | None:
        data = self.contents.get(name)
        if data is not None and len(data) > max_bytes:
            raise ManifestError(f"{self}/{name} is larger than {max_bytes} bytes")
        return data

    def read_folder(self, name: str) -> Mapping[str, bytes] | None:
        start = f"{name.rstrip('/')}/"
        files = {path.removeprefix(start): data for path, data in self.contents.items() if path.startswith(start)}
        check_folder(f"{self}/{start}", files)
        return files or None


def check_folder(label: str, files: Mapping[str, bytes]) -> None:
    """Raises ManifestError for more or larger files than a folder of prompts may hold."""
    if len(files) > MAX_PROMPT_FILES:
        raise ManifestError(f"{label} holds more than {MAX_PROMPT_FILES} files")
    for name, data in files.items():
        if len(data) > MAX_PROMPT_BYTES:
            raise ManifestError(f"{label}{name} is larger than {MAX_PROMPT_BYTES} bytes")


def read_files(folder: Path) -> dict[str, bytes]:
    """All files right inside `folder`, by name; ManifestError for anything but plain files, or too many."""
    paths = sorted(folder.iterdir())
    if len(paths) > MAX_PROMPT_FILES:
        raise ManifestError(f"{folder} holds more than {MAX_PROMPT_FILES} files")
    return {path.name: read_file(folder, path.name, MAX_PROMPT_BYTES) or b"" for path in paths}


def read_file(folder: Path, name: str, max_bytes: int) -> bytes | None:
    """A regular file right inside `folder`, or None if there is none; ManifestError for anything odd."""
    path = folder / name
    file = open_regular(path)
    if file is None:
        return None
    with file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ManifestError(f"{path} is larger than {max_bytes} bytes")
    return data


def open_regular(path: Path) -> BufferedReader | None:
    """The regular file at `path`, which is not a link, open for reading; None if there is nothing."""
    try:
        # O_NONBLOCK: a named pipe in a checkpoint folder must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        is_link = error.errno == errno.ELOOP
        hint = "links are not followed; a mounted ConfigMap takes a bundle" if is_link else "it must be a plain file"
        raise ManifestError(f"{path} cannot be opened: {error.strerror}", hint=hint) from None
    file = os.fdopen(descriptor, "rb") if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    if file is None:
        os.close(descriptor)
        raise ManifestError(f"{path} is not a regular file")
    return file


def is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not any(character in name for character in "/\\\0")
