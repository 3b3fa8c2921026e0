"""Fine-tunes a base on an arm's rows with TRL's SFTTrainer, the loss on the assistant's tokens only.

`run_trainer` is the one way to train on a CPU here; pre-training from scratch goes through it too.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from its_proxy.codesign.errors import ConfigError
from its_training.demo.tokenizer import END_OF_TURN
from its_training.progress import Advance, step_callback

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM


def run_trainer(
    model: "Qwen2ForCausalLM",
    tokenizer: "PreTrainedTokenizerFast",
    rows: "Dataset",
    log: Path,
    advance: Advance,
    *,
    seed: int,
    **settings: Any,
) -> None:
    """Trains `model` in place, in fp32; `settings` are fields of SFTConfig. Losses go to `log` as JSON lines."""
    import torch
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=str(log.parent),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=20,
        use_cpu=True,
        bf16=False,
        dataloader_pin_memory=False,
        activation_checkpointing=False,
        packing=False,
        seed=seed,
        data_seed=seed,
        **settings,
    )
    model.to(torch.float32).train()
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=rows, processing_class=tokenizer, callbacks=[step_callback(advance)]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    log.write_text("".join(json.dumps(entry) + "\n" for entry in trainer.state.log_history), encoding="utf-8")


def fine_tune(
    model: "Qwen2ForCausalLM",
    tokenizer: "PreTrainedTokenizerFast",
    rows: Sequence[dict[str, Any]],
    log: Path,
    advance: Advance,
    *,
    seed: int,
    n_epochs: int,
    batch: int,
    learning_rate: float,
    max_length: int,
) -> None:
    """Trains `model` in place on the rows' `messages`. Equal seeds show matched arms their rows in one order."""
    from datasets import Dataset

    check_mask(tokenizer, rows, max_length)
    run_trainer(
        model,
        tokenizer,
        Dataset.from_dict({"messages": [row["messages"] for row in rows]}),
        log,
        advance,
        seed=seed,
        max_length=max_length,
        assistant_only_loss=True,
        num_train_epochs=n_epochs,
        per_device_train_batch_size=batch,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        adam_beta2=0.95,
        weight_decay=0.01,
    )


def check_mask(tokenizer: "PreTrainedTokenizerFast", rows: Sequence[dict[str, Any]], max_length: int) -> None:
    """Proves that exactly the assistant's words and the end of its turn carry loss, and that no row is cut.

    Raises ConfigError naming the row: a wrong mask trains silently, on the wrong thing.
    """
    for row in rows:
        encoded = tokenizer.apply_chat_template(
            row["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        if len(encoded["input_ids"]) > max_length:
            raise ConfigError(f"row {row['id']} has {len(encoded['input_ids'])} tokens", hint=f"at most {max_length}")
        pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
        learned = [token for token, is_learned in pairs if is_learned]
        wanted = row["messages"][-1]["content"] + END_OF_TURN
        if tokenizer.decode(learned) != wanted:
            raise ConfigError(f"row {row['id']}: the loss falls on other tokens than the assistant's")
