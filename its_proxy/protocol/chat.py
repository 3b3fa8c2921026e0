"""Reads a chat-completions request: the few fields we act on; everything else is kept to be forwarded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from its_proxy.codesign.errors import RequestError
from its_proxy.codesign.light import light
from its_proxy.protocol.its import ItsRequest, read_its
from its_proxy.protocol.limits import MAX_PARTS, MOST_ENTRIES, refuse_excess

SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p")
_JSON_NAMES: Mapping[type, str] = {bool: "true or false", dict: "an object"}
DENIED = ("cache_salt", "prompt_embeds", "request_id", "priority")
_DENIED = frozenset(DENIED)
USUAL = frozenset((
    "model", "messages", "its", "n", "seed", "stream", "stream_options", "max_tokens", "max_completion_tokens",
    *SAMPLING_FIELDS, "frequency_penalty", "presence_penalty", "repetition_penalty", "reasoning_effort",
    "response_format", "logprobs", "top_logprobs", "tool_choice", "parallel_tool_calls", "user",
))  # fmt: skip
"""Fields that are neither denied nor, but for `messages`, held to a size: there is nothing to refuse of them."""
MOST_MESSAGES = MOST_ENTRIES["messages"]


@light
@dataclass(frozen=True, slots=True)
class ChatRequest:
    """`body` is the client's own object without `its`; `n` is how many choices the client wants back."""

    model: str
    messages: list[dict[str, Any]]
    body: Mapping[str, Any]
    its: ItsRequest
    n: int
    is_stream: bool
    wants_usage: bool


def read_chat(body: dict[str, Any]) -> ChatRequest:
    """Checks what we act on; raises RequestError naming the field."""
    model = read_model(body)
    messages = body.get("messages")
    if not (USUAL.issuperset(body) and type(messages) is list and len(messages) <= MOST_MESSAGES):
        refuse_denied(body)
        refuse_excess(body)
        _optional(body, "chat_template_kwargs", dict, None)
    stream = "stream" in body and _optional(body, "stream", bool, False)
    options = _optional(body, "stream_options", dict, {}) if "stream_options" in body else {}
    forwarded = dict(body)
    forwarded.pop("its", None)
    messages = _read_messages(messages)
    its = read_its(body.get("its"))
    n = _positive(body, "n", 1) if "n" in body else 1
    wants_usage = stream and options.get("include_usage") is True
    # By their places: a class that is called with names takes three times as long.
    return ChatRequest(model, messages, forwarded, its, n, stream, wants_usage)


def read_model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise RequestError("model is required and must be a string", param="model")
    return model


def refuse_denied(body: Mapping[str, Any]) -> None:
    """Fields that reach past the model into the engine: another tenant's cache, another request's slot."""
    names = "\n".join(body)
    if _DENIED.isdisjoint(body) and "kv_" not in names and "_transfer_params" not in names:
        return  # seen at one look; the rest is for whom it concerns
    for key in body:
        if key in _DENIED or key.startswith("kv_") or key.endswith("_transfer_params"):
            raise RequestError(f"{key[:100]} is not for clients to set", param=key[:100], code="field_not_allowed")


def client_max_tokens(body: Mapping[str, Any]) -> int | None:
    """The client's own cap on generated tokens, by either of its names."""
    if "max_completion_tokens" not in body and "max_tokens" not in body:
        return None
    cap: int | None = _positive(body, "max_completion_tokens", None)
    older: int | None = _positive(body, "max_tokens", None, least=0 if "prompt" in body else 1)  # 0: an echo alone
    return min(cap, older) if cap is not None and older is not None else cap if older is None else older


def client_seed(body: Mapping[str, Any]) -> int | None:
    seed = body.get("seed")
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**62) <= seed < 2**62:
        raise RequestError("seed must be an integer", param="seed")
    return seed


def _read_messages(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages is required and must be a non-empty list", param="messages")
    for position, message in enumerate(messages):
        if type(message) is dict and type(message.get("role")) is str and type(message.get("content")) is str:
            continue  # as nearly all are
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            param = f"messages[{position}]"
            raise RequestError(f"{param} must be an object with a role", param=param)
        if not isinstance(content := message.get("content"), str):
            _check_parts(content, f"messages[{position}].content")
    return messages


def _check_parts(content: Any, param: str) -> None:
    if content is None:
        return
    if not isinstance(content, list):
        raise RequestError(f"{param} must be a string or a list of parts", param=param)
    if len(content) > MAX_PARTS:
        raise RequestError(f"{param} has more than {MAX_PARTS} parts", param=param)
    if not all(isinstance(part, dict) for part in content):
        raise RequestError(f"{param} must hold objects", param=param)


def _optional(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise RequestError(f"{name} must be {_JSON_NAMES[kind]}", param=name)
    return value


def _positive(body: Mapping[str, Any], name: str, default: Any, least: int = 1) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RequestError(f"{name} must be a positive integer", param=name)
    return value
