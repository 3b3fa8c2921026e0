"""Opens where personas come from: a frozen pool with its prompts, or the template personas."""

from pathlib import Path

from pydantic import ValidationError

from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import WrittenBy
from its_proxy.source import read_files
from its_training.prepare.arms import PersonaSource, pool_source, template_source

POOL_FILE, WRITTEN_BY_FILE = "its-personas.jsonl", "written_by.json"


def open_source(path: Path | None) -> PersonaSource:
    """A folder that `its-train personas freeze` wrote, a pool file alone, or the templates where `path` is None.

    Raises ConfigError, and ManifestError for a pool that cannot be read.
    """
    if path is None:
        return template_source()
    folder, file = (path, path / POOL_FILE) if path.is_dir() else (path.parent, path)
    try:
        data = file.read_bytes()
    except OSError as error:
        hint = "a folder that its-train personas froze, or its pool file"
        raise ConfigError(f"--pool {file}: {error.strerror}", hint=hint) from None
    written_by = _written_by(folder / WRITTEN_BY_FILE) if path.is_dir() else None
    prompts = {}
    if written_by is not None and written_by.prompts is not None:
        prompts = dict(read_files(folder / written_by.prompts.folder))
    return pool_source(data, file.name, written_by, prompts)


def _written_by(path: Path) -> WrittenBy | None:
    if not path.exists():
        return None
    try:
        return WrittenBy.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
