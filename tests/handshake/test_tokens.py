"""Servers that do not show their tokens on the serving route."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from its_proxy.handshake import Verdict
from its_proxy.upstreams.http import HttpUpstream
from tests.handshake.examined import at, opened, verdict_on
from tests.scripted import Say
from tests.serving import tokens_of


@asynccontextmanager
async def tokenizing(status: int, reply: Any) -> AsyncIterator[HttpUpstream]:
    """A server whose chat route shows no tokens, and that has vLLM's `/tokenize` beside `/v1`."""

    async def chat(request: web.Request) -> web.Response:
        choices = [{"index": 0, "message": {"content": "x"}, "finish_reason": "length"}]
        return web.json_response({"choices": choices})

    async def tokenize(request: web.Request) -> web.Response:
        answer = reply(await request.json()) if callable(reply) else reply
        return web.Response(body=answer if isinstance(answer, bytes) else json.dumps(answer), status=status)

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "model"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/tokenize", tokenize)
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream = HttpUpstream("gpu", f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
    try:
        yield upstream
    finally:
        await upstream.close()
        await runner.cleanup()


async def test_tokenize_stands_in_where_the_route_shows_no_tokens(tmp_path):
    async with tokenizing(200, lambda body: {"tokens": tokens_of(body["messages"])}) as upstream:
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=True)
    assert verdict.state == "unverified"
    assert "by /tokenize: template defaults unseen" in verdict.reason


async def test_other_tokens_by_tokenize_are_a_mismatch(tmp_path):
    async with tokenizing(200, {"tokens": [1, 2, 3]}) as upstream:
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict.state == "mismatch"


@pytest.mark.parametrize(
    ("status", "reply"), [(404, {}), (200, {}), (200, {"tokens": None}), (200, []), (200, b"<html>"), (400, b"no")]
)
async def test_without_any_tokens_a_server_is_unverified_and_the_reason_says_so(tmp_path, status, reply):
    async with tokenizing(status, reply) as upstream:
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=True)
    assert verdict == Verdict("unverified", "the upstream shows no tokens: template defaults unseen")


async def test_a_server_that_refuses_the_token_field_is_asked_without_it(tmp_path):
    def strict(body: dict[str, Any], number: int) -> Say:
        return Say(status=400) if "return_token_ids" in body else Say("x")

    async with at(strict, shows_tokens=False) as (upstream, scripted):
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict.state == "unverified"
    assert ["return_token_ids" in body for body in scripted.bodies] == [True, False]


async def test_a_probe_that_the_server_refuses_altogether_is_a_mismatch(tmp_path):
    async with at(lambda body, number: Say(status=400)) as (upstream, _):
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict.state == "mismatch"
    assert "probe 0 was refused" in verdict.reason
    assert "secret" not in verdict.reason
