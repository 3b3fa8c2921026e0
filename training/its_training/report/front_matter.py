"""A README's YAML front matter as the Hugging Face Hub reads it: what the manifest knows is set, the rest is kept."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import Manifest

_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
TAGS = ("input-time-scaling", "its-proxy")


def split(readme: str) -> tuple[dict[str, Any], str]:
    """The front matter, and the text below it. Raises ConfigError for one that is not a mapping."""
    found = _FRONT.match(readme)
    if found is None:
        return {}, readme
    try:
        front = yaml.safe_load(found[1])
    except yaml.YAMLError:
        raise ConfigError("README.md: its front matter is not YAML", hint="mend it, or remove README.md") from None
    if front is not None and not isinstance(front, dict):
        raise ConfigError("README.md: its front matter is not a mapping", hint="mend it, or remove README.md")
    return dict(front or {}), readme[found.end() :]


def joined(front: Mapping[str, Any], body: str) -> str:
    text = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n{body}"


def with_facts(front: Mapping[str, Any], manifest: Manifest, *, is_adapter: bool) -> dict[str, Any]:
    """The front matter with what the manifest knows; what it does not know is left as it was, or out."""
    facts: dict[str, Any] = dict(front)
    if (name := license_of(manifest)) is not None:
        is_known = _LICENSE.fullmatch(name.lower()) is not None
        facts |= {"license": name.lower()} if is_known else {"license": "other", "license_name": name}
    base = manifest.provenance.get("base_model")
    if isinstance(base, str) and _HUB_ID.fullmatch(base):
        facts |= {"base_model": base, "base_model_relation": "adapter" if is_adapter else "finetune"}
    if (dataset := dataset_of(manifest)) is not None:
        facts["datasets"] = _union(front.get("datasets"), (dataset,))
    facts["tags"] = _union(front.get("tags"), (*TAGS, f"its-strategy-{manifest.pair.trained_with.strategy}"))
    return facts


def license_of(manifest: Manifest) -> str | None:
    """The licence of the weights where it is recorded, else the base's, which binds what was made from it."""
    licenses = manifest.provenance.get("licenses")
    found = [licenses.get(name) for name in ("weights", "base")] if isinstance(licenses, dict) else []
    return next((name for name in found if isinstance(name, str) and name.strip()), None)


def dataset_of(manifest: Manifest) -> str | None:
    """The Hub id of the training data, where it has one."""
    dataset = manifest.provenance.get("dataset")
    name = dataset.get("dataset") if isinstance(dataset, dict) else dataset
    return name if isinstance(name, str) and _HUB_ID.fullmatch(name) else None


def _union(before: Any, names: tuple[str, ...]) -> list[str]:
    listed = [before] if isinstance(before, str) else list(before) if isinstance(before, list) else []
    return list(dict.fromkeys([*listed, *names]))
