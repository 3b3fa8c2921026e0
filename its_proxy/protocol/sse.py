"""Server-sent events as OpenAI's stream uses them: `data:` lines only, never named events."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import orjson

from its_proxy.codesign.errors import BadPayload, UpstreamError

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": its-proxy is still working\n\n"
MAX_STREAM_BYTES = 64 * 2**20
MAX_EVENT_BYTES = 8 * 2**20
_CHUNK_CHARS = 64
_TOLD = ("role", "content", "reasoning", "reasoning_content", "refusal", "tool_calls")
# Inside a JSON text line breaks are escaped, so neither can be found in a model's words.
_DONE_LINE = re.compile(rb"^data: ?\[DONE\]\s*$", re.MULTILINE)
_ERROR_LINE = re.compile(rb'^data: ?\{\s*"error"\s*:', re.MULTILINE)


def event(payload: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def text_pieces(text: str) -> Iterator[str]:
    """A finished text in pieces, so that a client's interface draws it as it would draw a live one."""
    for start in range(0, len(text), _CHUNK_CHARS):
        yield text[start : start + _CHUNK_CHARS]


def completion_events(completion: dict[str, Any], *, include_usage: bool) -> Iterator[bytes]:
    """A whole chat completion as the stream it could have been, without its role chunks and its [DONE].

    `its` rides on the last finish chunk, where every client looks and none stumbles.
    """
    head = {key: completion[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    if (fingerprint := completion.get("system_fingerprint")) is not None:
        head["system_fingerprint"] = fingerprint
    choices = completion["choices"]
    for choice in choices:
        for delta in _deltas(choice["message"]):
            yield event({**head, "choices": [_chunk_choice(choice["index"], delta)]})
        finish = {key: value for key, value in choice.items() if key != "message"} | {"delta": {}}
        closing = {"its": completion["its"]} if choice is choices[-1] and "its" in completion else {}
        yield event({**head, "choices": [finish], **closing})
    if include_usage:
        yield event({**head, "choices": [], "usage": completion["usage"]})


def role_event(completion_id: str, created: int, model: str, n_choices: int = 1) -> bytes:
    """The first chunk of each choice."""
    head = {"id": completion_id, "created": created, "model": model, "object": "chat.completion.chunk"}
    delta = {"role": "assistant", "content": ""}
    return b"".join(event({**head, "choices": [_chunk_choice(index, delta)]}) for index in range(n_choices))


async def relayed(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """An upstream's own events as they come, cut at line ends: a stream that breaks never ends inside an event.

    Raises UpstreamError where it breaks, where it just ends without [DONE], and where it tells an error of
    its own, whose text is not for clients.
    """
    rest, is_done = b"", False
    async for chunk in chunks:
        lines, line_end, rest = (rest + chunk).rpartition(b"\n")
        if (error := _ERROR_LINE.search(lines)) is not None:
            yield lines[: error.start()]
            raise UpstreamError("the upstream reported an error in its stream")
        is_done = is_done or _DONE_LINE.search(lines) is not None
        if line_end:
            yield lines + line_end
    if not is_done and _DONE_LINE.search(rest) is None:
        raise UpstreamError("the upstream ended its stream in the middle")
    if rest:
        yield rest + b"\n\n"


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of an upstream's stream, to its [DONE] or its end; comments and named events are skipped.

    Raises UpstreamError for an error that the upstream tells in its stream, BadPayload for what is no event.
    """
    rest, n_bytes = b"", 0
    async for chunk in chunks:
        n_bytes += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        if n_bytes > MAX_STREAM_BYTES or len(rest) > MAX_EVENT_BYTES:
            raise BadPayload("the upstream's stream is too long")
        for line in lines:
            data = _data_of(line)
            if data == b"[DONE]":
                return
            if data:
                yield _event_of(data)
    if (data := _data_of(rest)) not in (b"", b"[DONE]"):
        yield _event_of(data)


def _data_of(line: bytes) -> bytes:
    """What a `data:` line holds; nothing for any other. OpenAI's servers write every event in one line."""
    name, _, value = line.partition(b":")
    return value.strip() if name == b"data" else b""


def _event_of(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BadPayload("the upstream sent an event that is not JSON") from None
    if not isinstance(document, dict):
        raise BadPayload("the upstream sent an event that is not a JSON object")
    if "error" in document and "choices" not in document:
        raise UpstreamError("the upstream reported an error in its stream")
    return document


def _chunk_choice(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("reasoning", "reasoning_content", "content", "refusal"):
        if isinstance(message.get(name), str):
            yield from ({name: piece} for piece in text_pieces(message[name]))
    for number, call in enumerate(message.get("tool_calls") or []):
        yield {"tool_calls": [{**call, "index": number}]}
    # What another server adds to a message, whole: annotations, audio, ...
    others = {key: value for key, value in message.items() if key not in _TOLD and value not in (None, [], "")}
    if others:
        yield others
