"""Chat messages <-> the user's own questions inside them.

A message's content is a string or a list of parts (`{"type": "text", "text": ...}`, images, ...).
Only text of user messages is ever touched, and only at its two ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from its_proxy.codesign.light import light

Message = Mapping[str, Any]
_TEXTS = ("text", "input_text", "output_text")
"""Types of parts that vLLM renders as text; OpenAI's chat completions know the first alone."""


@light
@dataclass(frozen=True, slots=True)
class Turn:
    """One user message with text: its place among all messages, its number among user turns, its text."""

    position: int
    number: int
    text: str


@light
@dataclass(frozen=True, slots=True)
class Rewrite:
    """What is put before and after a turn's text. The text itself is never in our hands, so it stays verbatim."""

    before: str = ""
    after: str = ""

    def apply(self, text: str) -> str:
        # Joined, not formatted or added: a subclass of str may format, or add, as something else than its text.
        return "".join((self.before, text, self.after))


def user_turns(messages: Sequence[Message]) -> tuple[Turn, ...]:
    """The user messages that hold text, oldest first. Numbers count all user messages, texts or not."""
    turns = []
    number = 0
    for position, message in enumerate(messages):
        if (message.get("role") if type(message) is dict else role_of(message)) != "user":
            continue
        content = message.get("content")
        text = content if type(content) is str else "\n".join(_texts(content))
        if text.strip():
            turns.append(Turn(position, number, text))
        number += 1
    return tuple(turns)


def role_of(message: Any) -> Any:
    """The message's role; None for what is no message, which is passed on for the upstream to refuse."""
    return message.get("role") if type(message) is dict or isinstance(message, Mapping) else None


def with_rewrites(messages: Sequence[Message], rewrites: Mapping[int, Rewrite]) -> list[Message]:
    """New messages with `rewrites[position]` applied; every other message is passed on as the same object."""
    rewritten = list(messages)
    for position, rewrite in rewrites.items():
        message = messages[position]
        content = message["content"]
        written = rewrite.apply(content) if isinstance(content, str) else _rewritten_parts(content, rewrite)
        rewritten[position] = {**message, "content": written}
    return rewritten


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    return [part["text"] for part in content if _is_text(part)]


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _TEXTS and isinstance(part.get("text"), str)


def _rewritten_parts(content: Any, rewrite: Rewrite) -> list[Any]:
    places = [place for place, part in enumerate(content) if _is_text(part)]
    parts = list(content)
    for place, end in ((places[0], Rewrite(before=rewrite.before)), (places[-1], Rewrite(after=rewrite.after))):
        parts[place] = {**parts[place], "text": end.apply(parts[place]["text"])}
    return parts
