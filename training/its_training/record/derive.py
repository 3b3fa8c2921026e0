"""`its-train record --derive FROM TO`: a quantised, merged or converted checkpoint gets the manifest of its origin.

The pair id stays: what TO was trained with, it has from FROM. Its probes keep their tokens, so that the recorded
log-probabilities of base and siblings stand beside TO's own, and neither has to be at hand again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from its_proxy.checkpoint import MAX_CONFIG_BYTES, Checkpoint, open_checkpoint, read_manifest
from its_proxy.codesign.errors import ConfigError, DigestMismatch
from its_proxy.codesign.manifest import FILE_NAME, Logprobs, Probe
from its_proxy.evidence import RATIO, Comparison, Scored, compare, has_reference
from its_proxy.source import Folder
from its_proxy.upstreams.base import applied
from its_training.record.live import Server, served_logprobs
from its_training.record.measured import Measurement, evaluation_rows
from its_training.record.models import load_model, load_tokenizer, weight_digests
from its_training.record.opened import pair_files
from its_training.record.power import Power, power_of
from its_training.record.probes import Show, mean_difference, quietly, score_probes, tokens_of, told
from its_training.record.record import Recorded, place
from its_training.versions import versions


@dataclass(frozen=True, slots=True)
class Derivation:
    """`base` is needed where TO is an adapter; `measurements` are TO's own, as FROM's numbers are not.

    `server` serves TO, where transformers cannot compute with it here.
    """

    origin: Path
    target: Path
    base: Path | None = None
    measurements: tuple[Measurement, ...] = ()
    device: str = "cpu"
    server: Server | None = None


def derive(derivation: Derivation, show: Show = quietly) -> Recorded:
    """Measures TO with FROM's probes and seals them into it. Raises ConfigError and the ManifestError family."""
    origin, target = open_checkpoint(derivation.origin), derivation.target
    _check_target(origin, target)
    _check_template(origin, target)
    evaluation = [row for one in derivation.measurements for row in evaluation_rows(one, origin.pair_id, {})]
    probes = [probe for probe in origin.manifest.probes if has_reference(probe)]
    if not probes:
        raise ConfigError(f"{origin.source} records no log-probabilities", hint="record it first: its-train record")
    measure = _measured_here if derivation.server is None else _measured_there
    measured = measure(derivation, origin, probes, show)
    found = _distance(probes, measured)
    _check_nearest(origin, target, found)
    power = power_of(measured)
    sealed = place(
        target, pair_files(origin), origin.manifest, measured, evaluation, _provenance(origin, target, found, power)
    )
    return Recorded(sealed, power, (_remark(origin, found),))


def _check_target(origin: Checkpoint, target: Path) -> None:
    if not target.is_dir():
        raise ConfigError(f"{target} is not a folder", hint="--derive FROM TO: TO is the derivative's folder")
    if origin.manifest.origin == "declared":
        hint = "its-proxy manifest init declares the derivative from its own server"
        raise ConfigError(f"{origin.source} holds a declared manifest", hint=hint)
    if origin.folder is not None and origin.folder.resolve() == target.resolve():
        raise ConfigError("--derive: both are one folder", hint="its-train record measures a checkpoint again")
    if not weight_digests(target):
        raise ConfigError(f"{target} holds no safetensors", hint="weights are read from safetensors only")
    if (target / FILE_NAME).exists():
        found = read_manifest(target)
        if found is not None and found.pair_id != origin.pair_id:
            raise ConfigError(
                f"{target} holds the manifest of another pair, {found.pair_id[:8]}",
                hint=f"it is no derivative of {origin.source}, or {FILE_NAME} was copied there by mistake",
            )


def _check_template(origin: Checkpoint, target: Path) -> None:
    """The pair names the template's digest; equal tokens for a few probes do not prove the whole of it."""
    expected = origin.manifest.pair.serve_with.chat_template_sha256
    template = Folder(target).read("chat_template.jinja", MAX_CONFIG_BYTES)
    if expected is not None and template is not None and sha256(template).hexdigest() != expected:
        raise DigestMismatch(
            f"{target}/chat_template.jinja is not the template that the pair names",
            hint=f"copy that of {origin.source}: the model would read prompts that it was not trained on",
        )


def _check_tokens(origin: Checkpoint, tokenizer: Any, probes: Sequence[Probe], target: Path) -> None:
    template_kwargs = origin.manifest.pair.serve_with.chat_template_kwargs
    for number, probe in enumerate(probes):
        tokens = tokens_of(tokenizer, probe.messages, template_kwargs)
        if tokens != probe.prompt_token_ids:
            pairs = zip(tokens, probe.prompt_token_ids, strict=False)
            place = next((n for n, (one, other) in enumerate(pairs) if one != other), len(tokens))
            raise ConfigError(
                f"{target} renders probe {number} to other tokens than {origin.source}, from token {place} on",
                hint="its tokenizer or chat template is another one: this is another model, not a derivative",
            )


def _measured_here(derivation: Derivation, origin: Checkpoint, probes: Sequence[Probe], show: Show) -> list[Probe]:
    """In fp32 from the saved files, and the noise against bf16."""
    import torch

    _check_tokens(origin, load_tokenizer(derivation.target, derivation.base), probes, derivation.target)
    with show(f"probes of {derivation.target.name}") as advance:
        model = load_model(derivation.target, derivation.base, derivation.device)
        this = score_probes(model, told(probes, advance))
        rounded = score_probes(model.to(torch.bfloat16), probes)
    noises = [mean_difference(*pair) for pair in zip(this, rounded, strict=True)]
    return [_with(*row, "float32") for row in zip(probes, this, noises, strict=True)]


def _measured_there(derivation: Derivation, origin: Checkpoint, probes: Sequence[Probe], show: Show) -> list[Probe]:
    """As the server shows them. Its noise is not known, and a handshake is then as lenient as it may be."""
    assert derivation.server is not None
    template_kwargs = origin.manifest.pair.serve_with.chat_template_kwargs
    with applied(origin.pair_id):  # the probes are stored as rewritten, and a layer there may serve the pair
        this = asyncio.run(served_logprobs(derivation.server, probes, template_kwargs, show))
    return [_with(*row, 0.0, None) for row in zip(probes, this, strict=True)]


def _with(probe: Probe, this: list[float], noise: float, dtype: str | None) -> Probe:
    """TO's own log-probabilities beside those of base and siblings, over the same tokens."""
    assert probe.logprobs is not None
    recorded = probe.logprobs
    logprobs = Logprobs(this=this, base=recorded.base, siblings=recorded.siblings, noise=noise)
    return probe.model_copy(update={"dtype": dtype, "logprobs": logprobs})


def _distance(probes: Sequence[Probe], measured: Sequence[Probe]) -> Comparison:
    """What FROM's handshake would see of TO: how far the derivative lies from its origin, and from the others."""
    scored = [
        Scored(probe, new.logprobs.this)
        for probe, new in zip(probes, measured, strict=True)
        if new.logprobs is not None
    ]
    return compare(scored, is_declared=False)


def _check_nearest(origin: Checkpoint, target: Path, found: Comparison) -> None:
    """A copy of another arm must not get this arm's pair; what FROM's own handshake would let pass may be."""
    name, distance = found.nearest_other or ("", float("inf"))
    if found.this > max(distance, found.bound):
        raise ConfigError(
            f"{target} lies {found.this:.4f} nats a token from {origin.source}, but {distance:.4f} from {name}",
            hint=f"it is made from {name}, or changed beyond what a derivative is",
        )


def _remark(origin: Checkpoint, found: Comparison) -> str:
    said = f"{found.this:.4f} nats a token from {origin.source}"
    if found.nearest_other is None:
        return said
    name, distance = found.nearest_other
    is_far = found.this > found.bound and distance < RATIO * found.this
    far = "; that is far for a derivative: evaluate it" if is_far else ""
    return f"{said}, {distance:.4f} from {name}{far}"


def _provenance(origin: Checkpoint, target: Path, found: Comparison, power: Power) -> dict[str, Any]:
    before = origin.manifest.provenance
    kept = {key: value for key, value in before.items() if key not in ("weights_sha256", "record", "derived_from")}
    return {
        **kept,
        "weights_sha256": weight_digests(target),
        "derived_from": {
            "pair_id": origin.pair_id,
            "weights_sha256": before.get("weights_sha256", {}),
            "distance": round(found.this, 6),
            # Measured on FROM's weights: no number of TO's.
            "evaluation": [row.model_dump(mode="json") for row in origin.manifest.evaluation],
            **({"derived_from": before["derived_from"]} if "derived_from" in before else {}),
        },
        "record": {"versions": versions(), "power": power.document()},
    }
