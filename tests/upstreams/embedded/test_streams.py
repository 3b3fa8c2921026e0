"""Streams of the embedded engine: the plain reply, piece by piece."""

import asyncio
from typing import Any

from its_proxy.upstreams.embedded import EmbeddedUpstream
from tests.upstreams.embedded.asking import Steps, body, read_stream, streamed_text, text_of


async def test_streamed_text_is_the_plain_text(shared: EmbeddedUpstream) -> None:
    for seed in range(16):
        fields: dict[str, Any] = {"seed": seed, "max_tokens": 40}
        if seed % 2:
            fields["stop"] = ["an", "e", "1"]
        plain = await shared.complete(body(**fields), "r")
        chunks = await read_stream(shared, **fields)
        assert streamed_text(chunks) == text_of(plain)
        assert chunks[-1]["choices"][0]["finish_reason"] == plain["choices"][0]["finish_reason"]


async def test_stream_has_role_first_finish_last_and_one_id(shared: EmbeddedUpstream) -> None:
    chunks = await read_stream(shared, seed=1)
    assert chunks[0]["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert len(chunks) > 5
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks} == {
        ("chatcmpl-s", chunks[0]["created"], "tiny", "chat.completion.chunk")
    }


async def test_usage_chunk_comes_only_when_asked_for(shared: EmbeddedUpstream) -> None:
    silent = await read_stream(shared, seed=1)
    assert all(chunk["choices"] for chunk in silent)
    *_, usage = await read_stream(shared, seed=1, stream_options={"include_usage": True})
    plain = await shared.complete(body(seed=1), "r")
    assert usage["choices"] == []
    assert usage["usage"] == plain["usage"]


async def test_streamed_choices_keep_their_index(shared: EmbeddedUpstream) -> None:
    chunks = await read_stream(shared, seed=70, n=3)
    plain = await shared.complete(body(seed=70, n=3), "r")
    assert [streamed_text(chunks, index) for index in range(3)] == [
        choice["message"]["content"] for choice in plain["choices"]
    ]


async def test_streamed_tokens_and_log_probabilities_are_the_plain_ones(shared: EmbeddedUpstream) -> None:
    fields: dict[str, Any] = {"seed": 8, "logprobs": True, "return_token_ids": True}
    chunks = await read_stream(shared, **fields)
    plain = await shared.complete(body(**fields), "r")
    choices = [chunk["choices"][0] for chunk in chunks]
    assert chunks[0]["prompt_token_ids"] == plain["prompt_token_ids"]
    assert [one for choice in choices for one in choice.get("token_ids", [])] == plain["choices"][0]["token_ids"]
    entries = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    assert entries == plain["choices"][0]["logprobs"]["content"]


async def test_first_text_comes_before_the_row_ends(upstream: EmbeddedUpstream) -> None:
    steps = Steps(upstream)
    steps.pause_s = 0.005
    async with upstream.stream(body(seed=1, max_tokens=30), "s") as events:
        await anext(events)
        await anext(events)
        assert upstream.stats.running == 1


async def test_streams_and_plain_calls_share_a_batch(upstream: EmbeddedUpstream) -> None:
    steps = Steps(upstream)
    plain, chunks = await asyncio.gather(upstream.complete(body(seed=1), "r"), read_stream(upstream, seed=2))
    assert [tokens for _, tokens in steps.shapes if tokens > 1] == [plain["usage"]["prompt_tokens"]]
    assert streamed_text(chunks) == text_of(await upstream.complete(body(seed=2), "r"))
