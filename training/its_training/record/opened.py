"""What is known of a checkpoint before it is recorded: its pair and the files that the pair names.

From the manifest that `its-train sft` sealed into it, or from the prepared arm that it was trained on.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from its_proxy.bundle import named_files
from its_proxy.checkpoint import MAX_CONFIG_BYTES, Checkpoint, check_weights, open_checkpoint, read_manifest
from its_proxy.codesign.errors import ConfigError, DigestMismatch
from its_proxy.codesign.manifest import FILE_NAME, Pair, Side
from its_proxy.codesign.personas import MAX_POOL_BYTES
from its_proxy.source import Files, Folder
from its_training.record.probes import document_bytes

SIDECAR = "dataset.json"


@dataclass(frozen=True, slots=True)
class Arm:
    """A prepared arm, as `its-train prepare` wrote it."""

    folder: Path
    name: str

    def sidecar(self) -> dict[str, Any]:
        """dataset.json. Raises ConfigError."""
        path = self.folder / SIDECAR
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", hint="--dataset is a folder of its-train prepare") from None
        except ValueError:
            raise ConfigError(f"{path} is not JSON") from None
        arms = document.get("arms") if isinstance(document, dict) else None
        if not isinstance(arms, dict) or self.name not in arms:
            known = ", ".join(sorted(arms)) if isinstance(arms, dict) else "none"
            raise ConfigError(f"{path} has no arm {self.name!r}", hint=f"it has: {known}")
        return dict(document)

    def side(self) -> Side:
        try:
            return Side.model_validate_json(json.dumps(self.sidecar()["arms"][self.name].get("side")))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(["arms", self.name, "side", *map(str, first["loc"])])
            raise ConfigError(f"{self.folder / SIDECAR}: {place}: {first['msg']}") from None

    def provenance(self) -> dict[str, Any]:
        """Where the rows come from, as a manifest tells it."""
        sidecar = self.sidecar()
        arm, source = sidecar["arms"][self.name], sidecar.get("source") or {}
        dataset = {key: source.get(key) for key in ("dataset", "revision") if source.get(key) is not None}
        return {
            **({"dataset": dataset} if dataset else {}),
            "dataset_sha256": arm.get("sha256"),
            "ids_sha256": arm.get("ids_sha256"),
            **({"licenses": {"dataset": source["license"]}} if source.get("license") else {}),
        }


def open_for_record(folder: Path, arm: Arm | None) -> Checkpoint:
    """The checkpoint with its recipes, verified. Raises ConfigError and the ManifestError family."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder", hint="a checkpoint that lies on this machine is recorded")
    if not (folder / FILE_NAME).exists():
        if arm is None:
            hint = "--dataset DATA --arm ARM say what it was trained on"
            raise ConfigError(f"{folder} holds no {FILE_NAME}", hint=hint)
        return _from_arm(folder, arm)
    checkpoint = open_checkpoint(folder)
    if checkpoint.manifest.origin == "declared":
        raise ConfigError(f"{folder} holds a declared manifest", hint="its-proxy manifest init takes its probes anew")
    if arm is not None:
        _check_same_side(checkpoint, arm)
    try:
        check_weights(checkpoint)
    except DigestMismatch as error:
        hint = "a quantised, merged or converted derivative is recorded by --derive"
        raise DigestMismatch(f"{error.message}: changed since it was sealed", hint=hint) from None
    return checkpoint


def _from_arm(folder: Path, arm: Arm) -> Checkpoint:
    """A draft of the manifest, opened as any other: with the arm's pool, which the checkpoint has not got yet."""
    read_manifest(folder)  # refuses a pointer whose manifest was lost
    template = Folder(folder).read("chat_template.jinja", MAX_CONFIG_BYTES)
    side = arm.side()
    if template is not None:
        side = side.model_copy(update={"chat_template_sha256": sha256(template).hexdigest()})
    draft = document_bytes(Pair(trained_with=side, serve_with=side), None, [], [], arm.provenance())
    return open_checkpoint(Files(str(arm.folder), {FILE_NAME: draft, **_arm_files(arm.folder, side)}))


def _arm_files(folder: Path, side: Side) -> dict[str, bytes]:
    """The pool and the prompts that the side names, where they are there; opening refuses what is missing."""
    personas, source = side.personas, Folder(folder)
    files: dict[str, bytes] = {}
    if personas is not None and personas.file is not None:
        pool = source.read(personas.file, MAX_POOL_BYTES)
        files |= {personas.file: pool} if pool is not None else {}
    if personas is not None and personas.written_by is not None and personas.written_by.prompts is not None:
        name = personas.written_by.prompts.folder.rstrip("/")
        files |= {f"{name}/{file}": data for file, data in (source.read_folder(name) or {}).items()}
    return files


def _check_same_side(checkpoint: Checkpoint, arm: Arm) -> None:
    sealed, prepared = (
        side.model_copy(update={"chat_template_sha256": None}).model_dump(mode="json")
        for side in (checkpoint.manifest.pair.trained_with, arm.side())
    )
    for key, value in sealed.items():
        if prepared[key] != value:
            raise ConfigError(
                f"{checkpoint.source} was trained with another {key} than arm {arm.name!r} of {arm.folder}",
                hint="name the arm that it was trained on, or leave --dataset and --arm out",
            )


def pair_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files that the pair names: pool and prompts, without the manifest itself."""
    files = named_files(checkpoint.source, checkpoint.manifest)
    return {name: data for name, data in files.items() if name != FILE_NAME}
