"""RECIPE.yaml: one file that says how a set of matched arms is trained. `sft`, `plan` and `grid` read it alike.

    recipe = load_recipe(Path("training/recipes/gsm8k-small.yaml"))
    recipe.base.model, recipe.data.arms

Unknown keys are refused: a mistyped learning rate must not train with the default one.
"""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import VoteAdvice


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(_Strict):
    """The sizes that memory and a tiny stand-in need, as in the base's config.json; no network is asked for them."""

    model_type: Literal["qwen2", "qwen3", "llama"]
    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    head_dim: int | None = None
    vocab_size: int = Field(ge=1)
    max_position_embeddings: int = Field(ge=1)
    tie_word_embeddings: bool = False


class Base(_Strict):
    """`model` is a folder or a Hub id; a Hub id should have a `revision`."""

    model: str
    revision: str | None = None
    license: str
    architecture: Architecture


class Data(_Strict):
    """`folder` is what `its-train prepare` wrote; each of `arms` is one checkpoint for each of `seeds`."""

    folder: str
    arms: tuple[str, ...] = Field(min_length=1)


class Lora(_Strict):
    r: int = Field(64, ge=1)
    alpha: int = Field(128, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"


class Optimizer(_Strict):
    """`global_batch` stays when the number of GPUs changes; accumulation follows from it."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "linear", "cosine", "cosine_with_min_lr"] = "cosine"
    min_lr_rate: float = Field(0.0, ge=0, lt=1)
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of all steps."""
    epochs: float = Field(gt=0)
    global_batch: int = Field(ge=1)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = Field(1.0, gt=0)


class Compute(_Strict):
    """What runs it. `n_devices` are GPUs, or processes where `device` is cpu."""

    device: Literal["cuda", "cpu"] = "cuda"
    device_memory_gb: float | None = Field(None, gt=0)
    n_devices: int = Field(1, ge=1)
    per_device_batch: int = Field(1, ge=1)
    parallel: Literal["none", "ddp", "fsdp2", "zero3"] = "none"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    attention: Literal["flash_attention_2", "sdpa", "eager"] = "sdpa"
    activation_checkpointing: bool = False
    tokens_per_second_per_device: float | None = Field(None, gt=0)
    """A throughput to plan with; say in `notes` where it comes from."""


class Chat(_Strict):
    """`template` names one of ours (its_training/sft/templates), whose rendering equals the base's own."""

    template: Literal["chatml", "qwen2_5", "deepseek_r1_distill", "llama_3"]
    max_length: int = Field(ge=8)


class Recipe(_Strict):
    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    label: Literal["LIMO-like", "s1-like", "ours"]
    """The paper's own hyper-parameters are unpublished; none of these are its."""
    notes: str = ""
    base: Base
    data: Data
    chat: Chat
    method: Literal["full", "lora"] = "full"
    lora: Lora | None = None
    optimizer: Optimizer
    compute: Compute
    seeds: tuple[int, ...] = Field((42,), min_length=1)
    save_every_steps: int | None = Field(None, ge=1)
    """None: at the end of each epoch."""
    log_to: tuple[Literal["trackio", "tensorboard", "wandb"], ...] = ()
    vote: VoteAdvice


def load_recipe(path: Path) -> Recipe:
    """Reads and checks a recipe. Raises ConfigError with one line that names the key."""
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="a recipe file; see training/recipes/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).replace("\n", " ")
        raise ConfigError(f"{path}: not YAML: {reason}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a mapping of keys", hint="see training/recipes/")
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_input=False)
        more = f" (and {len(others)} more)" if others else ""
        place = ".".join(map(str, first["loc"])) or "document"
        said = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise ConfigError(f"{path}: {place}: {said}{more}", hint="see training/recipes/") from None
