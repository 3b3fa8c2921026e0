"""Requests for the tiny checkpoint in this process, and what is read of their replies and of its engine's steps."""

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Any

from its_proxy.upstreams.embedded import EmbeddedUpstream

CONTEXT = 160
QUESTION = [{"role": "user", "content": "How many eggs? 12"}]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": QUESTION, "temperature": 0.8, "max_tokens": 24, **fields}


async def ask_many(upstream: EmbeddedUpstream, seeds: Iterable[int], **fields: Any) -> list[dict[str, Any]]:
    """What a sampler does: one plain call a candidate, all started together."""
    calls = (upstream.complete(body(seed=seed, **fields), f"r-{seed}") for seed in seeds)
    return await asyncio.gather(*calls)


def text_of(reply: dict[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"])


async def read_stream(upstream: EmbeddedUpstream, **fields: Any) -> list[Any]:
    async with upstream.stream(body(**fields), "s") as events:
        lines = [event.removeprefix(b"data: ").removesuffix(b"\n\n") async for event in events]
    assert lines.pop() == b"[DONE]"
    return [json.loads(line) for line in lines]


def streamed_text(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


async def until(condition: Any, limit_s: float = 5.0) -> float:
    """Seconds until the condition holds."""
    began = time.perf_counter()
    while not condition():
        assert time.perf_counter() - began < limit_s, "it never held"
        await asyncio.sleep(0.0005)
    return time.perf_counter() - began


class Steps:
    """Watches the forward passes of a loaded model: the shapes they were given, and a failure to inject."""

    def __init__(self, upstream: EmbeddedUpstream, name: str = "tiny") -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.failure: Exception | None = None
        self.pause_s = 0.0
        model = upstream._engine.checkpoints[name]._model
        self._handle = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: Any, args: Any, kwargs: Any) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))
        time.sleep(self.pause_s)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
