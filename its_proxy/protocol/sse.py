"""Server-sent events as OpenAI's stream uses them: `data:` lines only, never named events."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import Any

import orjson

from its_proxy.codesign.errors import BadPayload, UpstreamError

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": its-proxy is still working\n\n"
MAX_STREAM_BYTES = 64 * 2**20
MAX_EVENT_BYTES = 2**20
_CHUNK_CHARS = 64
_NOTHING = nullcontext()
_OPENING = {"role": "assistant", "content": ""}
# Of a completion: what every chunk has, and what has a chunk or a place of its own.
_EVERYWHERE = ("system_fingerprint", "service_tier")
_PLACED = frozenset(("id", "object", "created", "model", "choices", "usage", *_EVERYWHERE))
_TOLD = ("role", "content", "reasoning", "reasoning_content", "refusal", "tool_calls")


def event(payload: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def text_pieces(text: str) -> Iterator[str]:
    """A finished text in pieces, so that a client's interface draws it as it would draw a live one."""
    for start in range(0, len(text), _CHUNK_CHARS):
        yield text[start : start + _CHUNK_CHARS]


def completion_events(completion: dict[str, Any], *, include_usage: bool) -> Iterator[bytes]:
    """A whole chat completion as the stream it could have been, without its first chunk and its [DONE].

    `its`, and whatever else an upstream adds to a completion, rides on the last finish chunk, where every client looks
    and none stumbles.
    """
    head = {key: completion[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    head |= {key: value for key in _EVERYWHERE if (value := completion.get(key)) is not None}
    added = {key: value for key, value in completion.items() if key not in _PLACED and value is not None}
    choices = completion["choices"]
    for choice in choices:
        if choice is not choices[0]:
            yield event({**head, "choices": [_chunk_choice(choice["index"], _OPENING)]})
        logprobs = choice.get("logprobs")  # go with the words they are about, where there are any
        for delta in _deltas(choice["message"]):
            told = _chunk_choice(choice["index"], delta)
            if "content" in delta:
                told["logprobs"], logprobs = logprobs, None
            yield event({**head, "choices": [told]})
        finish = {key: value for key, value in choice.items() if key != "message"}
        finish |= {"delta": {}, "logprobs": logprobs}
        closing = added if choice is choices[-1] else {}
        yield event({**head, "choices": [finish], **closing})
    if include_usage:
        yield event({**head, "choices": [], "usage": completion["usage"]})


def role_event(completion_id: str, created: int, model: str) -> bytes:
    """The first chunk. Other choices begin once they are known to be there: a lost candidate is none."""
    head = {"id": completion_id, "created": created, "model": model, "object": "chat.completion.chunk"}
    return event({**head, "choices": [_chunk_choice(0, _OPENING)]})


def delta_event(head: Mapping[str, Any], delta: dict[str, Any], **fields: Any) -> bytes:
    """A piece of the first choice, while there is no whole to tell; an empty one carries the other fields."""
    return event({**head, "object": "chat.completion.chunk", "choices": [_chunk_choice(0, delta)], **fields})


async def relayed(
    chunks: AsyncIterator[bytes], waiting: AbstractContextManager[object] = _NOTHING
) -> AsyncGenerator[bytes, None]:
    """An upstream's own events as they come, to its [DONE]: a stream that breaks never ends inside an event. Each is
    waited for inside `waiting`; how slowly they are read is another matter.

    Raises UpstreamError where it breaks, where it ends although no choice has said how it finished, and where it
    tells an error of its own, whose text is not for clients; BadPayload for what is no event.
    """
    relay, lines = _Relay(), _Lines()
    try:
        while not (relay.is_done or relay.error is not None):
            with waiting:
                chunk = await anext(chunks, None)
            if chunk is None:
                if sound := relay.take(lines.left_over()):
                    yield sound
                break
            if sound := relay.take(lines.of(chunk)):
                yield sound
        if relay.error is not None:
            raise relay.error
        if not relay.is_finished:
            raise UpstreamError("the upstream ended its stream in the middle")
    except UpstreamError:
        yield b"\n\n"  # the last event may lack its empty line, or even the end of its own
        raise
    yield DONE if relay.is_done else b"\n\n" + DONE


class _Relay:
    """What has been read of a stream that is handed on: whether it has finished, is done, or went wrong."""

    def __init__(self) -> None:
        self.is_finished = False
        self.is_done = False
        self.error: UpstreamError | None = None

    def take(self, lines: list[bytes]) -> bytes:
        """Those that a client may have: up to [DONE], to an error, or to what is no event."""
        for number, line in enumerate(lines):
            if len(line) <= 2 or not (data := data_of(line)):
                continue  # the end of an event, a comment
            if data == b"[DONE]":
                self.is_done = True
                return b"".join(lines[:number])
            try:
                document = _event_of(data)
            except UpstreamError as error:
                self.error = error
                return b"".join(lines[:number])
            if not self.is_finished and _is_finish(document):
                self.is_finished = True
        return b"".join(lines)


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of an upstream's stream, to its [DONE] or its end; comments and named events are skipped.

    Raises UpstreamError for an error that the upstream tells in its stream, BadPayload for what is no event.
    """
    reader = _Lines(MAX_STREAM_BYTES)
    is_over = False
    while not is_over:
        chunk = await anext(chunks, None)
        is_over = chunk is None
        lines = reader.left_over() if chunk is None else reader.of(chunk)
        lines.reverse()
        while lines:
            # Nothing of a line is held while its event is: it may be long, and its reader in no hurry.
            data = data_of(lines.pop())
            if data == b"[DONE]":
                return
            if data:
                document, data = _event_of(data), b""
                yield document


class _Lines:
    """The lines that each chunk completes, with their ends (LF, CRLF or CR) as they came; then what is left over.

    An end that was cut in two is told as two: an empty line more says nothing to anybody.
    """

    def __init__(self, max_bytes: float = inf) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._rest = bytearray()

    def of(self, chunk: bytes) -> list[bytes]:
        """Raises BadPayload where a line, or all of it, is longer than it may be."""
        self._n_bytes += len(chunk)
        if not self._rest and chunk.endswith(b"\n"):
            lines = chunk.splitlines(keepends=True)  # whole events, as they mostly come
        elif b"\n" in chunk or b"\r" in chunk:
            lines = bytes(self._rest + chunk).splitlines(keepends=True)
            self._rest = bytearray() if lines[-1].endswith((b"\n", b"\r")) else bytearray(lines.pop())
        else:
            self._rest += chunk
            lines = []
        if self._n_bytes > self._max_bytes or len(self._rest) > MAX_EVENT_BYTES:
            raise BadPayload("the upstream's stream is too long")
        return lines

    def left_over(self) -> list[bytes]:
        return [bytes(self._rest)] if self._rest else []


def data_of(line: bytes) -> bytes:
    """What a `data:` line holds; nothing for any other. OpenAI's servers write every event in one line."""
    return line[5:].strip() if line.startswith(b"data:") else b""


def _event_of(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BadPayload("the upstream sent an event that is not JSON") from None
    if not isinstance(document, dict):
        raise BadPayload("the upstream sent an event that is not a JSON object")
    if "choices" not in document and "error" in document:
        raise UpstreamError("the upstream reported an error in its stream")
    return document


def _is_finish(event: dict[str, Any]) -> bool:
    """Whether a choice says here how it finished."""
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("finish_reason") is not None:
            return True
    return False


def _chunk_choice(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("reasoning", "reasoning_content", "content", "refusal"):
        if isinstance(message.get(name), str):
            yield from ({name: piece} for piece in text_pieces(message[name]))
        elif message.get(name):
            yield {name: message[name]}  # parts, as some servers write it
    for number, call in enumerate(message.get("tool_calls") or []):
        yield {"tool_calls": [{**call, "index": number}]}
    # What another server adds to a message, whole: annotations, audio, ...
    others = {key: value for key, value in message.items() if key not in _TOLD and value not in (None, [], "")}
    if others:
        yield others
