"""`its-train demo`: from nothing to sealed demo checkpoints, stage by stage.

    OUT/<base>/base/                      the pre-trained base
    OUT/<base>/arms/<arm>/                its rows, and the fine-tuned checkpoint without a manifest
    OUT/<base>/runs/<split>/<cell>/       an arm's candidates on held-out problems
    OUT/<base>/demo-<arm>/                the checkpoint with its probes and its.json

Each folder appears when it is complete and is left alone by the next run.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from its_proxy.codesign.manifest import FILE_NAME, Pair, VoteAdvice
from its_proxy.codesign.personas import taxonomy_pool
from its_training.demo import problems
from its_training.demo.arms import SIDECAR_FILE, prepare, side_of
from its_training.demo.measure import Cell, cells_of, measure
from its_training.demo.pretrain import build_tokenizer, pretrain
from its_training.demo.recipe import ArmName, BaseName, DemoRecipe
from its_training.demo.report import report_of
from its_training.demo.results import Choice, Run, Runs, choose, evaluation_rows
from its_training.files import CHECKPOINT_FILES, build, file_sha256, holds, is_built, load_checkpoint, save_checkpoint
from its_training.progress import Advance, Stages
from its_training.record.probes import Reference, measure_probes, seal
from its_training.sft.trainer import fine_tune
from its_training.versions import versions

WEIGHTS_FILE = "model.safetensors"
LOG_FILE = "training.jsonl"
PROBLEMS_FILE = "problems.jsonl"
VOTE = VoteAdvice.model_validate(
    {"n": 8, "temperature": 0.8, "top_p": 1.0, "max_tokens": 96, "answer": "boxed", "stop": "exact"}
)

Make: TypeAlias = Callable[[Path, Advance], None]
"""Fills the folder it is given, and tells how far it is."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What to build and where. Every `build_*` is one stage; it does nothing where an earlier run finished it."""

    out: Path
    recipe: DemoRecipe
    stages: Stages
    threads: int = 1

    def run(self, bases: Sequence[BaseName], arms: Sequence[ArmName], command: str, report: Path) -> Choice:
        """All stages; writes the report and returns which base ships, chosen on validation."""
        for base in bases:
            self.build_base(base)
            for arm in arms:
                self.build_arm(base, arm)
        validation = {base: self.build_runs(base, arms, "validation") for base in bases}
        choice = choose(validation)
        test = {base: self.build_runs(base, arms, "test") for base in bases}
        for base in bases:
            for arm in arms:
                self.build_sealed(base, arm, arms, test[base], command)
        digests = {base: self.digests(base, arms) for base in bases}
        text = report_of(self.recipe, choice, validation, test, digests, self.seeds(), versions(), command)
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(text, encoding="utf-8")
        return choice

    def base_folder(self, base: BaseName) -> Path:
        return self.out / base / "base"

    def arm_folder(self, base: BaseName, arm: str) -> Path:
        return self.out / base / "arms" / arm

    def sealed_folder(self, base: BaseName, arm: str) -> Path:
        return self.out / base / f"demo-{arm}"

    def build_base(self, base: BaseName) -> None:
        """Tokenizer and pre-trained weights."""
        recipe = self.recipe
        inputs = {
            "base": base,
            "personas_sha256": taxonomy_pool().sha256,
            **recipe.pick("seed", "n_tokens", "hidden_size", "intermediate_size", "n_layers", "n_heads", "n_kv_heads"),
            **recipe.pick("max_length", "n_pretrain", "prose_share", "drill_share", "prefix_share"),
            "pretrain_steps": recipe.pretrain_steps(base),
            **recipe.pick("pretrain_batch", "pretrain_lr"),
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
            **recipe.pick("seed", "n_sft", "sft_lr", "sft_epochs", "sft_batch", "max_length"),
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
                learning_rate=recipe.sft_lr,
                max_length=recipe.max_length,
            )
            save_checkpoint(model, tokenizer, folder)

        self._build(f"arm {base}/{arm}", self.arm_folder(base, arm), inputs, make)

    def build_runs(self, base: BaseName, arms: Sequence[ArmName], split: problems.Split) -> Runs:
        """The candidates of every cell on the held-out problems of `split`."""
        return {cell: self._build_run(base, cell, split) for cell in cells_of(arms)}

    def _build_run(self, base: BaseName, cell: Cell, split: problems.Split) -> Run:
        recipe = self.recipe
        n_items = recipe.n_test if split == "test" else recipe.n_validation
        source = self.arm_folder(base, cell.trained)
        side = side_of(cell.asked, recipe.seed)
        folder = self.out / base / "runs" / split / cell.name
        inputs = {
            "weights_sha256": file_sha256(source / WEIGHTS_FILE),
            "asked": side.model_dump(mode="json"),
            "vote": VOTE.model_dump(mode="json"),
            "split": split,
            "items": n_items,
            "sampling_seed": recipe.sampling_seed,
        }

        def make(work: Path, advance: Advance) -> None:
            items = problems.held_out(n_items, split)
            candidates = work / f"{cell.name}.jsonl"
            measure(source, cell, side, items, VOTE, recipe.sampling_seed, candidates, advance, self.threads)

        self._build(f"{split} {base}/{cell.name}", folder, inputs, make)
        return Run.read(folder / f"{cell.name}.jsonl")

    def build_sealed(self, base: BaseName, arm: ArmName, arms: Sequence[ArmName], test: Runs, command: str) -> None:
        """The arm's checkpoint with everything known about it. Made anew when something it tells has changed."""
        folder = self.sealed_folder(base, arm)
        run = test[Cell(arm, arm)]
        inputs = {
            "weights_sha256": {name: file_sha256(self.arm_folder(base, name) / WEIGHTS_FILE) for name in arms},
            "base_sha256": file_sha256(self.base_folder(base) / WEIGHTS_FILE),
            "run_sha256": file_sha256(run.file),
            "side": side_of(arm, self.recipe.seed).model_dump(mode="json"),
            "command": command,
            **self.recipe.pick("n_probes"),
        }
        if folder.exists() and not holds(folder, inputs):
            shutil.rmtree(folder)

        def make(work: Path, advance: Advance) -> None:
            for name in CHECKPOINT_FILES:
                shutil.copy(self.arm_folder(base, arm) / name, work / name)
            side = side_of(arm, self.recipe.seed)
            siblings = [Reference(f"demo-{name}", self.arm_folder(base, name)) for name in arms if name != arm]
            queries = [problem.query for problem in problems.held_out(self.recipe.n_probes, "validation")]
            probes = measure_probes(work, side, queries, Reference("base", self.base_folder(base)), siblings)
            evaluation = evaluation_rows(run, self.seeds())
            pair = Pair(trained_with=side, serve_with=side)
            seal(work, pair, VOTE, probes, evaluation, self._provenance(base, arm, command))

        self._build(f"seal {base}/demo-{arm}", folder, inputs, make)

    def digests(self, base: BaseName, arms: Sequence[ArmName]) -> dict[str, str]:
        """sha256 of each weight file, by folder name, and of the ids of the rows that all arms share."""
        weights = {"base": self.base_folder(base), **{f"demo-{arm}": self.sealed_folder(base, arm) for arm in arms}}
        digests = {name: file_sha256(folder / WEIGHTS_FILE) for name, folder in weights.items()}
        return {**digests, "ids": self._dataset(base, arms[0])["ids_sha256"]}

    def seeds(self) -> dict[str, int]:
        """Which seed drew what; one training seed, so intervals cover problems and samples, not training."""
        return {"train": self.recipe.seed, "persona": self.recipe.seed, "sampling": self.recipe.sampling_seed}

    def package(self, base: BaseName, arms: Sequence[ArmName], target: Path) -> None:
        """Copies the chosen base's sealed checkpoints and the held-out problems to where its-proxy ships them."""
        for arm in arms:
            folder = target / f"demo-{arm}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name in (*CHECKPOINT_FILES, FILE_NAME):
                shutil.copy(self.sealed_folder(base, arm) / name, folder / name)
        rows = (
            {"id": problem.id, "query": problem.query, "answer": problem.answer}
            for problem in problems.held_out(self.recipe.n_test)
        )
        (target / PROBLEMS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def _provenance(self, base: BaseName, arm: ArmName, command: str) -> dict[str, Any]:
        dataset = self._dataset(base, arm)
        return {
            "base_model": f"demo base {base!r}, pre-trained from scratch by its-train demo",
            "base_sha256": file_sha256(self.base_folder(base) / WEIGHTS_FILE),
            "dataset_sha256": dataset["sha256"],
            "ids_sha256": dataset["ids_sha256"],
            "weights_sha256": {WEIGHTS_FILE: file_sha256(self.arm_folder(base, arm) / WEIGHTS_FILE)},
            "personas": "template personas",
            "command": command,
            "recipe": asdict(self.recipe),
            "versions": versions(),
            "licenses": {"weights": "Apache-2.0", "dataset": "Apache-2.0, generated", "personas": "Apache-2.0"},
        }

    def _dataset(self, base: BaseName, arm: str) -> dict[str, Any]:
        sidecar: dict[str, Any] = json.loads((self.arm_folder(base, arm) / SIDECAR_FILE).read_text(encoding="utf-8"))
        return sidecar

    def _build(self, title: str, folder: Path, inputs: Mapping[str, Any], make: Make) -> None:
        if is_built(folder, inputs):
            self.stages.skipped(title)
            return
        with self.stages.show(title) as advance:
            build(folder, inputs, lambda work: make(work, advance))
