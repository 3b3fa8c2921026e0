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


def surrounded(message: Message, before: str, after: str) -> Message:
    """A new message with these before and after a user turn's text. The text itself is never in our hands, so it stays
    verbatim."""
    content = message["content"]
    if isinstance(content, str):
        # Joined, not formatted or added: a subclass of str may format, or add, as something else than its text.
        return {**message, "content": "".join((before, content, after))}
    places = [place for place, part in enumerate(content) if _is_text(part)]
    parts = list(content)
    for place, sides in ((places[0], (before, "")), (places[-1], ("", after))):
        parts[place] = {**parts[place], "text": "".join((sides[0], parts[place]["text"], sides[1]))}
    return {**message, "content": parts}


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    return [part["text"] for part in content if _is_text(part)]


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _TEXTS and isinstance(part.get("text"), str)
