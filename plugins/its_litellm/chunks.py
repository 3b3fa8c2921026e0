"""The events of a stream, as LiteLLM wants them from a provider of its own."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from litellm.types.utils import GenericStreamingChunk, ModelResponseStream

from its_proxy.codesign.errors import UpstreamError
from its_proxy.protocol.sse import read_events


async def chunks_of(events: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
    """What is said as it comes; then one generic chunk with all that is told at the end, because LiteLLM keeps `its`
    and the summed usage of such a one alone. Raises UpstreamError where no finish is told: LiteLLM would invent one."""
    finish_reason, usage = None, None
    told: dict[str, Any] = {}
    async with aclosing(read_events(events)) as documents:
        async for document in documents:
            usage = document.get("usage") or usage
            told = {"its": document["its"]} if "its" in document else told
            for choice in document.get("choices") or ():
                finish_reason = choice.get("finish_reason") or finish_reason
                if delta := _delta(choice):
                    head = {key: document[key] for key in ("id", "created", "model") if key in document}
                    said = {"index": 0, "delta": delta, "logprobs": choice.get("logprobs"), "finish_reason": None}
                    yield ModelResponseStream(**head, choices=[said])
    if finish_reason is None:
        raise UpstreamError("the upstream ended its stream in the middle of a candidate")
    yield GenericStreamingChunk(
        text="",
        is_finished=True,
        finish_reason=finish_reason,
        usage=usage,
        index=0,
        tool_use=None,
        provider_specific_fields=told,
    )


def _delta(choice: dict[str, Any]) -> dict[str, Any]:
    """Reasoning goes by LiteLLM's name for it."""
    delta = {key: value for key, value in (choice.get("delta") or {}).items() if value not in (None, "", [])}
    return {"reasoning_content" if key == "reasoning" else key: value for key, value in delta.items()}
