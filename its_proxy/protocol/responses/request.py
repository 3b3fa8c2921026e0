"""Reads a Responses request as the chat-completions request that asks the same.

    >>> chat_body({"model": "m", "instructions": "Be short.", "input": "2 + 2?"})["messages"]
    [{'role': 'system', 'content': 'Be short.'}, {'role': 'user', 'content': '2 + 2?'}]

What is not OpenAI's own (`its`, `seed`, `top_k`, ...) is handed on as it stands.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from its_proxy.codesign.errors import RequestError

Json: TypeAlias = dict[str, Any]

LOGPROBS = "message.output_text.logprobs"
# What would need a memory of earlier requests, and the value that asks for none of it.
_NEEDS_MEMORY: Mapping[str, Any] = {
    "background": False, "conversation": None, "previous_response_id": None, "prompt": None, "truncation": "disabled",
}  # fmt: skip
# Of the reply alone, or about what OpenAI keeps: nothing that a model server could use.
_NOT_FORWARDED = (
    "include", "max_tool_calls", "metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
    "service_tier", "store", "stream_options",
)  # fmt: skip
_ROLES = ("user", "assistant", "system", "developer")


def chat_body(body: Mapping[str, Any]) -> Json:
    """The chat-completions body. Raises RequestError naming the field that cannot be served."""
    for key, harmless in _NEEDS_MEMORY.items():
        if body.get(key) not in (None, harmless):
            raise RequestError(f"{key} needs a server that remembers, and this one keeps nothing", param=key,
                               hint="send the whole conversation as input")  # fmt: skip
    known = {*_NEEDS_MEMORY, *_NOT_FORWARDED, *_TRANSLATED, "input", "instructions"}
    chat = {key: value for key, value in body.items() if key not in known}
    chat["messages"] = _messages(body)
    for key, translate in _TRANSLATED.items():
        if body.get(key) is not None:
            chat |= translate(body[key])
    include = body.get("include") or []
    if not isinstance(include, list):
        raise RequestError("include must be a list", param="include")
    if LOGPROBS in include:
        chat["logprobs"] = True
    else:
        chat.pop("top_logprobs", None)  # model servers refuse it alone
    if chat.get("stream") is True:
        chat["stream_options"] = {"include_usage": True}
    return chat


def _messages(body: Mapping[str, Any]) -> list[Json]:
    messages: list[Json] = []
    if (instructions := body.get("instructions")) is not None:
        if not isinstance(instructions, str):
            raise RequestError("instructions must be a string", param="instructions")
        messages.append({"role": "system", "content": instructions})
    given = body.get("input")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise RequestError("input is required and must be a string or a list of items", param="input")
    for position, item in enumerate(given):
        _add_item(messages, item, f"input[{position}]")
    return messages


def _add_item(messages: list[Json], item: Any, param: str) -> None:
    if not isinstance(item, dict):
        raise RequestError(f"{param} must be an object", param=param)
    kind = item.get("type", "message")
    match kind:
        case "message":
            messages.append(_message(item, param))
        case "function_call":
            call = {"name": item.get("name"), "arguments": item.get("arguments")}
            _last_of_assistant(messages).setdefault("tool_calls", []).append(
                {"id": item.get("call_id"), "type": "function", "function": call}
            )
        case "function_call_output":
            content = _content(item.get("output"), f"{param}.output")
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        case "reasoning":
            pass  # chat templates leave out the thoughts of earlier turns
        case _:
            raise RequestError(f"{param}: items of type {str(kind)[:40]!r} cannot be served here", param=param)


def _message(item: Json, param: str) -> Json:
    if item.get("role") not in _ROLES:
        raise RequestError(f"{param}.role must be one of {', '.join(_ROLES)}", param=f"{param}.role")
    return {"role": item["role"], "content": _content(item.get("content"), f"{param}.content")}


def _last_of_assistant(messages: list[Json]) -> Json:
    """Calls made side by side are items here and one message there."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _content(content: Any, param: str) -> str | list[Json]:
    """A single text becomes a string: some chat templates render a list of parts differently."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise RequestError(f"{param} must be a string or a list of parts", param=param)
    parts = [_part(part, f"{param}[{position}]") for position, part in enumerate(content)]
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: Json, param: str) -> Json:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            detail = {"detail": part["detail"]} if part.get("detail") is not None else {}
            return {"type": "image_url", "image_url": {"url": url, **detail}}
        case {"type": "input_audio", "input_audio": dict(audio)}:
            return {"type": "input_audio", "input_audio": audio}
        case {"type": "input_file", "file_data": str()}:
            return {"type": "file", "file": {key: part[key] for key in ("file_data", "filename") if key in part}}
    kind = str(part.get("type"))[:40]
    raise RequestError(f"{param}: a part of type {kind!r} cannot be served as it stands", param=param,
                       hint="texts, image_url, input_audio and file_data are")  # fmt: skip


def _tools(tools: Any) -> Json:
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RequestError("tools must be a list of objects", param="tools")
    for position, tool in enumerate(tools):
        if tool.get("type") != "function":
            kind = str(tool.get("type"))[:40]
            raise RequestError(f"tools[{position}]: a tool of type {kind!r} runs at OpenAI alone",
                               param=f"tools[{position}]", hint="functions are served")  # fmt: skip
    functions = [{key: value for key, value in tool.items() if key != "type"} for tool in tools]
    return {"tools": [{"type": "function", "function": function} for function in functions]} if tools else {}


def _tool_choice(choice: Any) -> Json:
    match choice:
        case str():
            return {"tool_choice": choice}
        case {"type": "function", "name": str(name)}:
            return {"tool_choice": {"type": "function", "function": {"name": name}}}
    raise RequestError("tool_choice must be auto, none, required or a function", param="tool_choice")


def _text(text: Any) -> Json:
    if not isinstance(text, dict) or not isinstance(text.get("format") or {}, dict):
        raise RequestError("text must be an object with a format", param="text")
    form = text.get("format") or {"type": "text"}
    chat: Json = {} if text.get("verbosity") is None else {"verbosity": text["verbosity"]}
    if form.get("type") == "json_schema":
        schema = {key: value for key, value in form.items() if key != "type"}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form.get("type") != "text":
        chat["response_format"] = form
    return chat


def _reasoning(reasoning: Any) -> Json:
    if not isinstance(reasoning, dict):
        raise RequestError("reasoning must be an object", param="reasoning")
    effort = reasoning.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _max_output_tokens(tokens: Any) -> Json:
    return {"max_completion_tokens": tokens}


_TRANSLATED: Mapping[str, Callable[[Any], Json]] = {
    "max_output_tokens": _max_output_tokens,
    "reasoning": _reasoning,
    "text": _text,
    "tool_choice": _tool_choice,
    "tools": _tools,
}
