"""Trains the arms of a recipe, one after another: resumed where an earlier run was stopped, sealed as they are saved.

OUT/<recipe>/<arm>-seed<k>/run.json         what it is trained with; another recipe is refused here
OUT/<recipe>/<arm>-seed<k>/metrics.jsonl    a line a step
OUT/<recipe>/<arm>-seed<k>/checkpoint-<n>/  to serve and to resume from
OUT/<recipe>/<arm>-seed<k>/final/           to serve: weights in the recipe's dtype, no optimizer, no pickle
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from its_proxy.codesign.errors import ConfigError
from its_proxy.seal import replace_file
from its_training.files import STAGE_FILE, holds
from its_training.progress import Stages, step_callback
from its_training.recipe import Recipe
from its_training.sft import metrics
from its_training.sft.arm import TrainingArm
from its_training.sft.base import fit_for_training, open_model, open_tokenizer
from its_training.sft.checkpoints import Sealer, check_room, clear_after, export, newest_whole, sealing, step_of
from its_training.sft.encode import Encoded, encode_rows
from its_training.sft.processes import Processes
from its_training.sft.schedule import Schedule, row_order, schedule
from its_training.sft.settings import config_of, lora_of
from its_training.sft.templates import template_for
from its_training.versions import versions

RUN_FILE = "run.json"


@dataclass(frozen=True, slots=True)
class Sft:
    """What to train, where to, and in how many processes. `resume` goes on with what is there."""

    recipe: Recipe
    base: str
    out: Path
    processes: Processes
    stages: Stages
    resume: bool = True
    max_steps: int | None = None

    @property
    def revision(self) -> str | None:
        return self.recipe.base.revision if self.base == self.recipe.base.model else None

    def folder(self, arm: str, seed: int) -> Path:
        return self.out / self.recipe.name / f"{arm}-seed{seed}"

    def train(self, arm: TrainingArm, seed: int) -> Path:
        """The arm's `final` checkpoint, trained if need be. Raises ConfigError."""
        recipe, folder = self.recipe, self.folder(arm.name, seed)
        title = f"{arm.name}, seed {seed}"
        plan = schedule(
            recipe.optimizer, len(arm.rows), self.processes.n, recipe.compute.per_device_batch, self.max_steps
        )
        inputs = self._inputs(arm, seed, plan)
        if self._is_finished(folder, inputs):
            self.stages.skipped(title)
            return folder / "final"
        tokenizer = open_tokenizer(self.base, self.revision)
        template, n_compared = template_for(recipe.chat.template, tokenizer, [row["messages"][:-1] for row in arm.rows])
        fit_for_training(tokenizer, template.end_of_turn)
        with self.stages.show(f"tokens of {arm.name}") as advance:
            encoded = encode_rows(tokenizer, template, arm.rows, recipe.chat.max_length, advance)
        chat = {"template": template.name, "sha256": template.sha256, "prompts_compared": n_compared}
        sealer = Sealer(arm.side, recipe.vote, arm.files, self._provenance(arm, seed, plan, chat))
        with self.stages.show(title) as advance, _disk_errors(folder):
            order = row_order(len(encoded), plan.steps * plan.global_batch, seed)
            tokens = metrics.tokens_by_step([len(row.input_ids) for row in encoded], order, plan.global_batch)
            trainer = self._trainer(folder, seed, plan, tokenizer, encoded, order)
            trainer.add_callback(metrics.json_lines(folder / metrics.FILE, tokens, len(encoded) / plan.global_batch))
            trainer.add_callback(step_callback(advance))
            trainer.add_callback(sealing(trainer, sealer, self.processes))
            start = self._start(folder, inputs)
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
            self._finish(trainer, folder, sealer, inputs, plan.steps)
        return folder / "final"

    def _inputs(self, arm: TrainingArm, seed: int, plan: Schedule) -> dict[str, Any]:
        """What decides the weights. Neither the number of processes nor where things lie is among it."""
        recipe = self.recipe
        return {
            "arm": arm.name,
            "arm_sha256": arm.sha256,
            "ids_sha256": arm.ids_sha256,
            "base": {"model": self.base, "revision": self.revision},
            "chat": recipe.chat.model_dump(mode="json"),
            "method": recipe.method,
            "lora": recipe.lora.model_dump(mode="json") if recipe.lora else None,
            "optimizer": recipe.optimizer.model_dump(mode="json"),
            "dtype": recipe.compute.dtype,
            "attention": recipe.compute.attention,
            "seed": seed,
            "steps": plan.steps,
        }

    def _is_finished(self, folder: Path, inputs: dict[str, Any]) -> bool:
        """Whether `final` is there. Raises ConfigError where the folder holds another run: nothing is overwritten."""
        try:
            known = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            if folder.exists() and any(folder.iterdir()):
                raise ConfigError(f"{folder} holds no run of its-train sft", hint="choose another --out") from None
            return False
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder / RUN_FILE} cannot be read: {error}") from None
        for key, value in json.loads(json.dumps(inputs)).items():
            if known.get(key) != value:
                raise ConfigError(
                    f"{folder} was trained with another {key}", hint="choose another --out, or remove that folder first"
                )
        if not self.resume:
            raise ConfigError(f"{folder} holds this run already", hint="--no-resume starts in a new --out only")
        return holds(folder / "final", inputs)

    def _start(self, folder: Path, inputs: dict[str, Any]) -> Path | None:
        """The checkpoint to go on from; what a crash left half-written after it is removed."""
        start = newest_whole(folder)
        if self.processes.is_main:
            step = 0 if start is None else step_of(start)
            for name in clear_after(folder, step):
                self.stages.console.print(f"[dim]{name} was half-written: made anew[/dim]", highlight=False)
            metrics.keep_until(folder / metrics.FILE, step)
            replace_file(folder / RUN_FILE, (json.dumps(inputs, indent=1, sort_keys=True) + "\n").encode())
        return start

    def _provenance(self, arm: TrainingArm, seed: int, plan: Schedule, chat: dict[str, Any]) -> dict[str, Any]:
        """What the manifest tells of how the checkpoint came to be."""
        recipe = self.recipe
        licenses = {**arm.provenance.get("licenses", {}), "base": recipe.base.license}
        return {
            **arm.provenance,
            "base_model": self.base,
            **({"base_revision": self.revision} if self.revision else {}),
            "licenses": licenses,
            "seed": seed,
            "recipe": {
                "name": recipe.name,
                "label": recipe.label,
                "method": recipe.method,
                "optimizer": recipe.optimizer.model_dump(mode="json"),
                "steps": plan.steps,
                "processes": self.processes.n,
            },
            "chat_template": chat,
            "versions": versions(),
        }

    def _trainer(
        self,
        folder: Path,
        seed: int,
        plan: Schedule,
        tokenizer: Any,
        encoded: Sequence[Encoded],
        order: Sequence[int],
    ) -> Any:
        import numpy as np
        from datasets import Dataset
        from transformers import PrinterCallback
        from trl import SFTTrainer

        class Trainer(SFTTrainer):  # type: ignore[misc]
            def create_model_card(self, *args: Any, **kwargs: Any) -> None:
                """Nothing: its-train report writes one that knows the measurements."""

        metrics.log_into(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = config_of(self.recipe, folder, seed, plan, self.processes)
        model = open_model(self.recipe, self.base, self.revision, tokenizer)
        rows = Dataset.from_dict(
            {
                "input_ids": [np.asarray(row.input_ids) for row in encoded],
                "labels": [np.asarray(row.labels) for row in encoded],
            }
        )
        trainer = Trainer(
            model=model,
            args=config,
            train_dataset=rows.select(order),
            processing_class=tokenizer,
            peft_config=lora_of(self.recipe),
        )
        trainer.remove_callback(PrinterCallback)
        if trainer.is_fsdp_enabled != (self.processes.sharding == "fsdp2"):
            raise ConfigError("FSDP was asked for and the trainer did not take it up", hint="it needs GPUs")
        check_room(self.out, _checkpoint_bytes(trainer.model))
        return trainer

    def _finish(self, trainer: Any, folder: Path, sealer: Sealer, inputs: dict[str, Any], step: int) -> None:
        """Writes `final`, which appears by one rename when it is whole."""
        import torch

        work, dtype = folder / ".final.partial", getattr(torch, self.recipe.compute.dtype)
        if self.processes.is_main:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
        trainer.accelerator.wait_for_everyone()
        export(trainer, work, dtype if self.recipe.method == "full" else None)
        if self.processes.is_main:
            trainer.accelerator.unwrap_model(trainer.model).generation_config.save_pretrained(work)
            sealer.seal(work, step)
            (work / STAGE_FILE).write_text(json.dumps(inputs, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            os.replace(work, folder / "final")
        trainer.accelerator.wait_for_everyone()


def _checkpoint_bytes(model: Any) -> int:
    """Weights and two moments of the optimizer, in fp32, of what is trained."""
    return sum(
        12 * getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters() if weight.requires_grad
    )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Each library that saves has its own error for a disk that is full."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError:
        raise ConfigError("out of GPU memory", hint="its-train plan tells what fits") from None
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"cannot write {folder}: {said}", hint="finished checkpoints are kept") from None
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error):
            raise
        raise ConfigError(f"cannot write {folder}: is the disk full?", hint="finished checkpoints are kept") from None
