"""The other routes of an upstream: allow-listed, under the served name, byte for byte, never past a strategy."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web

from its_proxy.server.passed import FORM_ROUTES, JSON_ROUTES
from tests.scripted import Say
from tests.serving import Server, manifest, model_settings, serving, serving_script, write_checkpoint

ANSWER = b'{ "its own" : "spelling", "bytes": "\xc3\xa9" }\n'
AUDIO = b"RIFF\x00\xff\r\n--"


@dataclass
class Engine:
    """Answers any route alike, and keeps what it was sent."""

    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    content_type: str = "application/json"

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers["Content-Type"], await request.read()))
        return web.Response(body=ANSWER, headers={"Content-Type": self.content_type})


@asynccontextmanager
async def passing(**settings) -> AsyncIterator[tuple[Server, Engine]]:
    """A server with `model`, which its upstream knows as `theirs`."""
    engine = Engine()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", engine.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        async with serving(model_settings(url, None, served_name="theirs") | settings, wait=False) as server:
            yield server, engine
    finally:
        await runner.cleanup()


def upload(**fields: str) -> aiohttp.FormData:
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("file", AUDIO, filename="a.wav", content_type="audio/wav")
    for name, value in fields.items():
        form.add_field(name, value)
    return form


@pytest.mark.parametrize("path", JSON_ROUTES)
async def test_a_json_route_is_passed_on(path):
    async with passing() as (server, engine):
        reply = await server.send("POST", path, {"model": "model", "input": "x", "anything": [1, {"else": None}]})
    assert (reply.status, reply.raw, reply.headers["Content-Type"]) == (200, ANSWER, "application/json")
    assert reply.headers["x-request-id"]
    body = b'{"model":"theirs","input":"x","anything":[1,{"else":null}]}'
    assert engine.asked == [(path, "application/json", body)]


@pytest.mark.parametrize("path", FORM_ROUTES)
async def test_a_form_is_passed_on(path):
    async with passing() as (server, engine):
        engine.content_type = "text/vtt; charset=utf-8"
        form = upload(model="model", language="en")
        async with server.http.post(server.url.removesuffix("/v1") + path, data=form) as reply:
            assert (reply.status, await reply.read()) == (200, ANSWER)
            assert reply.content_type == "text/vtt"
    [(asked_path, content_type, body)] = engine.asked
    assert (asked_path, content_type.partition(";")[0]) == (path, "multipart/form-data")
    assert AUDIO in body
    assert b"\r\n\r\ntheirs\r\n" in body
    assert b"\r\n\r\nmodel\r\n" not in body
    assert b"\r\n\r\nen\r\n" in body


@pytest.mark.parametrize(
    "fields", [{}, {"model": "model", "its": "{}"}, {"model": "model", "kv_role": "x"}, {"model": ""}]
)
async def test_a_form_is_refused_like_any_body(fields):
    async with (
        passing() as (server, engine),
        server.http.post(f"{server.url}/audio/transcriptions", data=upload(**fields)) as reply,
    ):
        error = (await reply.json())["error"]
    assert reply.status == 400
    assert error["param"] == next((name for name in ("its", "kv_role") if name in fields), "model")
    assert engine.asked == []


async def test_a_form_too_large_is_refused():
    async with (
        passing(max_body_bytes=100) as (server, engine),
        server.http.post(f"{server.url}/audio/transcriptions", data=upload(model="model")) as reply,
    ):
        assert reply.status == 413
    assert engine.asked == []


async def test_what_is_no_form_is_refused():
    async with passing() as (server, engine):
        reply = await server.send("POST", "/v1/audio/transcriptions", {"model": "model"})
    assert (reply.status, reply.error["code"]) == (400, "invalid_form")
    assert engine.asked == []


async def test_no_other_route_is_passed_on():
    async with passing() as (server, engine):
        for path in ("/v1/moderations", "/v1/tokenize", "/v1/load_lora_adapter", "/sleep", "/v1/embeddings/x"):
            assert (await server.send("POST", path, {"model": "model"})).status == 404
    assert engine.asked == []


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/score", "/v1/rerank", "/v1/audio/speech"])
async def test_nothing_goes_past_a_strategy(tmp_path, path):
    async with serving_script(Say(), write_checkpoint(tmp_path, manifest("random"))) as (server, upstream):
        reply = await server.send("POST", path, {"model": "model", "input": "x"})
    assert (reply.status, reply.error["code"]) == (400, "strategy_not_applicable")
    assert upstream.bodies == []


async def test_texts_may_be_tokenized_under_a_strategy_and_chats_may_not(tmp_path):
    """The chat's prompt would lack its persona."""
    async with serving_script(Say(), write_checkpoint(tmp_path, manifest("random"))) as (server, _):
        chat = await server.send(
            "POST", "/tokenize", {"model": "model", "messages": [{"role": "user", "content": "x"}]}
        )
        text = await server.send("POST", "/tokenize", {"model": "model", "prompt": "x"})
    assert (chat.status, chat.error["param"]) == (400, "messages")
    assert text.error["message"].startswith("upstream gpu answered 404"), "this upstream has no such route"


async def test_they_count_like_any_request():
    async with passing() as (server, _):
        await server.send("POST", "/tokenize", {"model": "model", "prompt": "x"})
        await server.send("POST", "/v1/score", {"model": "nobody"})
    assert server.total("requests_total") == 2
