"""Opens the base that a recipe names: its tokenizer fit for training, and its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from its_proxy.codesign.errors import ConfigError
from its_training.recipe import Recipe

PADDING = (
    "<|endoftext|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_0|>",
    "<|fim_pad|>",
    "<|vision_pad|>",
    "<pad>",
)
"""What families of ours pad with where their tokenizer names nothing, or the end of a turn."""


def open_tokenizer(base: str, revision: str | None) -> Any:
    """The base's own. Raises ConfigError for one that cannot be read, or tells no place of its tokens."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base, **_as_named(base, revision))
    except _load_errors() as error:
        raise _unreadable(base, error) from None
    if not tokenizer.is_fast:
        raise ConfigError(f"{base} has no fast tokenizer", hint="tokenizer.json is missing")
    return tokenizer


def fit_for_training(tokenizer: Any, end_of_turn: str) -> None:
    """Ends with the end of a turn, and pads on the right with another token. Raises ConfigError."""
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    if end_of_turn not in vocabulary:
        raise ConfigError(f"{tokenizer.name_or_path} has no token {end_of_turn}", hint="see chat.template")
    tokenizer.eos_token = end_of_turn
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None or tokenizer.pad_token == end_of_turn:
        choices = [token for token in PADDING if token in vocabulary and token != end_of_turn]
        if not choices:
            raise ConfigError(
                f"{tokenizer.name_or_path} has no token to pad with but the end of a turn",
                hint=f"add one of {', '.join(PADDING)} to its tokenizer",
            )
        tokenizer.pad_token = choices[0]


def open_model(recipe: Recipe, base: str, revision: str | None, tokenizer: Any) -> Any:
    """The base's weights: fp32 to train in full, as the optimizer's small steps vanish in bf16.

    ZeRO-3 keeps such a copy itself, and a LoRA's frozen base needs none. A CPU computes in fp32 throughout.
    """
    import torch
    from transformers import AutoModelForCausalLM

    is_frozen_or_kept = recipe.method == "lora" or recipe.compute.parallel == "zero3"
    is_half = is_frozen_or_kept and recipe.compute.device == "cuda" and recipe.compute.dtype == "bfloat16"
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=torch.bfloat16 if is_half else torch.float32,
            attn_implementation=recipe.compute.attention,
            output_loading_info=True,
            use_safetensors=True,
            **_as_named(base, revision),
        )
    except _load_errors() as error:
        raise _unreadable(base, error) from None
    # transformers would make up what a file lacks, at random, and say so in a log line only.
    if lacking := sorted(map(str, found["missing_keys"])):
        raise ConfigError(f"{base} lacks {len(lacking)} weights, such as {lacking[0]}", hint="is the copy complete?")
    _set_ends(model, tokenizer)
    return model


def _set_ends(model: Any, tokenizer: Any) -> None:
    """A server stops where `generation_config` says: at the end of a turn, and wherever the base stopped."""
    known = model.generation_config.eos_token_id
    others = known if isinstance(known, list) else [known]
    ends = [tokenizer.eos_token_id, *(end for end in others if end not in (None, tokenizer.eos_token_id))]
    model.generation_config.eos_token_id = ends[0] if len(ends) == 1 else ends
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id


def _as_named(base: str, revision: str | None) -> dict[str, Any]:
    is_folder = Path(base).is_dir()
    return {
        "trust_remote_code": False,
        "local_files_only": is_folder,
        **({"revision": revision} if revision is not None and not is_folder else {}),
    }


def _load_errors() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    return (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, AttributeError, SafetensorError)


def _unreadable(base: str, error: Exception) -> ConfigError:
    said = " ".join(str(error).split())[:240] or type(error).__name__
    hint = "" if Path(base).is_dir() else "it is no folder here, so it was looked for on the Hub"
    return ConfigError(f"base {base} cannot be loaded: {said}", hint=hint)
