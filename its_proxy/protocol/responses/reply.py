"""A chat completion told as the Response that it is the answer to."""

from collections.abc import Mapping
from typing import Any

from its_proxy.protocol.responses.request import Json

# What a Response repeats of its request, and what it says where the request was silent.
_REPEATED: Mapping[str, Any] = {
    "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None}, "temperature": None, "text": {"format": {"type": "text"}},
    "tool_choice": "auto", "tools": [], "top_p": None,
}  # fmt: skip
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_of(request: Mapping[str, Any], completion: Mapping[str, Any], request_id: str) -> Json:
    """The whole Response; of several choices the first one's."""
    choice = completion["choices"][0]
    created, model = completion.get("created") or 0, completion.get("model") or request.get("model", "")
    response = head_of(request, request_id, created, model)
    response |= ending_of(choice.get("finish_reason"), completion.get("usage"))
    response["output"] = output_of(choice["message"], request_id, logprobs=choice.get("logprobs"))
    if response["output"]:
        response["output"][-1]["status"] = response["status"]  # what was cut off is its last item
    return response | ({"its": completion["its"]} if "its" in completion else {})


def head_of(request: Mapping[str, Any], request_id: str, created: int, model: str) -> Json:
    """A Response that has just begun."""
    repeated = {key: request.get(key) if request.get(key) is not None else silent for key, silent in _REPEATED.items()}
    return {
        "id": f"resp_{request_id}", "object": "response", "created_at": created, "status": "in_progress",
        "background": False, "error": None, "incomplete_details": None, "model": model, "output": [],
        "previous_response_id": None, "store": False, "truncation": "disabled", "usage": None, **repeated,
    }  # fmt: skip


def ending_of(finish_reason: Any, usage: Any) -> Json:
    """What of a Response is known when it has ended."""
    reason = _INCOMPLETE.get(text_of(finish_reason))
    status = {"status": "completed"} if reason is None else {"status": "incomplete"}
    return {**status, "incomplete_details": None if reason is None else {"reason": reason}, "usage": _usage(usage)}


def output_of(message: Mapping[str, Any], request_id: str, logprobs: Any = None) -> list[Json]:
    """The items: thoughts, then words, then calls."""
    items: list[Json] = []
    if thoughts := text_of(message.get("reasoning") or message.get("reasoning_content")):
        item = reasoning_item(item_id("rs", request_id, 0))
        items.append({**item, "content": [reasoning_part(thoughts)], "status": "completed"})
    parts = []
    calls = objects_of(message.get("tool_calls"))
    if isinstance(text := message.get("content"), str) and (text or not calls):
        parts.append(text_part(text, tokens_of(logprobs)))
    if isinstance(refusal := message.get("refusal"), str) and refusal:
        parts.append({"type": "refusal", "refusal": refusal})
    if parts:
        item = message_item(item_id("msg", request_id, len(items)))
        items.append({**item, "content": parts, "status": "completed"})
    for call in calls:
        [function] = objects_of([call.get("function")]) or [{}]
        item = call_item(item_id("fc", request_id, len(items)), call.get("id"), text_of(function.get("name")))
        items.append({**item, "arguments": text_of(function.get("arguments")), "status": "completed"})
    return items


def item_id(kind: str, request_id: str, position: int) -> str:
    return f"{kind}_{request_id}_{position}"


def reasoning_item(name: str) -> Json:
    return {"id": name, "type": "reasoning", "summary": [], "content": [], "status": "in_progress"}


def message_item(name: str) -> Json:
    return {"id": name, "type": "message", "role": "assistant", "content": [], "status": "in_progress"}


def call_item(name: str, call_id: str | None, function: str) -> Json:
    """`call_id` is what the client names in its `function_call_output`."""
    return {"id": name, "type": "function_call", "call_id": call_id or name, "name": function, "arguments": "",
            "status": "in_progress"}  # fmt: skip


def reasoning_part(text: str = "") -> Json:
    return {"type": "reasoning_text", "text": text}


def text_part(text: str = "", logprobs: list[Json] | None = None) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def tokens_of(logprobs: Any) -> list[Json]:
    """A choice's log-probabilities, as an item's part holds them."""
    told = objects_of(logprobs.get("content")) if isinstance(logprobs, dict) else []
    return [
        {**_token(token), "top_logprobs": [_token(top) for top in objects_of(token.get("top_logprobs"))]}
        for token in told
    ]


def _token(token: Mapping[str, Any]) -> Json:
    return {"token": token.get("token"), "logprob": token.get("logprob"), "bytes": token.get("bytes") or []}


def _usage(usage: Any) -> Json | None:
    if not isinstance(usage, dict):
        return None
    prompt, generated = number_of(usage.get("prompt_tokens")), number_of(usage.get("completion_tokens"))
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            name: _detail(usage, "prompt_tokens_details", name) for name in ("cached_tokens", "cache_write_tokens")
        },
        "output_tokens": generated,
        "output_tokens_details": {"reasoning_tokens": _detail(usage, "completion_tokens_details", "reasoning_tokens")},
        "total_tokens": number_of(usage.get("total_tokens")) or prompt + generated,
    }


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    return number_of(details.get(name)) if isinstance(details, dict) else 0


# An upstream may put anything where a number, a text or a list of objects should be: what is none of that is not told.


def number_of(value: Any) -> int:
    return value if isinstance(value, int) else 0


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


def objects_of(value: Any) -> list[Json]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []
