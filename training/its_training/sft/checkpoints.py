"""Saved checkpoints: sealed when they are whole, found again to resume from, and left alone when they are not.

A `checkpoint-N` gets its `its.json` last, after every process has written its share: one without is half-written.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from its_proxy.checkpoint import check_weights, open_checkpoint
from its_proxy.codesign.errors import ConfigError, ManifestError
from its_proxy.codesign.manifest import Pair, Side, VoteAdvice
from its_proxy.seal import replace_file
from its_training.record.models import weight_digests
from its_training.record.probes import seal
from its_training.sft.processes import Processes

PREFIX = "checkpoint-"
STATE_FILE = "trainer_state.json"
TEMPLATE_FILE = "chat_template.jinja"
PICKLE = "training_args.bin"


@dataclass(frozen=True, slots=True)
class Sealer:
    """What is written into every checkpoint of an arm. `files` are the pool and the prompts that the side names."""

    side: Side
    vote: VoteAdvice
    files: Mapping[str, bytes]
    provenance: Mapping[str, Any]

    def seal(self, folder: Path, step: int) -> None:
        """Adds all that a server needs to what the trainer saved; the manifest comes last."""
        (folder / PICKLE).unlink(missing_ok=True)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's unfilled model card; its-train report writes ours
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            replace_file(path, data)
        template = sha256((folder / TEMPLATE_FILE).read_bytes()).hexdigest()
        side = self.side.model_copy(update={"chat_template_sha256": template})
        for path in folder.glob("*.safetensors"):
            path.chmod(0o644)  # written for the owner alone, and whoever serves it is someone else
        provenance = {**self.provenance, "step": step, "weights_sha256": weight_digests(folder)}
        seal(folder, Pair(trained_with=side, serve_with=side), self.vote, [], [], provenance)


def sealing(trainer: Any, sealer: Sealer, processes: Processes) -> Any:
    """A TrainerCallback that seals each checkpoint on the main process, once all have written theirs."""
    from transformers import TrainerCallback

    class Sealing(TrainerCallback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(args.output_dir) / f"{PREFIX}{state.global_step}"
            trainer.accelerator.wait_for_everyone()
            if trainer.is_fsdp_enabled:  # which saved shards to resume from, and nothing to serve
                export(trainer, folder)
            if processes.is_main:
                trainer.accelerator.unwrap_model(trainer.model).generation_config.save_pretrained(folder)
                sealer.seal(folder, state.global_step)
            trainer.accelerator.wait_for_everyone()

    return Sealing()


def export(trainer: Any, folder: Path, dtype: Any = None) -> None:
    """Writes whole weights, in `dtype` where one is given, and the tokenizer. Every process must call it."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.accelerator.is_main_process:
        model = trainer.accelerator.unwrap_model(trainer.model)
        # Gathered from shares, tied weights are no longer one tensor, and would be saved twice.
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        whole = {name: weight.to(dtype or weight.dtype) for name, weight in state.items() if name not in tied}
        model.save_pretrained(folder, state_dict=whole)
        trainer.processing_class.save_pretrained(folder)
        if dtype is not None:
            _name_dtype(folder / "config.json", dtype)
    trainer.accelerator.wait_for_everyone()


def _name_dtype(config_path: Path, dtype: Any) -> None:
    """transformers writes the dtype that was trained in."""
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


def newest_whole(run: Path) -> Path | None:
    """The checkpoint to resume from: sealed, with the weights it was sealed with."""
    return next((path for path in sorted(_numbered(run), key=step_of, reverse=True) if is_whole(path)), None)


def is_whole(folder: Path) -> bool:
    try:
        check_weights(open_checkpoint(folder))
    except ManifestError:
        return False
    return (folder / STATE_FILE).is_file()


def clear_after(run: Path, step: int) -> list[str]:
    """Removes the checkpoints after `step`, all half-written or damaged, as they are made anew; returns their names."""
    later = [path for path in _numbered(run) if step_of(path) > step]
    for path in later:
        shutil.rmtree(path)
    return sorted(path.name for path in later)


def _numbered(run: Path) -> list[Path]:
    return [path for path in run.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]


def check_room(folder: Path, n_bytes: int) -> None:
    """Raises ConfigError where not even one checkpoint would fit."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise ConfigError(
            f"{folder}: {free / 1e9:.1f} GB are free, one checkpoint needs {n_bytes / 1e9:.1f} GB",
            hint="choose another --out",
        )
