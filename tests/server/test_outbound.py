"""What leaves for an upstream: our own words to where the configuration says, and nothing that a client has sent beside
its body."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.scripted import Say
from tests.serving import manifest, serving_script, write_checkpoint
from tests.wire import connected, post

QUESTION = {"model": "model", "messages": [{"role": "user", "content": "What is 2 + 5?"}]}
ALLOWED = {"host", "accept-encoding", "user-agent", "content-type", "content-length", "x-request-id"}
CANARY = "sk-planted-canary"
SENT = """
    Proxy-Authorization Cookie X-Api-Key Api-Key OpenAI-Organization OpenAI-Project X-Forwarded-For X-Forwarded-Host
    X-Forwarded-Proto X-Real-Ip Forwarded Via Referer Origin X-Original-Url X-Rewrite-Url X-Http-Method-Override
    X-Its-Applied X-Its-Votes X-Tenant Accept Accept-Language User-Agent X-Stainless-Lang Te Trailer Keep-Alive If-Match
    Range Priority X-Vllm-Target X-Data-Parallel-Rank Traceparent Baggage
"""
KEYS = {"keys": [{"name": "team", "env": "KEY"}], "environ": {"KEY": CANARY}}
WAYS = {
    "plain": ("/v1/chat/completions", QUESTION),
    "streamed": ("/v1/chat/completions", {**QUESTION, "stream": True}),
    "completion": ("/v1/completions", {"model": "model", "prompt": "2 + 5 ="}),
    "embedding": ("/v1/embeddings", {"model": "model", "input": "x"}),
    "response": ("/v1/responses", {"model": "model", "input": "What is 2 + 5?"}),
}


@pytest.mark.parametrize(("path", "body"), WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("is_voted", [False, True], ids=["passed", "voted"])
async def test_no_header_of_a_client_reaches_an_upstream(tmp_path, path, body, is_voted):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("none")) if is_voted else None
    sent = dict.fromkeys(SENT.split(), CANARY) | {"Authorization": f"Bearer {CANARY}"}
    async with serving_script(Say("\\boxed{7}"), checkpoint, **KEYS) as (server, upstream):
        async with connected(server.url) as wire:
            wire.send(post(body, path, **sent))
            assert (await wire.reader.readline()).startswith(b"HTTP/1.1 200")
            await wire.reader.readuntil(b"\r\n\r\n")
        assert upstream.headers
        for headers in upstream.headers:
            names = {name.lower() for name in headers}
            # The pair that is applied here, for the layers behind.
            assert names - ALLOWED == ({"x-its-applied"} if is_voted else set())
            assert CANARY not in str(headers)


@dataclass
class Canary:
    """A server that nobody should ever be sent to."""

    place: str
    n_hits: int = 0


@asynccontextmanager
async def canary() -> AsyncIterator[Canary]:
    def hit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        watched.n_hits += 1
        writer.close()

    server = await asyncio.start_server(hit, "127.0.0.1", 0)
    watched = Canary(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server:
        yield watched


FIELDS = ("api_base", "base_url", "api_url", "url", "endpoint", "host", "proxy", "webhook", "callback_url", "upstream",
          "model_url", "custom_llm_provider", "litellm_params", "extra_headers", "extra_body", "metadata")  # fmt: skip
HEADERS = ("Host", "X-Forwarded-Host", "X-Original-Url", "X-Rewrite-Url", "Forwarded", "X-Its-Upstream", "X-Api-Base")


async def test_nothing_that_a_client_says_is_an_address():
    async with canary() as watched, serving_script(Say(), None) as (server, upstream):
        shapes = [watched.place, f"http://{watched.place}/v1", f"http://gpu@{watched.place}", f"//{watched.place}/x"]
        for shape in shapes:
            for field in FIELDS:
                for value in (shape, {"api_base": shape, "url": shape}):
                    await server.ask(**{field: value})
            for name in HEADERS:
                async with connected(server.url) as wire:
                    wire.send(post(QUESTION, **{name: shape}))
                    assert (await wire.reply()).status == 200
            for model in (shape, f"model@{shape}", f"model/{shape}", f"../{shape}"):
                assert (await server.ask(model=model)).status == 404
            assert (await server.ask(its={"upstream": shape})).status == 400
            for path in (shape, f"/v1/{shape}", f"/v1/chat/completions?url={shape}"):
                async with connected(server.url) as wire:
                    wire.send(post(QUESTION, path))
                    await wire.reply()
        assert watched.n_hits == 0
        assert {headers["Host"] for headers in upstream.headers} == {upstream.url.split("/")[2]}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_an_upstream_sends_nobody_on(status):
    async with canary() as watched:
        moved = Say(status=status, headers={"Location": f"http://{watched.place}/v1/chat/completions"})
        async with serving_script(moved, None) as (server, _):
            reply = await server.ask()
            assert (reply.status, reply.error["code"]) == (502, "upstream_rejected")
            assert watched.place.encode() not in reply.raw
        assert watched.n_hits == 0
