"""Layers that stack: whichever of them stands in front rewrites and votes, and every one behind lets through."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from its_proxy.checkpoint import open_checkpoint
from its_proxy.client import wrap
from its_proxy.codesign.strategies import rewrite
from its_vllm import Middleware
from its_vllm.options import Options
from tests.plugins.its_vllm.asgi_client import Client, living
from tests.plugins.its_vllm.scripted_app import ScriptedApp
from tests.scripted import Say, Script, ScriptedUpstream, scripted_upstream
from tests.scripted_model import Model, recorded
from tests.serving import Server, model_settings, serving, write_checkpoint

MESSAGES: list[Any] = [{"role": "user", "content": "What is 2 + 5?"}]
WHOLE_VOTE = {"stop": "none"}
N = 8


def say(body: dict[str, Any], number: int) -> Say:
    """Probes are answered as by the very model of the manifest."""
    if "prompt" not in body and "return_token_ids" not in body:
        return Say("\\boxed{7}")
    said = Model().say(body, number)
    document = json.loads(said.raw or b"")
    document["choices"][0]["finish_reason"] = "length"
    return Say(raw=json.dumps(document).encode())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "random", recorded("random"))


@asynccontextmanager
async def proxies(
    n: int, checkpoint: Path, says: Script = say, **settings: Any
) -> AsyncIterator[tuple[Server, ScriptedUpstream]]:
    """As many servers behind each other, all of the same checkpoint: the foremost, and the engine behind the last."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(scripted_upstream(says))
        url = upstream.url
        for _ in range(n):
            server = await stack.enter_async_context(serving(model_settings(url, checkpoint) | settings))
            url = server.url
        upstream.forget()
        yield server, upstream


def assert_one_rewrite_and_one_vote(completion: Any, bodies: list[dict[str, Any]], checkpoint: Path) -> None:
    """The reply tells of the whole vote, whose candidates the engine was asked for once each, rewritten once each."""
    assert (completion["its"]["votes"], completion["its"]["degraded"]) == ({"7": N}, None)
    assert completion["usage"]["completion_tokens"] == 10 * len(bodies)
    expected = rewrite(open_checkpoint(checkpoint).serve, MESSAGES).messages
    assert [body["messages"] for body in bodies] == [expected] * N
    assert len({body["seed"] for body in bodies}) == N


@pytest.mark.parametrize("n", [1, 2, 3])
async def test_its_proxy_before_its_proxy(checkpoint, n):
    async with proxies(n, checkpoint) as (server, upstream):
        status, completion = await server.chat(MESSAGES, its=WHOLE_VOTE)
        assert status == 200
        assert completion["its"]["handshake"] == "verified"
        assert_one_rewrite_and_one_vote(completion, upstream.bodies, checkpoint)


@pytest.mark.parametrize("n", [1, 2])
async def test_a_wrapped_client_before_its_proxy(checkpoint, n):
    async with (
        proxies(n, checkpoint) as (server, upstream),
        wrap(openai.AsyncOpenAI(base_url=server.url, api_key="none"), checkpoint=checkpoint) as client,
    ):
        await client.its.ready()
        upstream.forget()
        completion = await client.chat.completions.create(
            model="model", messages=MESSAGES, extra_body={"its": WHOLE_VOTE}
        )
        assert completion.its["handshake"] == "verified"
        assert_one_rewrite_and_one_vote(completion.model_dump(), upstream.bodies, checkpoint)


async def test_an_engine_that_shows_no_weights_may_stand_behind_two_layers(checkpoint):
    """Such as the embedded one: its 404 for text completions is no sign that the model is gone."""
    async with proxies(2, checkpoint, lambda body, n: Say(status=404) if "prompt" in body else say(body, n)) as (
        server,
        upstream,
    ):
        status, completion = await server.chat(MESSAGES, its=WHOLE_VOTE)
        assert status == 200
        assert completion["its"]["handshake"] == "unverified"
        assert_one_rewrite_and_one_vote(completion, upstream.bodies, checkpoint)


async def test_a_stream_through_two_layers_is_one_vote(checkpoint):
    async with proxies(2, checkpoint) as (server, upstream):
        reply = await server.ask(MESSAGES, stream=True, its=WHOLE_VOTE, stream_options={"include_usage": True})
        *_, last, usage = reply.chunks
        assert_one_rewrite_and_one_vote({**usage, "its": last["its"]}, upstream.bodies, checkpoint)


async def test_one_candidate_is_relayed_through_two_layers(checkpoint):
    async with proxies(2, checkpoint) as (server, upstream):
        reply = await server.ask(MESSAGES, stream=True, its={"vote": "off"})
    [body] = upstream.bodies
    assert body["messages"] == rewrite(open_checkpoint(checkpoint).serve, MESSAGES).messages
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in reply.chunks).strip() == "\\boxed{7}"


@asynccontextmanager
async def over_http(app: Any, state_of: Any) -> AsyncIterator[str]:
    """An ASGI application on a port."""

    async def pass_on(request: web.Request) -> web.Response:
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        heard = await Client(app, state_of).send(request.method, request.path, await request.read(), headers)
        return web.Response(body=heard.raw, status=heard.status, headers={"Content-Type": "application/json"})

    server = web.Application()
    server.router.add_route("*", "/{path:.*}", pass_on)
    runner = web.AppRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def test_its_proxy_before_the_middleware_in_vllm(checkpoint):
    app = ScriptedApp(lambda body: "\\boxed{7}", {"model": str(checkpoint)})
    inside = Middleware(app, Options())
    async with (
        living(inside, app),
        over_http(inside, app) as url,
        serving(model_settings(url, checkpoint)) as server,
    ):
        app.asked.clear()
        status, completion = await server.chat(MESSAGES, its=WHOLE_VOTE)
    assert status == 200, completion
    expected = rewrite(open_checkpoint(checkpoint).serve, MESSAGES).messages
    assert [body["messages"] for body in app.bodies] == [expected] * N
    assert completion["its"]["votes"] == {"7": N}


# -- layers that do not belong together --------------------------------------------------------------------------------


async def test_layers_with_different_pairs_are_found_out_before_the_first_query(checkpoint, tmp_path):
    other = write_checkpoint(tmp_path / "similar", recorded("similar"))
    async with (
        proxies(1, other) as (back, upstream),
        serving(model_settings(back.url, checkpoint)) as front,
    ):
        status, refused = await front.chat(MESSAGES)
        asked = await back.send(
            "POST", "/v1/chat/completions", {"model": "model", "messages": MESSAGES},
            {"x-its-applied": open_checkpoint(checkpoint).pair_id},
        )  # fmt: skip
    assert (status, refused["error"]["code"]) == (503, "model_mismatch")
    assert "probe 0 was refused" in refused["error"]["message"]
    assert (asked.status, asked.error["code"]) == (400, "pair_mismatch")
    assert upstream.bodies == []


async def test_a_front_that_is_not_trusted_is_found_out_before_the_first_query(checkpoint):
    """Its probes are rewritten once more, so that other tokens are read than it knows."""
    keys = [{"name": "team", "sha256": sha256(b"team").hexdigest(), "rights": ["force"]}]
    async with proxies(1, checkpoint, keys=keys) as (back, upstream):
        settings = model_settings(back.url, checkpoint)
        settings["upstreams"]["gpu"]["key_env"] = "BACK_KEY"
        async with serving(settings, {"BACK_KEY": "team"}) as front:
            status, refused = await front.chat(MESSAGES)
        asked = await back.ask(MESSAGES, key="team")
    assert (status, refused["error"]["code"]) == (503, "model_mismatch")
    assert "renders to other tokens than recorded" in refused["error"]["message"]
    assert asked.json["its"]["strategy"] == "random"
    assert all(body["messages"] != MESSAGES for body in upstream.bodies)
