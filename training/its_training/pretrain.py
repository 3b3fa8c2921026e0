"""Pre-trains a tiny base from scratch on word problems and persona prose, through TRL's SFTTrainer."""

import random
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from its_proxy.codesign.personas import Persona, taxonomy_pool
from its_training import problems
from its_training.progress import Advance
from its_training.recipe import BaseName, DemoRecipe
from its_training.tokenizer import END_OF_TEXT, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM


def pretraining_texts(base: BaseName, recipe: DemoRecipe) -> list[str]:
    """The base's documents. Both bases read the same problems and prose; `seen` has text before half of the problems.

    The prose, two personas a document, is never joined to a problem: it lets the `unseen` base know
    the words of personas, so that what it lacks is only text before a problem.
    """
    personas = taxonomy_pool().personas
    documents = []
    for problem in problems.draw(recipe.n_pretrain, "pretrain", recipe.seed):
        text = f"{problem.query}\n{problem.solution}"
        chance = _chance(recipe.seed, problem.id)
        prefix = chance.choice(personas).text
        is_prefixed = base == "seen" and chance.random() < recipe.prefix_share
        documents.append(f"{prefix}\n\n{text}" if is_prefixed else text)
    n_prose = round(recipe.n_pretrain * recipe.prose_share)
    documents += [_prose(personas, _chance(recipe.seed, f"prose {n}")) for n in range(n_prose)]
    _chance(recipe.seed, "order").shuffle(documents)
    return documents


def _prose(personas: tuple[Persona, ...], chance: random.Random) -> str:
    first, second = chance.sample(personas, 2)
    return f"{first.text} {second.text}"


def _chance(seed: int, purpose: str) -> random.Random:
    return random.Random(int.from_bytes(blake2b(f"{seed}|{purpose}".encode(), digest_size=8).digest(), "big"))


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
    """A base trained for `recipe.pretrain_steps`; its losses go to `log` as JSON lines."""
    from datasets import Dataset

    from its_training.sft import run_trainer

    texts = [text + END_OF_TEXT for text in pretraining_texts(base, recipe)]
    rows = Dataset.from_dict({"input_ids": tokenizer(texts, add_special_tokens=False)["input_ids"]})
    model = build_model(tokenizer, recipe)
    run_trainer(
        model,
        tokenizer,
        rows,
        log,
        advance,
        seed=recipe.seed,
        max_length=recipe.max_length,
        max_steps=recipe.pretrain_steps,
        per_device_train_batch_size=recipe.pretrain_batch,
        learning_rate=recipe.pretrain_lr,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.05},
        warmup_steps=0.04,
        adam_beta2=0.95,
        weight_decay=0.05,
        # Rows of like length share a batch: about a third of the arithmetic would be padding otherwise.
        train_sampling_strategy="group_by_length",
    )
    return model
