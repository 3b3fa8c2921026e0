"""Several event loops, and the blocking client in its threads."""

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from its_proxy.background import BackgroundLoop
from its_proxy.client import wrap
from its_proxy.codesign.errors import ConfigError, StrategyNotApplicable
from tests.client.wrapped import ASK, MESSAGES, Answer, checkpoint, client_at, engine
from tests.scripted import ScriptedUpstream


def blocking_at(upstream: ScriptedUpstream, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=upstream.url, api_key="key-1", **options)


def test_one_client_serves_several_event_loops(tmp_path):
    upstreams = BackgroundLoop("upstream")
    scripted = engine()
    upstream = upstreams.run(scripted.__aenter__())

    async def ask(client):
        return (await client.chat.completions.create(**ASK)).its["answer"]

    # An HTTP client that kept connections would keep them for a loop that is gone, wrapped or not.
    client = wrap(client_at(upstream, default_headers={"Connection": "close"}), checkpoint=checkpoint(tmp_path))
    assert [asyncio.run(ask(client)), asyncio.run(ask(client))] == ["7", "7"]
    upstreams.run(scripted.__aexit__(None, None, None))
    upstreams.close()


@asynccontextmanager
async def blocking(folder: Path, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A wrapped client that blocks, for use in another thread."""
    async with engine() as upstream:
        client = wrap(blocking_at(upstream, **options), checkpoint=checkpoint(folder))
        try:
            await asyncio.to_thread(client.its.ready)
            upstream.forget()
            yield client, upstream
        finally:
            await asyncio.to_thread(client.close)


async def test_the_blocking_client_votes_and_streams(tmp_path):
    def ask(client):
        with client.chat.completions.create(**ASK, stream=True) as stream:
            chunks = list(stream)
        parsed = client.chat.completions.parse(**ASK, response_format=Answer).choices[0].message.parsed
        raw = client.with_options(timeout=9).chat.completions.with_raw_response.create(**ASK)
        return chunks, parsed, raw, [card.id for card in client.models.list()]

    async with blocking(tmp_path) as (client, upstream):
        assert isinstance(client, openai.OpenAI)
        chunks, parsed, raw, names = await asyncio.to_thread(ask, client)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "so it is \\boxed{7}"
    assert chunks[-1].its["answer"] == raw.parse().its["answer"] == "7"
    assert (parsed, names) == (Answer(answer=7), ["model"])
    assert all(body["messages"] != MESSAGES for body in upstream.bodies)
    assert {headers["Authorization"] for headers in upstream.headers} == {"Bearer key-1"}


async def test_the_blocking_client_refuses_and_raises_as_the_other(tmp_path):
    def ask(client):
        with pytest.raises(openai.BadRequestError, match="past its strategy"):
            client.completions.create(model="model", prompt="x")
        with pytest.raises(StrategyNotApplicable):
            _ = client.responses
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**ASK, user="fail 429")
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.2).chat.completions.create(**ASK, user="wait 30")

    async with blocking(tmp_path, max_retries=0) as (client, _):
        await asyncio.to_thread(ask, client)


async def test_a_blocking_stream_that_is_left_cancels_its_candidates(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.exchange.STREAM_BEGINS_S", 0.01)

    all_asked = threading.Event()

    def leave(client):
        with client.chat.completions.create(**ASK, stream=True, user="wait 30") as stream:
            next(stream)
            all_asked.wait(5)

    async with blocking(tmp_path) as (client, upstream):
        leaving = asyncio.create_task(asyncio.to_thread(leave, client))
        await upstream.until(lambda: len(upstream.bodies) == 8)
        all_asked.set()
        await leaving
        await upstream.until(lambda: upstream.n_cancelled == 8)


async def test_closing_leaves_no_thread_behind(tmp_path):
    async with blocking(tmp_path) as (client, _):
        assert "its_proxy.client" in {thread.name for thread in threading.enumerate()}
        await asyncio.to_thread(client.close)
        assert "its_proxy.client" not in {thread.name for thread in threading.enumerate()}


async def test_the_blocking_client_works_inside_a_running_loop_as_in_a_notebook(tmp_path):
    upstreams = BackgroundLoop("upstream")
    scripted = engine()
    upstream = upstreams.run(scripted.__aenter__())
    with wrap(blocking_at(upstream), checkpoint=checkpoint(tmp_path)) as client:
        assert client.chat.completions.create(**ASK).its["answer"] == "7"
    upstreams.run(scripted.__aexit__(None, None, None))
    upstreams.close()


async def test_a_blocking_client_with_an_http_client_of_its_own_needs_an_async_one_beside_it(tmp_path):
    folder = checkpoint(tmp_path)
    async with engine() as upstream:
        client = blocking_at(upstream, http_client=openai.DefaultHttpxClient())
        with pytest.raises(ConfigError, match=r"async_client=openai.AsyncOpenAI"):
            wrap(client, checkpoint=folder)
        elsewhere = openai.AsyncOpenAI(base_url="http://elsewhere/v1", api_key="k")
        with pytest.raises(ConfigError, match=r"async_client asks http://elsewhere/v1/, and the client http://127"):
            wrap(client, checkpoint=folder, async_client=elsewhere)
        beside = client_at(upstream, http_client=openai.DefaultAsyncHttpxClient(headers={"x-pool": "own"}))
        with wrap(client, checkpoint=folder, async_client=beside) as both:
            completion = await asyncio.to_thread(both.chat.completions.create, **ASK)
            await asyncio.to_thread(both.close)
    assert completion.its["answer"] == "7"
    assert upstream.headers[-1]["x-pool"] == "own"


CTRL_C = """
import sys, openai
from its_proxy.client import wrap
client = wrap(openai.OpenAI(base_url=sys.argv[1], api_key="k"), checkpoint=sys.argv[2])
client.its.ready()
print("ready", flush=True)
try:
    client.chat.completions.create(model="model", messages=[{"role": "user", "content": "2 + 5?"}], user="wait 30")
except KeyboardInterrupt:
    client.close()
    print("left", flush=True)
"""


async def test_ctrl_c_in_a_blocking_call_cancels_its_candidates(tmp_path):
    async with engine() as upstream:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CTRL_C, upstream.url, str(checkpoint(tmp_path)), stdout=asyncio.subprocess.PIPE
        )
        assert await process.stdout.readline() == b"ready\n"
        upstream.forget()
        await upstream.until(lambda: len(upstream.bodies) == 8)
        process.send_signal(signal.SIGINT)
        await upstream.until(lambda: upstream.n_cancelled == 8)
        assert await process.stdout.readline() == b"left\n"
        assert await process.wait() == 0
