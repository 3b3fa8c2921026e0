"""The section of a model card that its manifest vouches for, between markers in the checkpoint's README.md.

    write_card(Path("Qwen-7B-gsm8k-random"))

Every number is the manifest's own; whatever stands outside the markers is left as it is.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.errors import ConfigError, ManifestError
from its_proxy.codesign.manifest import Evaluation, Manifest
from its_proxy.codesign.strategies import strategy_named
from its_proxy.seal import replace_file
from its_training.report.front_matter import joined, split, with_facts
from its_training.report.prompts import personas_in_words
from its_training.report.table import cell, percent, plain, table

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
BEGIN, END = "<!-- its-proxy: begin -->", "<!-- its-proxy: end -->"


def write_card(folder: Path, name: str | None = None) -> Path:
    """Puts the section into the checkpoint's README.md, whole or not at all. Raises ConfigError."""
    path = folder / "README.md"
    data = card(folder, name).encode()
    try:
        replace_file(path, data)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint="--stdout prints the card instead") from None
    return path


def card(folder: Path, name: str | None = None) -> str:
    """The README.md as it should be: front matter, section, and all that was there. Raises the ManifestError family.

    `name` is the checkpoint's, by default its folder's.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name}: letters, digits, '.', '_' and '-' are meant", hint="it becomes a folder's")
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder", hint="a checkpoint with its its.json is meant")
    manifest = open_checkpoint(folder, allow_one_sided=True).manifest
    front, body = split(_readme(folder))
    is_adapter = (folder / "adapter_config.json").is_file()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name) if name is None else name
    section = f"{BEGIN}\n{section_of(manifest, name, is_adapter=is_adapter)}\n{END}"
    return joined(with_facts(front, manifest, is_adapter=is_adapter), _inserted(body, section, name))


def _readme(folder: Path) -> str:
    path = folder / "README.md"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path} cannot be read", hint="it should be a file in UTF-8") from None


def _inserted(body: str, section: str, name: str) -> str:
    if body.count(BEGIN) > 1 or body.count(BEGIN) != body.count(END) or body.find(END) < body.find(BEGIN):
        raise ConfigError("README.md: its markers do not pair up", hint=f"leave one {BEGIN} before one {END}, or none")
    if BEGIN in body:
        before, rest = body.split(BEGIN)
        return before + section + rest.split(END)[1]
    if not body.strip():
        return f"\n# {name}\n\n{section}\n"
    return f"{body.rstrip()}\n\n{section}\n"


def section_of(manifest: Manifest, name: str, *, is_adapter: bool = False) -> str:
    """Our part of the card, as Markdown."""
    parts = [
        "## Serve it as it was trained",
        "\n".join(_serving(manifest, name, is_adapter)),
        "### Pair",
        _pair_table(manifest),
        "### Measured",
        *_measured(manifest),
        "### Limits",
        "\n".join(f"- {limit}" for limit in _limits(manifest)),
    ]
    return "\n\n".join(parts)


def _serving(manifest: Manifest, name: str, is_adapter: bool) -> Iterator[str]:
    trained, served = manifest.pair.trained_with.strategy, manifest.pair.serve_with.strategy
    yield f"This checkpoint was trained with the strategy `{trained}` and expects to be asked with `{served}`: see"
    yield "`its.json`. its-proxy applies it to every query, samples candidates and votes."
    yield ""
    yield "```sh"
    served_name = f"{name}@{manifest.pair_id[:8]}"
    if is_adapter:
        yield f"vllm serve {shlex.quote(_base(manifest))} --enable-lora --lora-modules {served_name}=./{name}"
    else:
        yield f"vllm serve ./{name} --served-model-name {served_name}"
    yield f"its-proxy serve --upstream http://127.0.0.1:8000/v1 --checkpoint ./{name} --model {name} \\"
    yield f"    --served-name {served_name}"
    yield "```"


def _pair_table(manifest: Manifest) -> str:
    pair, provenance = manifest.pair, manifest.provenance
    rows = [
        ["pair id", f"`{manifest.pair_id}`"],
        ["trained with", f"{pair.trained_with.strategy}, version {pair.trained_with.version}"],
        ["served with", f"{pair.serve_with.strategy}, version {pair.serve_with.version}"],
        ["personas", personas_in_words(pair.serve_with)],
        ["system prompt", "none" if pair.serve_with.system_prompt is None else pair.serve_with.system_prompt],
        ["vote", "no advice" if manifest.vote is None else _vote(manifest)],
        ["base", _base(manifest)],
        ["licenses", _licenses(manifest)],
    ]
    recipe = provenance.get("recipe")
    if isinstance(recipe, dict) and {"name", "label"} <= recipe.keys():
        rows.append(["recipe", f"{plain(recipe['name'])} ({plain(recipe['label'])})"])
    return table(["", "as recorded"], rows)


def _base(manifest: Manifest) -> str:
    """Of a folder its name alone: a card is read elsewhere."""
    base = plain(manifest.provenance.get("base_model", "not recorded"))
    return Path(base).name if Path(base).is_absolute() else base


def _licenses(manifest: Manifest) -> str:
    licenses = manifest.provenance.get("licenses")
    if not isinstance(licenses, dict) or not licenses:
        return "not recorded"
    return ", ".join(f"{name}: {plain(license)}" for name, license in licenses.items())


def _vote(manifest: Manifest) -> str:
    assert manifest.vote is not None
    advice = manifest.vote.model_dump(mode="json", exclude_none=True)
    return ", ".join(f"{key} {plain(value)}" for key, value in advice.items())


def _measured(manifest: Manifest) -> Iterator[str]:
    derived = manifest.provenance.get("derived_from")
    if manifest.evaluation:
        yield _numbers(manifest.evaluation)
        yield "Percent [95% interval over items]; training seeds are not covered."
    else:
        yield "Nothing was measured on these weights."
    if isinstance(derived, dict):
        yield (
            "These weights were derived from a checkpoint of the same pair, "
            f"{plain(derived.get('distance', '?'))} nats a token away over the probes; its numbers are not theirs."
        )
    power = (manifest.provenance.get("record") or {}).get("power")
    if isinstance(power, dict) and "verdict" in power:
        yield f"Probes: {power['verdict']}"


def _numbers(rows: list[Evaluation]) -> str:
    columns = ["benchmark", "split", "items", "metric", "value", "asked", "seeds"]
    listed = []
    for row in rows:
        extra = row.model_extra or {}
        asked = plain(extra.get("asked") or "not recorded") + (" (forced)" if extra.get("forced") else "")
        seeds = plain(extra.get("seeds", "not recorded"))
        value = percent(row.value, row.ci95)
        listed.append([row.benchmark, row.split, str(row.items), row.metric, value, asked, seeds])
    return table(columns, listed)


def _limits(manifest: Manifest) -> Iterator[str]:
    yield one_side_alone(manifest)
    yield (
        "Nothing here says that personas help: an arm trained and asked without any has to be measured beside it, "
        "over several training seeds."
    )
    personas = manifest.pair.serve_with.personas
    if personas is not None and personas.source == "taxonomy":
        yield "Its personas are template personas, a stand-in; none was written by a language model."
    yield (
        "The hyper-parameters and prompts of the paper on input-time scaling (arXiv 2508.13654) are unpublished; "
        "those used here are not its."
    )
    if manifest.pair.trained_with.family != manifest.pair.serve_with.family:
        yield "Persona text stands on one side of this pair only."


def one_side_alone(manifest: Manifest) -> str:
    """What asking it otherwise than trained cost: a claim only where two intervals lie apart."""
    asked_alike, asked_otherwise = _by_side(manifest)
    found = [(alike, other) for other in asked_otherwise for alike in asked_alike if _are_comparable(alike, other)]
    if not found:
        return "Asking it otherwise than it was trained was not measured here, so nothing is said about it."
    hurt = [(alike, other) for alike, other in found if alike.ci95 and other.ci95 and other.ci95[1] < alike.ci95[0]]
    if not hurt:
        return "Asking it otherwise than it was trained was measured; the intervals do not tell the two apart."
    alike, other = max(hurt, key=lambda pair: pair[0].value - pair[1].value)
    asked = cell(plain((other.model_extra or {})["asked"]))
    return (
        f"Asked `{asked}`, it lost: {alike.metric} {percent(other.value, other.ci95)} instead of "
        f"{percent(alike.value, alike.ci95)} on {alike.items} items of {cell(alike.benchmark)}, {alike.split}."
    )


def _by_side(manifest: Manifest) -> tuple[list[Evaluation], list[Evaluation]]:
    """Rows asked in the family that it is served with, and rows asked in another one."""
    alike, otherwise = [], []
    for row in manifest.evaluation:
        asked = (row.model_extra or {}).get("asked")
        if not isinstance(asked, str):
            continue
        try:
            family = strategy_named(asked).family
        except ManifestError:
            continue  # a strategy that is unknown here
        if family == manifest.pair.trained_with.family:
            alike.append(row)
        elif manifest.pair.trained_with.strategy != "mixed":  # which knows plain queries, too
            otherwise.append(row)
    return alike, otherwise


def _are_comparable(one: Evaluation, other: Evaluation) -> bool:
    return _conditions(one) == _conditions(other)


def _conditions(row: Evaluation) -> tuple[object, ...]:
    return row.benchmark, row.split, row.metric, row.items, (row.model_extra or {}).get("temperature")
