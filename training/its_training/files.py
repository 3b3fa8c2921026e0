"""Checkpoint folders: saved without pickles, digested, and complete or absent."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from its_proxy.codesign.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

STAGE_FILE = "stage.json"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CHECKPOINT_FILES = (
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
"""What `save_checkpoint` writes: all that serving needs but the manifest."""


def is_built(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether an earlier run built `folder` from equal `inputs`.

    Raises ConfigError if it holds something else than these inputs would build: nothing is overwritten.
    """
    if not folder.exists():
        return False
    if holds(folder, inputs):
        return True
    raise ConfigError(f"{folder} was built by another recipe", hint="choose another --out, or remove that folder first")


def build(folder: Path, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> None:
    """Has `make` fill `folder`, which appears by one rename when it is complete.

    Whatever ends `make` early leaves no half of it. Raises ConfigError where nothing can be written.
    """
    work = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}", hint="choose a writable --out") from None
    try:
        make(work)
        (work / STAGE_FILE).write_text(json.dumps(inputs, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(work, folder)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            hint = "free some space, or choose another folder; nothing was left behind"
            raise ConfigError(f"cannot write {folder}: {error.strerror}", hint=hint) from None
        raise


def holds(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether `folder` says that it was built from exactly these inputs."""
    try:
        recorded = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(recorded == json.loads(json.dumps(inputs)))


def save_checkpoint(model: "Qwen2ForCausalLM", tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """Writes bf16 safetensors, both configs and the tokenizer. `model` itself is rounded to bf16."""
    import torch
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.config.use_cache = True  # training switches it off
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _tidy_tokenizer_config(folder / "tokenizer_config.json")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone, and package data is everyone's


def _tidy_tokenizer_config(path: Path) -> None:
    """Drops how it was last loaded, and names the class that older readers know too."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only", "backend"):
        config.pop(key, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(folder: Path) -> "tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]":
    """The saved weights, computed with in fp32, and their tokenizer; nothing is fetched."""
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model, PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def check_writable(folder: Path, option: str) -> None:
    """Says so before minutes of work and not after them. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()  # without a name of its own: several processes may try at once
    except OSError as error:
        raise ConfigError(
            f"{option}: cannot write {folder}: {error.strerror}", hint="choose a writable folder"
        ) from None


def file_sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
