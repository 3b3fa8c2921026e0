"""Opens any causal language model that transformers knows, as saved: safetensors only, never code from a checkpoint.

    model = load_model(Path("Qwen-7B-gsm8k-random"), base=Path("Qwen/Qwen2.5-7B-Instruct"))

A folder is read where it lies; `org/name` or `org/name@revision` that is none is fetched from the Hub. An adapter is
put on its base.
"""

import warnings
from hashlib import file_digest
from pathlib import Path
from typing import Any

from its_proxy.codesign.errors import ConfigError
from its_proxy.hub import repository_of

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(path: Path) -> bool:
    """Whether the folder holds a LoRA, which is nothing without its base."""
    return (path / ADAPTER_CONFIG).is_file()


def load_model(path: Path, base: Path | None = None, device: str = "cpu") -> Any:
    """The saved weights, computed with in fp32. `device` is torch's, or `auto` to spread over all GPUs.

    Raises ConfigError in one line for whatever cannot be loaded whole.
    """
    if not is_adapter(path):
        return _load_full(path, device)
    if base is None or is_adapter(base):
        raise ConfigError(f"{path} is an adapter", hint="--base names the model that it was trained on")
    if not (path / ADAPTER_WEIGHTS).is_file():
        raise ConfigError(f"{path} holds no {ADAPTER_WEIGHTS}", hint="weights are read from safetensors only")
    from peft import PeftModel

    model = _load_full(base, device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it asks transformers for an attribute's old name
            return PeftModel.from_pretrained(model, str(path), is_trainable=False).eval()
    except _load_errors() as error:
        raise _unreadable(path, error) from None


def _load_full(path: Path, device: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            **_place(path),
            dtype=torch.float32,
            device_map=None if device == "cpu" else device,
            output_loading_info=True,
            use_safetensors=True,
        )
    except _load_errors() as error:
        raise _unreadable(path, error) from None
    # transformers would make up what a file lacks, at random, and say so in a log line only.
    if lacking := sorted(map(str, found["missing_keys"])):
        raise ConfigError(f"{path} lacks {len(lacking)} weights, such as {lacking[0]}", hint="is the copy complete?")
    return model.eval()


def check_model(path: Path) -> None:
    """Raises ConfigError where nothing can be loaded, before minutes are spent on other models."""
    from transformers import AutoConfig

    if is_adapter(path):
        return
    try:
        AutoConfig.from_pretrained(**_place(path))
    except _load_errors() as error:
        raise _unreadable(path, error) from None


def load_tokenizer(path: Path, base: Path | None = None) -> Any:
    """The tokenizer, with its chat template; that of `base` where an adapter brings none."""
    from transformers import AutoTokenizer

    place = base if base is not None and is_adapter(path) and not (path / "tokenizer_config.json").is_file() else path
    try:
        tokenizer = AutoTokenizer.from_pretrained(**_place(place))
    except _load_errors() as error:
        raise _unreadable(place, error) from None
    if not tokenizer.chat_template:
        raise ConfigError(f"{place} has no chat template", hint="a query has no tokens without one")
    return tokenizer


def weight_digests(folder: Path) -> dict[str, str]:
    """sha256 of every weight file by name; read in pieces, as they may be larger than memory."""
    digests = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digests[path.name] = file_digest(file, "sha256").hexdigest()
    return digests


def _place(path: Path) -> dict[str, Any]:
    """Where transformers finds it, and that no code of its own is run. Raises ConfigError."""
    if path.is_dir():
        return {"pretrained_model_name_or_path": str(path), "local_files_only": True, "trust_remote_code": False}
    found = repository_of(str(path))
    if found is None:
        raise ConfigError(f"{path} is not there", hint="a checkpoint's folder is meant, or a Hub id: org/name@revision")
    return {"pretrained_model_name_or_path": found[0], "revision": found[1], "trust_remote_code": False}


def _load_errors() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    return (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, AttributeError, SafetensorError)


def _unreadable(path: Path, error: Exception) -> ConfigError:
    said = " ".join(str(error).split())[:240] or type(error).__name__
    hint = "" if path.is_dir() else "it is no folder here, so it was looked for on the Hub"
    return ConfigError(f"{path} cannot be loaded: {said}", hint=hint)
