"""A recipe in the words of TRL and PEFT."""

from pathlib import Path
from typing import Any

from its_proxy.codesign.errors import ConfigError
from its_training.recipe import Optimizer, Recipe
from its_training.sft.processes import Processes
from its_training.sft.schedule import Schedule

OPTIMIZERS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}


def config_of(recipe: Recipe, folder: Path, seed: int, plan: Schedule, processes: Processes) -> Any:
    """An SFTConfig. Made before the model is opened: ZeRO-3 has it loaded in pieces from then on."""
    from trl import SFTConfig

    optimizer, compute = recipe.optimizer, recipe.compute
    is_cpu = compute.device == "cpu"
    return SFTConfig(
        output_dir=str(folder),
        # The rows come tokenized, proven and in their order: nothing here may cut, pack or shuffle them.
        max_length=None,
        packing=False,
        train_sampling_strategy="sequential",
        max_steps=plan.steps,
        per_device_train_batch_size=compute.per_device_batch,
        gradient_accumulation_steps=plan.accumulation,
        average_tokens_across_devices=True,
        learning_rate=optimizer.learning_rate,
        **_scheduler(optimizer),
        warmup_steps=optimizer.warmup,
        optim=OPTIMIZERS[optimizer.name],
        weight_decay=optimizer.weight_decay,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        max_grad_norm=optimizer.max_grad_norm,
        seed=seed,
        data_seed=seed,
        bf16=not is_cpu and compute.dtype == "bfloat16",
        use_cpu=is_cpu,
        ddp_backend="gloo" if is_cpu and processes.n > 1 else None,
        ddp_find_unused_parameters=False if processes.n > 1 else None,
        dataloader_pin_memory=not is_cpu,
        # FSDP wraps the blocks itself, and is told by the environment: see run.py.
        activation_checkpointing=compute.activation_checkpointing and compute.parallel != "fsdp2",
        save_strategy="steps",
        save_steps=recipe.save_every_steps or plan.steps_per_epoch,
        logging_steps=1,
        logging_first_step=True,
        disable_tqdm=True,
        report_to=list(recipe.log_to) or "none",
        run_name=f"{recipe.name}/{folder.name}",
    )


def _scheduler(optimizer: Optimizer) -> dict[str, Any]:
    name = optimizer.schedule
    if name == "constant" and optimizer.warmup > 0:
        return {"lr_scheduler_type": "constant_with_warmup"}
    if name == "cosine_with_min_lr":
        return {"lr_scheduler_type": name, "lr_scheduler_kwargs": {"min_lr_rate": optimizer.min_lr_rate}}
    return {"lr_scheduler_type": name}


def lora_of(recipe: Recipe) -> Any:
    """A LoraConfig, or None for full fine-tuning. Raises ConfigError for `lora` without `method: lora`."""
    if recipe.method == "full":
        return None
    from peft import LoraConfig

    assert recipe.lora is not None
    modules = recipe.lora.target_modules
    return LoraConfig(
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )


def check_machine(recipe: Recipe) -> None:
    """Raises ConfigError for what this machine lacks, before a base is loaded."""
    import torch
    from transformers.utils import is_bitsandbytes_available, is_flash_attn_2_available

    if recipe.compute.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "compute.device is cuda, and torch sees no GPU here",
            hint="its-train plan --dry-run walks the recipe through on a CPU",
        )
    if recipe.compute.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise ConfigError(
            "compute.attention is flash_attention_2, which is not installed",
            hint="pip install flash-attn, or compute.attention: sdpa",
        )
    if recipe.optimizer.name != "adamw" and not is_bitsandbytes_available():
        raise ConfigError(
            f"optimizer.name is {recipe.optimizer.name}, and bitsandbytes is not installed",
            hint="pip install bitsandbytes, or optimizer.name: adamw",
        )
