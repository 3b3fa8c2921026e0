"""One candidate asked for as a stream, and put together as the completion that a plain call would have brought.

So what a candidate has cost is known at any moment, for one that is cancelled as well: vLLM counts along
(`continuous_usage_stats`). A server that does not is asked all the same, and nothing is invented for it.
"""

from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeAlias

from its_proxy.codesign.errors import BadPayload, UpstreamError, UpstreamRejected
from its_proxy.protocol.sse import read_events
from its_proxy.upstreams.base import Body, Completion, Upstream
from its_proxy.upstreams.turns import Turns
from its_proxy.upstreams.written import over

MAX_TEXT_CHARS = 4 * 2**20
FLOOD_CHARS_PER_S = 2**16
"""Faster than any model talks. Who does is read in turns with others that do; a model's own pace waits for nobody."""
_floods = Turns()
STREAM_OPTIONS = {"include_usage": True, "continuous_usage_stats": True}
# What a stream does not carry: these are asked for plainly.
_PLAIN_ONLY = ("prompt_logprobs",)
_GENERATED = ("content", "reasoning", "reasoning_content", "tool_calls", "refusal")
_ONCE = ("id", "type", "name", "role")
"""Texts that are told whole; any other text comes in pieces."""

OnDelta: TypeAlias = Callable[[Mapping[str, Any]], None]


@dataclass(slots=True)
class Spent:
    """What one call has used so far. `is_live`: its server has counted before the end, so the last count stands.

    `first_token_at`: when its first piece of text or of a tool call came, by the monotonic clock.
    """

    usage: dict[str, Any] | None = None
    is_live: bool = False
    first_token_at: float | None = None


async def complete_streamed(
    upstream: Upstream, body: Body, request_id: str, spent: Spent, on_delta: OnDelta | None = None
) -> Completion:
    """The whole completion; `spent` is kept up to date meanwhile, and `on_delta` hears every piece. Raises
    UpstreamError, also for a stream that just ends: what was not finished is no candidate."""
    if any(body.get(field) is not None for field in _PLAIN_ONLY):
        return await upstream.complete(body, request_id)
    assembly, began = _Assembly(spent, on_delta), monotonic()
    try:
        async with (
            _floods.one() as turn,
            upstream.stream(over(body, {"stream_options": STREAM_OPTIONS}), request_id) as chunks,
            aclosing(read_events(chunks)) as events,
        ):
            async for event in events:
                assembly.add(event)
                if assembly.n_chars > FLOOD_CHARS_PER_S * (monotonic() - began):
                    await turn.grown_to(assembly.n_chars)
    except UpstreamRejected as error:
        if error.status not in (400, 422):
            raise
        # Perhaps it only does not know an option of ours; a plain call will tell.
        return await upstream.complete(body, request_id)
    return assembly.completion()


class _Assembly:
    def __init__(self, spent: Spent, on_delta: OnDelta | None = None) -> None:
        self._spent = spent
        self._on_delta = on_delta
        self.n_chars = 0
        self._head: dict[str, Any] = {}
        self._choice: dict[str, Any] = {"index": 0, "message": {}, "logprobs": None, "finish_reason": None}

    def add(self, event: Mapping[str, Any]) -> None:
        choices = event.get("choices")
        if choices is not None and not (isinstance(choices, list) and all(isinstance(c, dict) for c in choices)):
            raise BadPayload("the upstream sent a chunk whose choices are none")
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._spent.usage = usage
            self._spent.is_live |= any(choice.get("finish_reason") is None for choice in choices or [])
        for key in event:
            if key not in ("choices", "object", "usage"):
                _tell(self._head, key, event[key])
        for choice in choices or []:
            if choice.get("index", 0) == 0:
                self._add_choice(choice)

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta")
        if isinstance(delta, dict):
            if self._spent.first_token_at is None and any(delta.get(field) for field in _GENERATED):
                self._spent.first_token_at = monotonic()
            self.n_chars += sum(len(text) for text in delta.values() if isinstance(text, str))
            if self.n_chars > MAX_TEXT_CHARS:
                raise BadPayload("the upstream's candidate is too long")
            if self._on_delta is not None:
                self._on_delta(delta)
            calls = delta.get("tool_calls")
            _add_calls(self._choice["message"], calls if isinstance(calls, list) else [])
            _append(self._choice["message"], {key: delta[key] for key in delta if key != "tool_calls"})
        if isinstance(logprobs := choice.get("logprobs"), dict):
            self._choice["logprobs"] = self._choice["logprobs"] or {}
            _append(self._choice["logprobs"], logprobs)
        for key in choice:
            if key not in ("delta", "index", "logprobs"):
                _tell(self._choice, key, choice[key])

    def completion(self) -> Completion:
        """Raises UpstreamError where the stream ended before the candidate did."""
        if self._choice["finish_reason"] is None:
            raise UpstreamError("the upstream ended its stream in the middle of a candidate")
        message = {"role": "assistant", "content": None, **_joined(self._choice["message"])}
        calls = message.pop("tool_calls", None)
        if calls:
            message["tool_calls"] = [calls[number] for number in sorted(calls)]
        # The first chunk's empty text only opens the stream: a message of thoughts or calls alone has no content.
        if message["content"] == "" and any(message.get(f) for f in ("reasoning", "reasoning_content", "tool_calls")):
            message["content"] = None
        completion = {
            **self._head,
            "object": "chat.completion",
            "choices": [_joined({**self._choice, "message": message})],
        }
        return completion | ({"usage": self._spent.usage} if self._spent.usage is not None else {})


class _Pieces(list[str]):
    """A text that is still coming."""


def _append(whole: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Texts and lists grow; whatever else comes is told once."""
    for key, value in piece.items():
        known = whole.get(key)
        if isinstance(value, str) and key not in _ONCE:
            if isinstance(known, _Pieces):
                known.append(value)
            else:
                whole[key] = _Pieces([value])
        elif isinstance(known, dict) and isinstance(value, dict):
            _append(known, value)
        elif isinstance(value, dict):
            whole[key] = {}
            _append(whole[key], value)
        else:
            _tell(whole, key, value)


def _tell(whole: dict[str, Any], key: str, value: Any) -> None:
    """What is told later wins, lists go on, and nothing told is unsaid by a null."""
    known = whole.get(key)
    if isinstance(known, list) and isinstance(value, list) and not isinstance(known, _Pieces):
        known.extend(value)
    elif isinstance(value, list):
        whole[key] = list(value)
    elif value is not None or key not in whole:
        whole[key] = value


def _joined(value: Any) -> Any:
    if isinstance(value, _Pieces):
        return "".join(value)
    if isinstance(value, dict):
        return {key: _joined(part) for key, part in value.items()}
    return value


def _add_calls(message: dict[str, Any], pieces: list[Any]) -> None:
    """Pieces of tool calls, joined by the number of the call that each belongs to."""
    calls: dict[int, dict[str, Any]] = message.setdefault("tool_calls", {})
    for position, piece in enumerate(pieces):
        number = piece.get("index", position) if isinstance(piece, dict) else None
        if not isinstance(number, int):
            raise BadPayload("the upstream sent a piece of a tool call that belongs to none")
        _append(calls.setdefault(number, {}), {key: piece[key] for key in piece if key != "index"})
