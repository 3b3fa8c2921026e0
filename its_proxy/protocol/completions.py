"""`/v1/completions`: planned as the chat of one user turn, and told as the text that was asked for.

The prompt is what the model reads, untouched, so only a model whose strategy is `none` can be asked this way.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from its_proxy.codesign.errors import RequestError
from its_proxy.protocol.chat import ChatRequest, read_chat
from its_proxy.protocol.sse import data_of, event

# With any of these a prompt is not just a text that goes on.
_UNVOTED = ("echo", "suffix", "prompt_logprobs", "use_beam_search")


def read_completion(body: dict[str, Any]) -> ChatRequest:
    """Its `messages` are for planning, its `body` is the client's own. Raises RequestError naming the field."""
    if "messages" in body:
        raise RequestError("this route takes a prompt", param="messages", hint="use /v1/chat/completions")
    if not isinstance(body.get("prompt"), str | list) or body["prompt"] == []:
        raise RequestError("prompt is required and must be a string or a list", param="prompt")
    chat = read_chat({**body, "messages": [{"role": "user", "content": prompt_text(body) or ""}]})
    if chat.its.stream != "winner":
        raise RequestError("only a chat can be streamed that way", param="its.stream", hint="use /v1/chat/completions")
    return replace(chat, body={key: value for key, value in chat.body.items() if key != "messages"})


def prompt_text(body: Mapping[str, Any]) -> str | None:
    """The one prompt as a text; None where there are several, or tokens."""
    prompt = body["prompt"]
    if isinstance(prompt, list) and len(prompt) == 1:
        [prompt] = prompt
    return prompt if isinstance(prompt, str) else None


def n_asked(body: Mapping[str, Any]) -> int:
    """Texts that the upstream generates, of all prompts together. A list of numbers is one prompt, as tokens."""
    prompts = body["prompt"]
    n_prompts = len(prompts) if isinstance(prompts, list) and not isinstance(prompts[0], int) else 1
    each = [value for value in map(body.get, ("n", "best_of")) if isinstance(value, int)]
    return n_prompts * max(each, default=1)


def may_be_voted(body: Mapping[str, Any]) -> bool:
    """One prompt, of which one text is to go on."""
    is_plain = not any(body.get(name) for name in _UNVOTED) and body.get("best_of") in (None, 1)
    return is_plain and prompt_text(body) is not None


def as_chat(completion: dict[str, Any]) -> dict[str, Any]:
    """A text completion whose choices have messages as well, for those who read answers there."""
    choices = [
        {**choice, "message": {"role": "assistant", "content": choice["text"]}} for choice in completion["choices"]
    ]
    return {**completion, "choices": choices}


def as_text(completion: dict[str, Any]) -> dict[str, Any]:
    """The same back, for the client; a text completion that was passed through is one already."""
    if completion.get("object") != "chat.completion":
        return completion
    choices = [{key: value for key, value in choice.items() if key != "message"} for choice in completion["choices"]]
    return {**completion, "id": _own_id(completion["id"]), "object": "text_completion", "choices": choices}


def retold(block: bytes) -> bytes:
    """Whole lines of a stream, the chat chunks among them as chunks of a text."""
    return b"".join(_retold_line(line) for line in block.splitlines(keepends=True))


def _retold_line(line: bytes) -> bytes:
    data = data_of(line)
    chunk = orjson.loads(data) if data.startswith(b"{") else {}
    if chunk.get("object") != "chat.completion.chunk":
        return line
    choices = [
        {key: value for key, value in choice.items() if key != "delta"} | {"text": choice["delta"].get("content") or ""}
        for choice in chunk["choices"]
    ]
    told = {**chunk, "id": _own_id(chunk["id"]), "object": "text_completion", "choices": choices}
    return event(told).removesuffix(b"\n")


def _own_id(chat_id: str) -> str:
    """As OpenAI spells them."""
    return f"cmpl-{chat_id.removeprefix('chatcmpl-')}"
