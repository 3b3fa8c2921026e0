"""Says a plan in words, for a terminal or as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from its_training.plan.estimate import Plan
from its_training.plan.memory import GB

if TYPE_CHECKING:
    from its_training.plan.dry_run import DryRun

BESIDE = {
    "none": "weights once more in the dtype that is computed with, where that is another",
    "ddp": "the buckets that gradients travel in, and weights cast to another dtype",
    "fsdp2": "embedding, head and the layers at work, whole",
    "zero3": "the weights at work, whole, and a layer's gradients",
}
"""What `Memory.gathered` is."""


def show(plan: Plan, console: Console) -> None:
    recipe = plan.recipe
    table = Table(title=f"{recipe.name} ({recipe.label})", title_justify="left", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, said in lines(plan):
        table.add_row(name, said)
    console.print(table, highlight=False)


def lines(plan: Plan) -> list[tuple[str, str]]:
    """What is told of each, in the order of the page; what takes no memory is left out."""
    recipe, memory = plan.recipe, plan.memory
    trained = "all trained" if recipe.lora is None else f"{plan.n_trained:,} trained by a LoRA of rank {recipe.lora.r}"
    beside = [("beside it", f"{_size(memory.gathered)}: {BESIDE[recipe.compute.parallel]}")] if memory.gathered else []
    return [
        ("runs", f"{plan.n_runs}: {_n(recipe.data.arms, 'arm')} x {_n(recipe.seeds, 'seed')}; what follows is of each"),
        ("parameters", f"{plan.n_parameters:,}, {trained}"),
        ("state", _state(plan)),
        *beside,
        ("activations", f"{_size(memory.stored)} stored ({_activations(plan)})"),
        (
            "at once",
            f"{_size(memory.at_once)}: the larger of the loss and a layer's backward pass. TRL computes logits in "
            f"tiles; whole, they would take {_size(memory.whole_logits)}",
        ),
        *([("reserve", f"{_size(memory.reserve)} for what is no tensor of ours")] if memory.reserve else []),
        ("memory", _verdict(plan)),
        ("devices", _devices_needed(plan)),
        ("steps", _steps(plan)),
        ("tokens", _tokens(plan)),
        ("time", _hours(plan)),
        ("disk", _disk(plan)),
    ]


def document(plan: Plan) -> dict[str, Any]:
    """The same as plain values; `recipe` in full, bytes as bytes."""
    values = asdict(plan)
    values["recipe"] = plan.recipe.model_dump(mode="json")
    values["n_runs"] = plan.n_runs
    values["memory"] |= {"total": plan.memory.total}
    return values


def show_dry_runs(done: "Sequence[DryRun]", console: Console) -> None:
    """A line a recipe, then what was changed for each."""
    table = Table("recipe", "arms", "loss of step 1, 2", "seconds", "result", box=None)
    for one in done:
        means = [fmean(losses) for losses in zip(*one.losses.values(), strict=True)]
        said = ", ".join(f"{loss:.3f}" for loss in means)
        table.add_row(one.recipe, str(len(one.losses)), said, f"{one.seconds:.1f}", one.failure or "passed")
    console.print(table, highlight=False)
    for one in done:
        console.print(f"\n{one.recipe}, overridden:", highlight=False, markup=False)
        for section, changes in _by_section(one).items():
            console.print(f"  {section}: {'; '.join(changes)}", highlight=False, markup=False, soft_wrap=True)


def _by_section(one: "DryRun") -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for key, before, after in one.overridden:
        section, _, name = key.partition(".")
        sections.setdefault(section, []).append(f"{name} {before} -> {after}".lstrip())
    return sections


def _n(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' if len(things) > 1 else ''}"


def _device(plan: Plan) -> str:
    return "GPUs" if plan.recipe.compute.device == "cuda" else "processes"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / GB:.2f} GB" if n_bytes >= GB / 10 else f"{n_bytes / 1e6:.1f} MB"


def _state(plan: Plan) -> str:
    recipe, compute, state = plan.recipe, plan.recipe.compute, plan.memory.state
    on = f"each of {compute.n_devices} {_device(plan)}" if compute.n_devices > 1 else "one device"
    return (
        f"{_size(state.total)} on {on}: weights {_size(state.weights)}, gradients {_size(state.gradients)}, optimizer "
        f"{_size(state.optimizer)} ({recipe.optimizer.name}, {compute.dtype}, parallel: {compute.parallel})"
    )


def _activations(plan: Plan) -> str:
    compute = plan.recipe.compute
    kept = "inputs of layers, checkpointed" if compute.activation_checkpointing else "all of all layers"
    return f"{compute.per_device_batch} x {plan.recipe.chat.max_length} tokens, {compute.attention}, {kept}"


def _verdict(plan: Plan) -> str:
    needed = _size(plan.memory.total)
    gb = plan.recipe.compute.device_memory_gb
    if gb is None:
        return f"{needed} needed; no memory was named (--memory-gb)"
    advice = ": measure before you rely on it" if plan.verdict == "borderline" else ""
    return f"{needed} of {gb:g} GB: {plan.verdict}{advice}"


def _devices_needed(plan: Plan) -> str:
    if plan.verdict == "unknown":
        return "unknown: no memory was named (--memory-gb)"
    if plan.n_devices_needed is None:
        return "no number of these devices holds it"
    return f"at least {plan.n_devices_needed} of this memory, {plan.recipe.compute.n_devices} planned"


def _steps(plan: Plan) -> str:
    course, optimizer = plan.course, plan.recipe.optimizer
    if course is None:
        return "unknown: neither data.rows nor --dataset says how many rows there are"
    return (
        f"{course.steps:,} = {course.rows.n:,} rows x {optimizer.epochs:g} epochs / {optimizer.global_batch} "
        f"(passes of each device for one: {plan.recipe.accumulation})"
    )


def _tokens(plan: Plan) -> str:
    course = plan.course
    if course is None:
        return "unknown"
    if course.is_bound:
        return f"at most {course.tokens:,}: every row counted as {plan.recipe.chat.max_length}, as none were counted"
    return f"{course.tokens:,}, by the data set's own count"


def _hours(plan: Plan) -> str:
    course = plan.course
    if course is None or course.hours is None:
        return "unknown: no throughput was stated (--tokens-per-second of one device, measured on yours)"
    bound = "at most " if course.is_bound else ""
    return (
        f"{bound}{course.hours:.1f} h each, {course.hours * plan.n_runs:.1f} h for all runs, at the stated throughput"
    )


def _disk(plan: Plan) -> str:
    n = "an unknown number" if plan.course is None else str(plan.course.n_checkpoints)
    return f"{n} of {_size(plan.resumable_bytes)} to resume from, and {_size(plan.final_bytes)} to serve"
