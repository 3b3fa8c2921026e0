"""The events of a stream, as LiteLLM wants them from a provider of its own."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from litellm.types.utils import GenericStreamingChunk, ModelResponseStream

from its_proxy.protocol.sse import read_events


async def chunks_of(events: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
    """Texts as generic chunks: LiteLLM keeps `its` and the summed usage of those alone. Reasoning and tool calls as
    whole ones, which the generic form cannot carry. The finish comes last, with everything that is told at the end."""
    finish_reason, told, usage = "stop", {}, None
    async with aclosing(read_events(events)) as documents:
        async for document in documents:
            usage = document.get("usage") or usage
            if "its" in document:
                told = {"its": document["its"]}
            for choice in document.get("choices") or ():
                finish_reason = choice.get("finish_reason") or finish_reason
                for chunk in _deltas(document, choice.get("delta") or {}):
                    yield chunk
    yield _generic("", is_finished=True, finish_reason=finish_reason, usage=usage, provider_specific_fields=told)


def _deltas(document: dict[str, Any], delta: dict[str, Any]) -> Iterator[Any]:
    if text := delta.get("content"):
        yield _generic(text, is_finished=False, finish_reason="", usage=None)
    rest = {
        "reasoning_content": delta.get("reasoning_content") or delta.get("reasoning"),
        "tool_calls": delta.get("tool_calls"),
    }
    if rest := {key: value for key, value in rest.items() if value}:
        head = {key: document[key] for key in ("id", "created", "model") if key in document}
        yield ModelResponseStream(**head, choices=[{"index": 0, "delta": rest, "finish_reason": None}])


def _generic(text: str, **fields: Any) -> GenericStreamingChunk:
    return GenericStreamingChunk(text=text, index=0, tool_use=None, **fields)
