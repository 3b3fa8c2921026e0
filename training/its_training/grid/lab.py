"""Where a grid's checkpoints and problems come from: built by the demo's recipe, or lying in folders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from its_proxy.candidates import Item, read_items
from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import Personas, Side
from its_proxy.codesign.personas import Pool, taxonomy_pool
from its_proxy.codesign.strategies import strategy_named
from its_training.demo import problems
from its_training.demo.arms import prepare, side_of
from its_training.demo.build import LOG_FILE, WEIGHTS_FILE, Demo
from its_training.demo.recipe import DemoRecipe
from its_training.files import build, file_sha256, is_built, load_checkpoint, save_checkpoint
from its_training.grid.spec import Arm, GridSpec
from its_training.progress import Advance, Stages
from its_training.sft.trainer import fine_tune


class Lab(Protocol):
    def base(self) -> Path | None:
        """The untouched base, built if need be; None where the grid names none."""
        ...

    def checkpoint(self, arm: str, seed: int) -> Path:
        """The arm trained with that seed, built if need be."""
        ...

    def items(self, split: str) -> Sequence[Item]: ...


def open_pool(arm: Arm) -> Pool:
    """The personas that the arm draws from. Raises ConfigError, and ManifestError for a broken pool."""
    if arm.pool is None:
        return taxonomy_pool()
    try:
        return Pool.from_jsonl(Path(arm.pool).read_bytes())
    except OSError as error:
        raise ConfigError(f"{arm.pool}: {error.strerror}", hint="a pool that its-train personas froze") from None


def side_for(arm: Arm, pool: Pool, seed: int) -> Side:
    """How the arm's queries are rewritten, by the words of a manifest."""
    side = side_of(arm.strategy, seed)
    if strategy_named(arm.strategy).family == "none":
        return side
    personas = side.personas
    if arm.pool is not None:
        personas = Personas(source="pool", file=Path(arm.pool).name, sha256=pool.sha256)
    return side.model_copy(update={"template": arm.template, "personas": personas})


@dataclass(frozen=True, slots=True)
class DemoLab:
    """Trains the arms on a demo base. A training seed names the 1,000 problems, their order and their personas."""

    spec: GridSpec
    out: Path
    stages: Stages
    recipe: DemoRecipe

    def base(self) -> Path:
        name = self.spec.base.demo
        assert name is not None
        demo = Demo(self.out, self.recipe, self.stages)
        if not demo.base_folder(name).exists():
            demo.build_base(name)
        return demo.base_folder(name)

    def items(self, split: str) -> Sequence[Item]:
        n = self.spec.test.n if split == "test" else self.spec.validation.n
        found = problems.held_out(n, "test" if split == "test" else "validation")
        return [Item(id=problem.id, query=problem.query, gold=problem.answer) for problem in found]

    def checkpoint(self, arm: str, seed: int) -> Path:
        folder, base, recipe = self.out / "arms" / f"{arm}-s{seed}", self.base(), self.recipe
        pool = open_pool(self.spec.arms[arm])
        side = side_for(self.spec.arms[arm], pool, seed)
        inputs = {
            "arm": side.model_dump(mode="json"),
            "base_sha256": file_sha256(base / WEIGHTS_FILE),
            "train_seed": seed,
            **recipe.pick("n_sft", "sft_lr", "sft_epochs", "sft_batch", "max_length"),
        }
        if is_built(folder, inputs):
            return folder

        def make(work: Path, advance: Advance) -> None:
            dataset = prepare(problems.draw(recipe.n_sft, "sft", seed), side, work, pool)
            model, tokenizer = load_checkpoint(base)
            fine_tune(
                model,
                tokenizer,
                dataset.rows,
                work / LOG_FILE,
                advance,
                seed=seed,
                n_epochs=recipe.sft_epochs,
                batch=recipe.sft_batch,
                learning_rate=recipe.sft_lr,
                max_length=recipe.max_length,
            )
            save_checkpoint(model, tokenizer, work)

        with self.stages.show(f"arm {arm}, seed {seed}") as advance:
            build(folder, inputs, lambda work: make(work, advance))
        return folder


@dataclass(frozen=True, slots=True)
class FolderLab:
    """Checkpoints that `its-train sft` or anything else has made; nothing is trained here."""

    spec: GridSpec

    def base(self) -> Path | None:
        return Path(self.spec.base.folder) if self.spec.base.folder is not None else None

    def items(self, split: str) -> Sequence[Item]:
        items = self.spec.test if split == "test" else self.spec.validation
        if items.file is None:
            raise ConfigError(f"{split}: names no file of items", hint=f"set {split}.file")
        found = read_items(Path(items.file))[: items.n]
        if len(found) < items.n:
            raise ConfigError(f"{items.file}: holds {len(found)} items, {split}.n asks for {items.n}")
        return found

    def checkpoint(self, arm: str, seed: int) -> Path:
        assert self.spec.base.checkpoints is not None
        folder = Path(self.spec.base.checkpoints.replace("{arm}", arm).replace("{seed}", str(seed)))
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not there", hint=f"arm {arm!r} with training seed {seed}; base.checkpoints")
        return folder


def lab_of(spec: GridSpec, out: Path, stages: Stages, recipe: DemoRecipe) -> Lab:
    """The lab that the grid's base asks for."""
    if spec.base.demo is None:
        return FolderLab(spec)
    if spec.base.pretrain_steps is not None:
        steps = spec.base.pretrain_steps
        recipe = replace(recipe, pretrain_steps_seen=steps, pretrain_steps_unseen=steps)
    return DemoLab(spec, out, stages, recipe)


def weights_sha256(folder: Path) -> str:
    """One digest over all weight files, whatever their number."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder} holds no safetensors", hint="a checkpoint's folder is meant")
    return sha256("\n".join(f"{path.name} {file_sha256(path)}" for path in files).encode()).hexdigest()
