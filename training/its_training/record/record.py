"""`its-train record`: measures a checkpoint's probes, tells their power, and seals both into its manifest."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from its_proxy.checkpoint import Checkpoint, open_checkpoint, read_manifest
from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import FILE_NAME, Evaluation, Manifest, Probe
from its_proxy.evidence import MAX_TOKENS
from its_proxy.handshake import MAX_PROBES
from its_proxy.seal import replace_file
from its_training.record.measured import Measurement, evaluation_rows
from its_training.record.models import check_model, load_tokenizer, weight_digests
from its_training.record.opened import Arm, open_for_record, pair_files
from its_training.record.power import Power, power_of
from its_training.record.probes import Reference, Show, measure, quietly, render, seal
from its_training.record.queries import MAX_CONSIDERED, by_room, check_unseen, choose_queries
from its_training.versions import versions


@dataclass(frozen=True, slots=True)
class Request:
    """What to record, against what. `out` takes the manifest instead of the checkpoint's own folder."""

    checkpoint: Path
    base: Path
    siblings: tuple[Reference, ...] = ()
    arm: Arm | None = None
    queries: Path | None = None
    n_probes: int = 8
    measurements: tuple[Measurement, ...] = ()
    device: str = "cpu"
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """The manifest as it was read back, and a line on each thing that whoever recorded it should know."""

    manifest: Manifest
    power: Power
    remarks: tuple[str, ...]


def record(request: Request, show: Show = quietly) -> Recorded:
    """Everything is measured before anything is written. Raises ConfigError and the ManifestError family."""
    checkpoint = open_for_record(request.checkpoint, request.arm)
    if request.out is not None:
        check_out(request.out, checkpoint.pair_id)
    for path in (request.base, *(sibling.folder for sibling in request.siblings)):
        check_model(path)
    manifest = checkpoint.manifest
    evaluation = _evaluation(manifest, request.measurements) or manifest.evaluation
    probes, power, remarks, source = _probes(request, checkpoint, show)
    provenance = {
        **(request.arm.provenance() if request.arm is not None else {}),
        **manifest.provenance,  # what was sealed in training knows better
        "base_model": manifest.provenance.get("base_model", _name(request.base)),
        "weights_sha256": _digests(request.checkpoint),
        "versions": manifest.provenance.get("versions", versions()),
        "record": {
            "queries": source,
            "references": {
                one.name: weight_digests(one.folder) for one in (Reference("base", request.base), *request.siblings)
            },
            "versions": versions(),
            "power": power.document(),
        },
    }
    sealed = _write(request, checkpoint, probes, evaluation, provenance)
    return Recorded(sealed, power, (*remarks, *_unmatched(sealed, request.siblings)))


def _probes(request: Request, checkpoint: Checkpoint, show: Show) -> tuple[list[Probe], Power, tuple[str, ...], str]:
    """As many as were asked for; up to what a handshake reads where these do not tell every reference apart."""
    arm, side = request.arm, checkpoint.manifest.pair.serve_with
    folder, name = (arm.folder, arm.name) if arm is not None else (None, None)
    sealed = checkpoint.manifest if checkpoint.folder is not None else None
    queries = choose_queries(request.queries, folder, name, sealed)
    tested = {one.file.name: one.queries for one in request.measurements if one.split == "test"}
    check_unseen(queries.texts, tested)
    tokenizer = load_tokenizer(request.checkpoint, request.base)
    considered = queries.texts[:MAX_CONSIDERED]
    rendered = by_room([render(tokenizer, checkpoint.serve, side.chat_template_kwargs, text) for text in considered])
    base = Reference("base", request.base)

    def measured(chosen: Sequence[Probe]) -> list[Probe]:
        return measure(request.checkpoint, tokenizer, chosen, base, request.siblings, device=request.device, show=show)

    probes = measured(rendered[: request.n_probes])
    power, remarks = power_of(probes), []
    more = rendered[request.n_probes : MAX_PROBES]
    if power.is_short and more:
        probes += measured(more)
        power = power_of(probes)
        remarks.append(f"{request.n_probes} probes do not tell every reference apart: {len(probes)} were taken")
    if n_long := sum(len(probe.prompt_token_ids) > MAX_TOKENS for probe in probes):
        remarks.append(
            f"{n_long} of {len(probes)} prompts are longer than {MAX_TOKENS} tokens: what follows is not compared; "
            "shorter queries have more power"
        )
    return probes, power, tuple(remarks), queries.source


def _unmatched(manifest: Manifest, siblings: Sequence[Reference]) -> Iterator[str]:
    """Which siblings say that they were trained on other rows."""
    ids = manifest.provenance.get("ids_sha256")
    for sibling in siblings:
        other = read_manifest(sibling.folder) if (sibling.folder / FILE_NAME).is_file() else None
        theirs = None if other is None else other.provenance.get("ids_sha256")
        if ids is not None and theirs is not None and theirs != ids:
            yield f"{sibling.name} was trained on other rows: no matched arm of this checkpoint"


def _name(base: Path) -> str:
    """A Hub id as it is; of a folder its name alone, as where it lies here is nobody's concern."""
    return base.resolve().name if base.is_dir() else str(base)


def _digests(folder: Path) -> dict[str, str]:
    digests = weight_digests(folder)
    if not digests:
        raise ConfigError(f"{folder} holds no safetensors", hint="weights are read from safetensors only")
    return digests


def _evaluation(manifest: Manifest, measurements: Sequence[Measurement]) -> list[Evaluation]:
    seeds: dict[str, Any] = {"persona": manifest.pair.serve_with.seed}
    if isinstance(train := manifest.provenance.get("seed"), int):
        seeds = {"train": train, **seeds}
    return [row for measurement in measurements for row in evaluation_rows(measurement, manifest.pair_id, seeds)]


def _write(
    request: Request,
    checkpoint: Checkpoint,
    probes: Sequence[Probe],
    evaluation: Sequence[Evaluation],
    provenance: Mapping[str, Any],
) -> Manifest:
    manifest = checkpoint.manifest
    folder = request.checkpoint if request.out is None else request.out
    return place(folder, pair_files(checkpoint), manifest, probes, evaluation, provenance)


def check_out(out: Path, pair_id: str) -> None:
    """Raises ConfigError for a folder that holds a checkpoint, or another pair's manifest."""
    if (out / "config.json").exists() or (out / "adapter_config.json").exists():
        raise ConfigError(f"{out} is a checkpoint itself", hint="--out takes the manifest alone; see --derive")
    if out.is_dir() and (found := read_manifest(out)) is not None and found.pair_id != pair_id:
        raise ConfigError(f"{out} holds the manifest of another pair, {found.pair_id[:8]}", hint="choose another --out")


def place(
    folder: Path,
    files: Mapping[str, bytes],
    manifest: Manifest,
    probes: Sequence[Probe],
    evaluation: Sequence[Evaluation],
    provenance: Mapping[str, Any],
) -> Manifest:
    """Puts the files of a pair and its manifest, sealed last, into `folder`; returns it as read back."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            replace_file(path, data)
        seal(folder, manifest.pair, manifest.vote, probes, evaluation, provenance)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}", hint="is the folder ours to write?") from None
    return open_checkpoint(folder).manifest
