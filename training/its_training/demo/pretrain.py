"""Pre-trains a tiny base from scratch on word problems and persona prose, through TRL's SFTTrainer."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from its_proxy.codesign.personas import Persona, taxonomy_pool
from its_training.demo import problems
from its_training.demo.recipe import BaseName, DemoRecipe
from its_training.demo.tokenizer import END_OF_TEXT, train_tokenizer
from its_training.progress import Advance

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

IGNORED = -100
"""What torch's cross entropy leaves out."""

SORTED_BATCHES = 16


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the pre-training; the base learns to write `learned`, and only reads `given` before it."""

    given: str
    learned: str


def pretraining_documents(base: BaseName, recipe: DemoRecipe) -> list[Document]:
    """What the base reads. Both bases get the same problems and prose; `seen` has text before half of the problems.

    The prose, two personas a document, is never joined to a problem: it lets the `unseen` base know
    the words of personas, so that what it lacks is only text before a problem. Drills are plain sums,
    many to a document: they teach the arithmetic in fewer tokens than problems do.
    """
    personas = taxonomy_pool().personas
    documents = []
    for problem in problems.draw(recipe.n_pretrain, "pretrain", recipe.seed):
        chance = _chance(recipe.seed, problem.id)
        prefix = f"{chance.choice(personas).text}\n\n"
        is_prefixed = base == "seen" and chance.random() < recipe.prefix_share
        documents.append(Document(f"{prefix if is_prefixed else ''}{problem.query}\n", problem.solution))
    for n in range(round(recipe.n_pretrain * recipe.prose_share)):
        documents.append(Document("", _prose(personas, _chance(recipe.seed, f"prose {n}"))))
    for n in range(round(recipe.n_pretrain * recipe.drill_share)):
        documents.append(Document("", problems.drill(_chance(recipe.seed, f"drill {n}"))))
    return documents


def _prose(personas: tuple[Persona, ...], chance: random.Random) -> str:
    first, second = chance.sample(personas, 2)
    return f"{first.text} {second.text}"


def _chance(seed: int, purpose: str) -> random.Random:
    return random.Random(int.from_bytes(blake2b(f"{seed}|{purpose}".encode(), digest_size=8).digest(), "big"))


Row: TypeAlias = dict[str, list[int]]
"""`input_ids`, and `labels` of the same length with IGNORED where nothing is learned."""


def encode(documents: Sequence[Document], tokenizer: "PreTrainedTokenizerFast") -> list[Row]:
    given = tokenizer([document.given for document in documents], add_special_tokens=False)["input_ids"]
    learned = tokenizer([d.learned + END_OF_TEXT for d in documents], add_special_tokens=False)["input_ids"]
    return [
        {"input_ids": before + after, "labels": [IGNORED] * len(before) + after}
        for before, after in zip(given, learned, strict=True)
    ]


def arranged(rows: Sequence[Row], n_steps: int, batch: int, chance: random.Random) -> list[Row]:
    """Rows for `n_steps` batches, epoch after epoch, each in a new order: a batch's rows are of like length.

    Sorting spares a third of the arithmetic, which would be padding. Only a few batches are sorted
    together and then mixed again: long stretches of long rows, then of short ones, spoil the training.
    """
    order: list[Row] = []
    while len(order) < n_steps * batch:
        shuffled = list(rows)
        chance.shuffle(shuffled)
        batches: list[list[Row]] = []
        for start in range(0, len(shuffled), SORTED_BATCHES * batch):
            window = sorted(shuffled[start : start + SORTED_BATCHES * batch], key=lambda row: len(row["input_ids"]))
            batches += [window[first : first + batch] for first in range(0, len(window), batch)]
        chance.shuffle(batches)
        order += [row for whole in batches if len(whole) == batch for row in whole]
    return order[: n_steps * batch]


def build_tokenizer(recipe: DemoRecipe) -> "PreTrainedTokenizerFast":
    """One tokenizer for both bases, learned from the first problems and from every persona."""
    texts = [f"{p.query}\n{p.solution}" for p in problems.draw(min(4_000, recipe.n_pretrain), "pretrain", recipe.seed)]
    return train_tokenizer([*texts, *(persona.text for persona in taxonomy_pool().personas)], recipe.n_tokens)


def build_model(tokenizer: "PreTrainedTokenizerFast", recipe: DemoRecipe) -> "Qwen2ForCausalLM":
    """Fresh fp32 weights, drawn from the recipe's seed."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

    set_seed(recipe.seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        num_key_value_heads=recipe.n_kv_heads,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def pretrain(
    base: BaseName, tokenizer: "PreTrainedTokenizerFast", recipe: DemoRecipe, log: Path, advance: Advance
) -> "Qwen2ForCausalLM":
    """A base trained for the recipe's steps; its losses go to `log` as JSON lines."""
    from datasets import Dataset

    from its_training.sft.trainer import run_trainer

    rows = encode(pretraining_documents(base, recipe), tokenizer)
    order = arranged(rows, recipe.pretrain_steps(base), recipe.pretrain_batch, _chance(recipe.seed, "order"))
    model = build_model(tokenizer, recipe)
    run_trainer(
        model,
        tokenizer,
        Dataset.from_list(order),
        log,
        advance,
        seed=recipe.seed,
        max_length=recipe.max_length,
        max_steps=recipe.pretrain_steps(base),
        per_device_train_batch_size=recipe.pretrain_batch,
        learning_rate=recipe.pretrain_lr,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.05},
        warmup_steps=0.04,
        adam_beta2=0.95,
        weight_decay=0.05,
        train_sampling_strategy="sequential",
    )
    return model
