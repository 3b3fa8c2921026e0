"""Looks for what would fit where a recipe does not: the recipe with one thing changed, estimated anew."""

from collections.abc import Iterator
from typing import Any

from its_proxy.codesign.errors import ConfigError
from its_training.plan.estimate import Plan, devices_needed, on_devices, verdict_of
from its_training.plan.memory import GB
from its_training.recipe import Lora, Recipe

DEVICE_MEMORIES_GB = (24, 40, 48, 80, 96, 141, 180, 192)
"""Of GPUs that are sold or rented."""

N_SUGGESTIONS = 4


def refuse_what_cannot_fit(plan: Plan) -> None:
    """Raises ConfigError where the memory that the recipe names cannot hold it; the hint says what would fit."""
    if plan.verdict != "does not fit":
        return
    recipe, memory = plan.recipe, plan.memory
    suggestions = list(what_fits(recipe))[:N_SUGGESTIONS]
    raise ConfigError(
        f"{recipe.name} does not fit {_devices(recipe)}: it needs {memory.total / GB:.1f} GB on each, "
        f"of which weights, gradients and optimizer {memory.state.total / GB:.1f} GB",
        hint="would fit: " + "; ".join(suggestions) if suggestions else "nothing near it would: a smaller base",
    )


def what_fits(recipe: Recipe) -> Iterator[str]:
    """Suggestions in words, the least change first."""
    if not recipe.compute.activation_checkpointing:
        yield from _fitting("activation_checkpointing: true", _with(recipe, activation_checkpointing=True))
    if recipe.compute.device == "cuda":
        yield from _on_gpus(recipe)
    yield from _shorter(recipe)


def _on_gpus(recipe: Recipe) -> Iterator[str]:
    """More of them, larger ones, smaller moments, or an adapter."""
    is_sharded = recipe.compute.parallel in ("fsdp2", "zero3")
    yield from _on_enough("", recipe if is_sharded else _with(recipe, parallel="zero3"))
    larger = (_with(recipe, device_memory_gb=float(memory)) for memory in DEVICE_MEMORIES_GB)
    enough = next((other for other in larger if verdict_of(other) in ("fits", "borderline")), None)
    if enough is not None:
        yield _devices(enough) + _doubt(enough)
    if recipe.lora is None:
        if recipe.optimizer.name == "adamw":
            optimizer = recipe.optimizer.model_copy(update={"name": "paged_adamw_8bit"})
            yield from _fitting("optimizer paged_adamw_8bit", recipe.model_copy(update={"optimizer": optimizer}))
        adapter = recipe.model_copy(update={"method": "lora", "lora": Lora(r=64, alpha=128, dropout=0.0)})
        yield from _on_enough("a LoRA of rank 64 on ", adapter)


def _with(recipe: Recipe, **updates: Any) -> Recipe:
    return recipe.model_copy(update={"compute": recipe.compute.model_copy(update=updates)})


def _fitting(said: str, other: Recipe) -> Iterator[str]:
    if verdict_of(other) in ("fits", "borderline"):
        yield said + _doubt(other)


def _on_enough(said: str, other: Recipe) -> Iterator[str]:
    n = devices_needed(other)
    if n is not None:
        enough, at_once = on_devices(other, n), n * other.compute.per_device_batch
        batch = f" with a global batch of {at_once}" if other.optimizer.global_batch % at_once else ""
        yield f"{said}{_devices(enough)}{batch}{_doubt(enough)}"


def _shorter(recipe: Recipe) -> Iterator[str]:
    length = recipe.chat.max_length // 2
    while length >= 256:
        shorter = recipe.model_copy(update={"chat": recipe.chat.model_copy(update={"max_length": length})})
        if verdict_of(shorter) in ("fits", "borderline"):
            yield f"rows of at most {length} tokens" + _doubt(shorter)
            return
        length //= 2


def _devices(recipe: Recipe) -> str:
    compute = recipe.compute
    if compute.device == "cpu":
        return f"{compute.device_memory_gb:g} GB of memory"
    sharding = f" by {compute.parallel}" if compute.parallel != "none" else ""
    return f"{compute.n_devices} x {compute.device_memory_gb:g} GB{sharding}"


def _doubt(recipe: Recipe) -> str:
    return " (borderline)" if verdict_of(recipe) == "borderline" else ""
