"""Builds what a dry run trains: a recipe with small numbers, and a base of its architecture with random weights.

    small = small_recipe(recipe, base=folder / "base", data=folder / "data")
    build_base(small, build_tokenizer(small.chat.template, texts), folder / "base")

Whatever the code of `its-train sft` branches on stays the recipe's, as far as a CPU allows.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from its_training.recipe import Architecture, Recipe, revised
from its_training.sft.templates import variants

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

N_ROWS, N_STEPS = 24, 2
MAX_LENGTH = 1024
VOCABULARY = 1024
"""Words of the stand-in's embedding; its tokenizer has fewer, as is usual."""
HEAD_SIZE = 8

PADDING, BEGINNING = "<|pad|>", "<|begin|>"
MARKS = re.compile("<[|\uff5c][^<>|\uff5c]+[|\uff5c]>")
"""Special tokens as chat templates write them; DeepSeek's have a wide bar."""


def small_architecture(architecture: Architecture) -> Architecture:
    """Two layers, heads of eight; the kind, the ratio of heads, the tied embedding and a head size of its own stay."""
    a = architecture
    n_kv_heads = min(a.num_key_value_heads, 2)
    n_heads = n_kv_heads * (a.num_attention_heads // a.num_key_value_heads)
    hidden = round(n_heads * HEAD_SIZE * a.hidden_size / (a.num_attention_heads * a.head_size))
    return a.model_copy(
        update={
            "hidden_size": hidden,
            "intermediate_size": round(hidden * a.intermediate_size / a.hidden_size),
            "num_hidden_layers": min(a.num_hidden_layers, 2),
            "num_attention_heads": n_heads,
            "num_key_value_heads": n_kv_heads,
            "head_dim": None if a.head_dim is None else HEAD_SIZE,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": MAX_LENGTH,
        }
    )


def small_recipe(recipe: Recipe, base: Path, data: Path) -> Recipe:
    """The recipe as a laptop can walk it: everything that the code branches on stays, sizes and devices shrink."""
    return revised(
        recipe,
        {
            "base": {
                "model": str(base),
                "revision": None,
                "architecture": small_architecture(recipe.base.architecture).model_dump(),
            },
            "data": {"folder": str(data), "rows": N_ROWS},
            "chat": {"max_length": MAX_LENGTH},
            "optimizer": {"name": "adamw"},
            "compute": {
                "device": "cpu",
                "device_memory_gb": None,
                "n_devices": 1,
                "parallel": "none",
                "dtype": "float32",
                "attention": "eager" if recipe.compute.attention == "eager" else "sdpa",
            },
            "seeds": recipe.seeds[:1],
            "save_every_steps": None,
            "log_to": (),
        },
    )


def overridden(recipe: Recipe, small: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """(key, the recipe's value, the dry run's) of every value that differs."""
    told = {"base.model": "random weights", "data.folder": "generated rows"}
    for key, before, after in _differences("", recipe.model_dump(mode="json"), small.model_dump(mode="json")):
        yield key, before, told.get(key, after)
    yield "optimizer.epochs", recipe.optimizer.epochs, f"{N_STEPS} steps"


def _differences(place: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before:
            yield from _differences(f"{place}.{key}" if place else key, before[key], after[key])
    elif before != after:
        yield place, before, after


def build_tokenizer(template: str, texts: Sequence[str]) -> "PreTrainedTokenizerFast":
    """A byte-level tokenizer with the marks of the recipe's template, which is its own chat template too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    family = variants(template)[-1]
    marks = [PADDING, BEGINNING, *dict.fromkeys([*MARKS.findall(family.text), family.end_of_turn])]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 64,
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BEGINNING,
        eos_token=family.end_of_turn,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
        chat_template=family.text,
        model_max_length=MAX_LENGTH,
    )


def build_base(small: Recipe, tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """Random weights, saved as any base is: safetensors, configs, tokenizer with its chat template."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        **small.base.architecture.model_dump(exclude_none=True),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
