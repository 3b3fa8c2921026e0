"""RECIPE.yaml: one file that says how a set of matched arms is trained. `sft`, `plan` and `grid` read it alike.

    recipe = load_recipe(Path("training/recipes/gsm8k-small.yaml"))
    recipe.base.model, recipe.data.arms

Unknown keys are refused: a mistyped learning rate must not train with the default one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import VoteAdvice
from its_proxy.dotted import Key, dotted
from its_proxy.yaml_file import read_yaml

LINEAR_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The projections of a layer, in all architectures below: what a LoRA may adapt."""


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
    head_dim: int | None = Field(None, ge=1)
    """None: hidden_size / num_attention_heads."""
    vocab_size: int = Field(ge=1)
    max_position_embeddings: int = Field(ge=1)
    tie_word_embeddings: bool = False

    @model_validator(mode="after")
    def _heads(self) -> "Architecture":
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads is no multiple of num_key_value_heads")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size is no multiple of num_attention_heads: set head_dim")
        if self.head_dim is None and self.model_type == "qwen3":
            raise ValueError("qwen3 has a head_dim of its own: name it")
        return self

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads


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
    rows: int | None = Field(None, ge=1)
    """How many rows an arm is meant to have: what `plan` counts with until the folder is there."""

    @model_validator(mode="after")
    def _arms(self) -> "Data":
        if len(set(self.arms)) < len(self.arms):
            raise ValueError("an arm is named twice")
        return self


class Lora(_Strict):
    r: int = Field(64, ge=1)
    alpha: int = Field(128, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"

    @model_validator(mode="after")
    def _modules(self) -> "Lora":
        if strangers := [name for name in self.modules if name not in LINEAR_MODULES]:
            raise ValueError(f"no module {strangers[0]!r}: all-linear, or some of {', '.join(LINEAR_MODULES)}")
        return self

    @property
    def modules(self) -> tuple[str, ...]:
        return LINEAR_MODULES if self.target_modules == "all-linear" else tuple(self.target_modules)


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

    @model_validator(mode="after")
    def _floor(self) -> "Optimizer":
        if (self.schedule == "cosine_with_min_lr") != (self.min_lr_rate > 0):
            raise ValueError("min_lr_rate and the schedule cosine_with_min_lr go together")
        return self


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

    @model_validator(mode="after")
    def _device(self) -> "Compute":
        if self.device == "cpu":
            for name, value, allowed in (
                ("attention", self.attention, ("sdpa", "eager")),
                ("dtype", self.dtype, ("float32",)),
                ("parallel", self.parallel, ("none", "ddp")),
            ):
                if value not in allowed:
                    raise ValueError(f"{name}: {value} needs a GPU; on a cpu {' or '.join(allowed)}")
        if self.attention == "flash_attention_2" and self.dtype != "bfloat16":
            raise ValueError("attention: flash_attention_2 computes in bfloat16 only")
        if self.parallel == "none" and self.n_devices > 1:
            raise ValueError("n_devices: more than one needs parallel: ddp, fsdp2 or zero3")
        return self


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

    @model_validator(mode="after")
    def _parts_agree(self) -> "Recipe":
        optimizer, compute = self.optimizer, self.compute
        if (self.method == "lora") != (self.lora is not None):
            raise ValueError("method: lora and the section lora go together")
        if compute.device == "cpu" and optimizer.name != "adamw":
            raise ValueError(f"optimizer.name: {optimizer.name} needs a GPU; on a cpu adamw")
        at_once = compute.n_devices * compute.per_device_batch
        if optimizer.global_batch % at_once:
            raise ValueError(
                f"optimizer.global_batch: {optimizer.global_batch} is no multiple of the {at_once} rows that "
                "compute.n_devices and compute.per_device_batch make at once"
            )
        positions = self.base.architecture.max_position_embeddings
        if self.chat.max_length > positions:
            raise ValueError(f"chat.max_length: {self.chat.max_length} is beyond the base's {positions} positions")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is named twice")
        return self

    @property
    def accumulation(self) -> int:
        """Forward and backward passes of each device for one optimizer step."""
        return self.optimizer.global_batch // (self.compute.n_devices * self.compute.per_device_batch)


def load_recipe(path: Path) -> Recipe:
    """Reads and checks a recipe. Raises ConfigError with one line that names the key and where it stands."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file", hint="a recipe file is meant; see training/recipes/")
    document, lines = read_yaml(path)
    return _checked(document, lines, str(path))


def revised(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other values, such as {"compute": {"n_devices": 16}}, checked as a file's. Raises ConfigError."""
    document = recipe.model_dump()
    for section, values in changes.items():
        document[section] = {**document[section], **values} if isinstance(values, dict) else values
    return _checked(document, {}, recipe.name)


def _checked(document: Mapping[str, Any], lines: Mapping[Key, str], source: str) -> Recipe:
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_input=False)
        more = f" (and {len(others)} more)" if others else ""
        place = lines.get(first["loc"], source)
        said = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        key = f"{dotted(first['loc'])}: " if first["loc"] else ""
        raise ConfigError(f"{place}: {key}{said}{more}", hint="see training/recipes/") from None
