"""Puts together what a recipe needs: memory and devices, steps, tokens, hours, disk; and says whether it fits.

    plan = estimate(recipe, Rows(1000, None))
    plan.verdict, plan.n_devices_needed, plan.course.steps

Nothing is invented: what follows from a number that nobody gave is None.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from its_training.plan.memory import GB, Memory, element_size, memory_of, state_of, trained_parameters
from its_training.plan.parameters import parameters_of
from its_training.recipe import Recipe
from its_training.sft.schedule import schedule

Verdict: TypeAlias = Literal["fits", "borderline", "does not fit", "unknown"]
"""`borderline`: above nine tenths of a device, which no estimate can promise; `unknown`: no memory was named."""

BORDERLINE = 0.9

DEVICE_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Rows:
    """How many rows an arm has, and their tokens in all, where they were counted."""

    n: int
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Course:
    """How long a run is."""

    rows: Rows
    steps: int
    tokens: int
    is_bound: bool
    """Whether `tokens` counts every row as long as the recipe allows."""
    hours: float | None
    """At the stated throughput; None where none was stated."""
    n_checkpoints: int
    """How many it leaves to go on from."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Of each run; there are `n_runs`, an arm with a seed each. `course` is None where nobody knows the rows."""

    recipe: Recipe
    n_parameters: int
    n_trained: int
    memory: Memory
    verdict: Verdict
    n_devices_needed: int | None
    """The fewest devices of that memory that hold it, of 1, 2, 4 and so on; None where no number does."""
    course: Course | None
    resumable_bytes: float
    """A checkpoint that training goes on from."""
    final_bytes: float
    """The weights that are served."""

    @property
    def n_runs(self) -> int:
        return len(self.recipe.data.arms) * len(self.recipe.seeds)


def estimate(recipe: Recipe, rows: Rows | None) -> Plan:
    return Plan(
        recipe=recipe,
        n_parameters=parameters_of(recipe.base.architecture).total,
        n_trained=trained_parameters(recipe),
        memory=memory_of(recipe),
        verdict=verdict_of(recipe),
        n_devices_needed=devices_needed(recipe),
        course=None if rows is None else course_of(recipe, rows),
        resumable_bytes=resumable_bytes(recipe),
        final_bytes=final_bytes(recipe),
    )


def course_of(recipe: Recipe, rows: Rows) -> Course:
    """The steps are those that `its-train sft` takes."""
    compute, batch = recipe.compute, recipe.optimizer.global_batch
    taken = schedule(recipe.optimizer, rows.n, compute.n_devices, compute.per_device_batch)
    a_row = recipe.chat.max_length if rows.tokens is None else rows.tokens / rows.n
    tokens = round(taken.steps * batch * a_row)
    throughput = compute.tokens_per_second_per_device
    return Course(
        rows=rows,
        steps=taken.steps,
        tokens=tokens,
        is_bound=rows.tokens is None,
        hours=None if throughput is None else tokens / (throughput * compute.n_devices) / 3600,
        n_checkpoints=taken.steps // (recipe.save_every_steps or taken.steps_per_epoch),
    )


def resumable_bytes(recipe: Recipe) -> float:
    """The trained weights as they are kept in training, and the optimizer's; fsdp2 saves the weights whole besides."""
    state, trained = state_of(recipe), trained_parameters(recipe)
    saved = element_size(recipe.compute) if recipe.compute.parallel == "zero3" else 4
    return state.optimizer + saved * trained * (2 if recipe.compute.parallel == "fsdp2" else 1)


def final_bytes(recipe: Recipe) -> float:
    """Weights in the dtype that is computed with, an adapter's as they were trained."""
    is_kept = recipe.lora is not None and recipe.compute.parallel != "zero3"
    return float(trained_parameters(recipe) * (4 if is_kept else element_size(recipe.compute)))


def verdict_of(recipe: Recipe) -> Verdict:
    """On a cpu the processes share one memory; on GPUs each has its own."""
    compute = recipe.compute
    if compute.device_memory_gb is None:
        return "unknown"
    n_sharing = compute.n_devices if compute.device == "cpu" else 1
    share = memory_of(recipe).total * n_sharing / (compute.device_memory_gb * GB)
    return "fits" if share <= BORDERLINE else "borderline" if share <= 1 else "does not fit"


def devices_needed(recipe: Recipe) -> int | None:
    """The fewest devices on which it fits, borderline included. Only sharding makes more devices hold more."""
    if recipe.compute.parallel in ("none", "ddp"):
        counts: tuple[int, ...] = (recipe.compute.n_devices,)
    else:
        counts = DEVICE_COUNTS
    return next((n for n in counts if verdict_of(on_devices(recipe, n)) in ("fits", "borderline")), None)


def on_devices(recipe: Recipe, n: int) -> Recipe:
    """The same recipe on `n` devices, whether or not they can share its global batch."""
    return recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"n_devices": n})})
