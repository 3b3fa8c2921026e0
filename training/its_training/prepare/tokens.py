"""Counts a row's tokens as training will see them, by the tokenizer's own chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from its_proxy.codesign.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """`name` is where the tokenizer came from; rows longer than `max_length` tokens are over-long."""

    name: str
    max_length: int
    tokenizer: Any

    def count(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Tokens of the prompt, up to where the assistant begins, and of what it says."""
        n_prompt = self._length(messages[:-1], is_prompt=True)
        return n_prompt, max(0, self._length(messages, is_prompt=False) - n_prompt)

    def _length(self, messages: Sequence[Mapping[str, Any]], *, is_prompt: bool) -> int:
        encoded = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=is_prompt, tokenize=True, return_dict=True
        )
        return len(encoded["input_ids"])


def open_counter(name: str, max_length: int) -> TokenCounter:
    """A folder's tokenizer, or a Hub id's where the network allows. Raises ConfigError."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ConfigError("--tokenizer needs transformers", hint="pip install 'its-proxy[train]'") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # from_pretrained raises nearly anything
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"--tokenizer {name} cannot be opened: {reason}", hint="a folder, or a Hub id") from None
    if not tokenizer.chat_template:
        raise ConfigError(
            f"--tokenizer {name} has no chat template", hint="rows are counted as chats; name a chat model"
        )
    return TokenCounter(name, max_length, tokenizer)
