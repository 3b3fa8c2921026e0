"""A wrapped openai client before a real vLLM: what the server of its-proxy does, without one."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any

import openai
import pytest

from its_proxy.client import AsyncWrapped, wrap
from tests.real_vllm.conftest import QUERIES
from tests.real_vllm.server import VllmServer
from tests.serving import write_checkpoint

ROUNDS = 5
WITHIN_S = 1.0
TOLD_ALIKE = ("strategy", "pair_id", "handshake", "n", "stop", "seed", "sampling", "answer_kind")
MAX_TOKENS = 400  # of one candidate that does not end by itself: it takes the server more than a second


@pytest.fixture
async def client(vllm, checkpoint) -> AsyncIterator[AsyncWrapped]:
    async with wrap(openai.AsyncOpenAI(base_url=vllm.url, api_key="none"), checkpoint=checkpoint) as wrapped:
        await wrapped.its.ready()
        yield wrapped


def ask(model: str, query: str, **its: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": query}], "seed": 5, "extra_body": {"its": its}}


async def test_it_tells_and_asks_what_the_server_would(client, proxy, vllm):
    for query in QUERIES[:3]:
        told = (await client.chat.completions.create(**ask(vllm.name, query, stop="none"))).its
        there = (await proxy.ask(query, seed=5, its={"stop": "none"})).json["its"]
        assert {key: told[key] for key in TOLD_ALIKE} == {key: there[key] for key in TOLD_ALIKE}
        assert told["handshake"] == "verified"
        assert sum(told["votes"].values()) + sum(told["abstained"].values()) == 8
        plan = await client.chat.completions.create(**ask(vllm.name, query, explain=True))
        explained = (await proxy.ask(query, its={"explain": True})).json
        assert plan.members[0]["messages"] == explained["members"][0]["messages"]


async def test_a_stream_ends_with_the_vote(client, vllm):
    stream = await client.chat.completions.create(**ask(vllm.name, QUERIES[1]), stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].its["answer"] in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


async def test_its_handshake_holds_through_the_server_too(proxy, checkpoint):
    async with wrap(
        openai.AsyncOpenAI(base_url=proxy.url, api_key="none"), checkpoint=checkpoint, model="model"
    ) as one:
        told = (await one.chat.completions.create(**ask("model", QUERIES[0]))).its
    assert (told["handshake"], told["degraded"]) == ("verified", None)


@pytest.fixture
def lengthy(checkpoint, tmp_path) -> Path:
    """The same pair, whose candidates may be long, and differ in length."""
    document = json.loads((checkpoint / "its.json").read_text())
    document["vote"].update(max_tokens=MAX_TOKENS, temperature=1.4)
    return write_checkpoint(tmp_path / "lengthy", document)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_leaves_empties_vllm(vllm, lengthy, stream):
    spent_s = []
    async with wrap(openai.AsyncOpenAI(base_url=vllm.url, api_key="none"), checkpoint=lengthy) as client:
        await client.its.ready()
        for query in QUERIES[:ROUNDS]:
            n_tokens = await generated(vllm)
            asking = asyncio.create_task(client.chat.completions.create(**endless(vllm, query), stream=stream))
            await vllm.until_running(8)
            if stream:
                await (await asking).close()
            asking.cancel()
            await asyncio.wait({asking})
            spent_s.append(await vllm.until_idle())
            assert await generated(vllm) - n_tokens < 8 * MAX_TOKENS
    assert median(spent_s) < WITHIN_S


async def test_a_blocking_caller_who_leaves_empties_vllm(vllm, lengthy):
    client = wrap(openai.OpenAI(base_url=vllm.url, api_key="none"), checkpoint=lengthy)
    await asyncio.to_thread(client.its.ready)
    spent_s = []
    for query in QUERIES[:ROUNDS]:
        n_tokens = await generated(vllm)
        asked = {**endless(vllm, query), "stream": True}
        asking = asyncio.create_task(asyncio.to_thread(client.chat.completions.create, **asked))
        await vllm.until_running(8)
        (await asking).close()
        spent_s.append(await vllm.until_idle())
        assert await generated(vllm) - n_tokens < 8 * MAX_TOKENS
    await asyncio.to_thread(client.close)
    assert median(spent_s) < WITHIN_S


def endless(vllm: VllmServer, query: str) -> dict[str, Any]:
    """No candidate ends by itself before it has all its tokens."""
    return {**ask(vllm.name, query), "extra_body": {"ignore_eos": True}}


async def generated(vllm: VllmServer) -> float:
    return (await vllm.metrics())["vllm:generation_tokens_total"]
