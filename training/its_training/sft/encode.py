"""Turns a row's messages into tokens and labels, and proves for each row what carries loss.

encoded = encode(tokenizer, template, row)
encoded.input_ids, encoded.labels
"""

import unicodedata
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from its_proxy.codesign.errors import ConfigError
from its_training.progress import Advance
from its_training.sft.templates import Span, Template

IGNORED = -100
"""What torch's cross entropy leaves out."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """`labels` equal `input_ids` where the model learns, and IGNORED elsewhere. Compact: traces have many tokens."""

    input_ids: "array[int]"
    labels: "array[int]"


def encode_rows(
    tokenizer: Any, template: Template, rows: Sequence[Mapping[str, Any]], max_length: int, advance: Advance
) -> list[Encoded]:
    """Every row, proven. Raises ConfigError for a wrong mask, and for rows that would have to be cut."""
    encoded = []
    for n, row in enumerate(rows):
        encoded.append(encode(tokenizer, template, row))
        advance(n + 1, len(rows))
    long = [n for n, row in enumerate(encoded) if len(row.input_ids) > max_length]
    if long:
        worst = max(long, key=lambda n: len(encoded[n].input_ids))
        raise ConfigError(
            f"{len(long)} of {len(rows)} rows have more than {max_length} tokens; "
            f"{rows[worst]['id']} has {len(encoded[worst].input_ids)}",
            hint="raise chat.max_length, or prepare the data with that limit; a row is never cut",
        )
    return encoded


def encode(tokenizer: Any, template: Template, row: Mapping[str, Any]) -> Encoded:
    """The row's tokens: those of the prompt exactly as it is served, then those of the reply.

    Both are read apart, as a server reads the prompt alone: a reply that begins with a line break
    must not melt with the prompt's last token into one that serving never shows.
    """
    messages = row["messages"]
    if not messages or messages[-1]["role"] != "assistant":
        raise ConfigError(f"row {row['id']} does not end with the assistant's message")
    whole, spans = template.marked(tokenizer, messages)
    prompt = template.prompt(tokenizer, messages[:-1])
    if not whole.startswith(prompt):
        raise ConfigError(
            f"row {row['id']}: what is trained does not begin with the prompt that is served",
            hint=f"every reply must go on after {prompt[-24:]!r}",
        )
    ids, places = _tokens(tokenizer, prompt, 0)
    reply_ids, reply_places = _tokens(tokenizer, whole[len(prompt) :], len(prompt))
    ids, places = ids + reply_ids, places + reply_places
    if spans:
        start, end = spans.pop()
        spans.append((start + len(template.opening), end))
    learned = [[n for n, place in enumerate(places) if _is_within(place, span)] for span in spans]
    said = [tokenizer.decode([ids[n] for n in group]) for group in learned]
    # Tokenizers may compose accents; the words are the same.
    if [_composed(text) for text in said] != [_composed(text) for text in template.wanted(messages)]:
        raise ConfigError(
            f"row {row['id']}: the loss falls on other tokens than the assistant's words and the end of its turn",
            hint=f"template {template.name}",
        )
    chosen = {n for group in learned for n in group}
    return Encoded(array("i", ids), array("i", (token if n in chosen else IGNORED for n, token in enumerate(ids))))


def _tokens(tokenizer: Any, text: str, start: int) -> tuple[list[int], list[Span]]:
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(found["input_ids"]), [(begin + start, end + start) for begin, end in found["offset_mapping"]]


def _is_within(place: Span, span: Span) -> bool:
    return span[0] <= place[0] < place[1] <= span[1]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)
