"""`its-train demo`: from nothing to sealed demo checkpoints, stage by stage.

    OUT/<base>/base/          the pre-trained base
    OUT/<base>/arms/<arm>/    its rows, and the fine-tuned checkpoint without a manifest

Each folder appears when it is complete and is left alone by the next run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from its_proxy.codesign.personas import taxonomy_pool
from its_training import problems
from its_training.arms import prepare, side_of
from its_training.files import build, file_sha256, is_built, load_checkpoint, save_checkpoint
from its_training.pretrain import build_tokenizer, pretrain
from its_training.progress import Advance, Stages
from its_training.recipe import ArmName, BaseName, DemoRecipe
from its_training.sft import fine_tune

WEIGHTS_FILE = "model.safetensors"
LOG_FILE = "training.jsonl"


@dataclass(frozen=True, slots=True)
class Demo:
    """What to build and where; each stage is a method of its folder and may be run again."""

    out: Path
    recipe: DemoRecipe
    stages: Stages

    def base_folder(self, base: BaseName) -> Path:
        return self.out / base / "base"

    def arm_folder(self, base: BaseName, arm: ArmName) -> Path:
        return self.out / base / "arms" / arm

    def build_base(self, base: BaseName) -> None:
        """Tokenizer and pre-trained weights."""
        recipe = self.recipe
        inputs = {
            "base": base,
            "personas_sha256": taxonomy_pool().sha256,
            **recipe.pick("seed", "n_tokens", "hidden_size", "intermediate_size", "n_layers", "n_heads", "n_kv_heads"),
            **recipe.pick("max_length", "n_pretrain", "prose_share", "prefix_share"),
            **recipe.pick("pretrain_steps", "pretrain_batch", "pretrain_lr"),
        }

        def make(folder: Path, advance: Advance) -> None:
            tokenizer = build_tokenizer(recipe)
            model = pretrain(base, tokenizer, recipe, folder / LOG_FILE, advance)
            save_checkpoint(model, tokenizer, folder)

        self._build(f"base {base}", self.base_folder(base), inputs, make)

    def build_arm(self, base: BaseName, arm: ArmName) -> None:
        """The arm's rows, and the base fine-tuned on them."""
        recipe = self.recipe
        side = side_of(arm, recipe.seed)
        inputs = {
            "arm": side.model_dump(mode="json"),
            "base_sha256": file_sha256(self.base_folder(base) / WEIGHTS_FILE),
            "learning_rate": recipe.sft_lr(base),
            **recipe.pick("seed", "n_sft", "sft_epochs", "sft_batch", "max_length"),
        }

        def make(folder: Path, advance: Advance) -> None:
            dataset = prepare(problems.draw(recipe.n_sft, "sft", recipe.seed), side, folder)
            model, tokenizer = load_checkpoint(self.base_folder(base))
            fine_tune(
                model,
                tokenizer,
                dataset.rows,
                folder / LOG_FILE,
                advance,
                seed=recipe.seed,
                n_epochs=recipe.sft_epochs,
                batch=recipe.sft_batch,
                learning_rate=recipe.sft_lr(base),
                max_length=recipe.max_length,
            )
            save_checkpoint(model, tokenizer, folder)

        self._build(f"arm {base}/{arm}", self.arm_folder(base, arm), inputs, make)

    def _build(self, title: str, folder: Path, inputs: dict[str, Any], make: Callable[[Path, Advance], None]) -> None:
        if is_built(folder, inputs):
            self.stages.skipped(title)
            return
        with self.stages.show(title) as advance:
            build(folder, inputs, lambda work: make(work, advance))
