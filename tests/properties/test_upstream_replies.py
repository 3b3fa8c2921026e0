"""Whatever JSON an upstream answers with: a client gets a reply or an error, and no defect of our own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.examples import examples
from tests.serving import Server, manifest, serving, tokens_of, write_checkpoint

SCALARS = st.none() | st.booleans() | st.integers(-3, 10**6) | st.floats(allow_nan=False) | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def shaped(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    """An object that is nearly right: each field mostly as it should be, else anything."""
    nearly = {name: good | good | good | JSON for name, good in {**required, **optional}.items()}
    return st.fixed_dictionaries(
        {name: nearly[name] for name in required}, optional={name: nearly[name] for name in optional}
    )


TEXTS = st.sampled_from([r"So \boxed{7}.", r"\boxed{8}", "no answer", "", '{"a": 1}'])
TOKENS = st.lists(shaped({"token": TEXTS, "logprob": st.floats(-5, 0)}, {"bytes": JSON}), max_size=2)
LOGPROBS = shaped({}, {"content": TOKENS})
FUNCTION = shaped({"name": st.just("add")}, {"arguments": st.just("{}")})
CALL = shaped({"function": FUNCTION}, {"id": st.just("call_1"), "index": st.integers(0, 2)})
SAID = dict.fromkeys(("content", "refusal", "reasoning", "reasoning_content"), TEXTS)
MESSAGE = shaped(
    {}, {"role": st.just("assistant"), "tool_calls": st.lists(CALL, max_size=2), "annotations": JSON, **SAID}
)
FINISH = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
CHOICE = shaped({"message": MESSAGE, "finish_reason": FINISH}, {"index": st.just(0), "logprobs": LOGPROBS})
COUNTS = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), st.integers(0, 100))
USAGE = shaped({}, {"prompt_tokens_details": JSON, "completion_tokens_details": JSON, **COUNTS})
HEAD = {"id": st.just("c"), "created": st.just(1), "model": st.just("model"), "system_fingerprint": st.just("f")}
COMPLETION = shaped({"choices": st.lists(CHOICE, min_size=1, max_size=2)}, {"usage": USAGE, **HEAD})
PIECE = shaped({"delta": MESSAGE}, {"index": st.just(0), "finish_reason": st.none() | FINISH, "logprobs": LOGPROBS})
CHUNK = shaped({}, {"choices": st.lists(PIECE, max_size=2), "usage": st.none() | USAGE, **HEAD})
LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
STREAM = st.lists(CHUNK, max_size=3).map(lambda chunks: [*chunks, LAST])


@asynccontextmanager
async def upstream(said: dict[str, Any]) -> AsyncIterator[str]:
    """Answers every client with `said["plain"]`, or with the events of `said["stream"]`."""

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("return_token_ids"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "length"}
            return web.json_response({"choices": [choice], "prompt_token_ids": tokens_of(body["messages"])})
        if not body.get("stream"):
            return web.Response(body=orjson.dumps(said["plain"]), content_type="application/json")
        events = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in said["stream"])
        return web.Response(body=events + b"data: [DONE]\n\n", content_type="text/event-stream")

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "model"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def models(url: str, folder: Any) -> dict[str, Any]:
    voted = {"upstream": "gpu", "served_name": "model", "checkpoint": write_checkpoint(folder, manifest())}
    return {
        "upstreams": {"gpu": {"url": url}},
        "models": {
            "voted": {**voted, "vote": {"n": 3}},
            "counted": {**voted, "vote": {"n": 3, "usage_policy": "exact"}},
            "passed": {"upstream": "gpu", "served_name": "model"},
        },
    }


async def ask(server: Server, path: str, model: str, **fields: Any) -> None:
    asked = (
        {"input": "What is 2 + 5?"}
        if path == "/v1/responses"
        else {"messages": [{"role": "user", "content": "2 + 5?"}]}
    )
    reply = await server.send("POST", path, {"model": model, **asked, **fields})
    said = reply.raw.decode()
    assert reply.status != 500, said
    assert '"internal_error"' not in said, said
    if reply.status != 200:
        assert reply.error["message"]


def test_no_reply_of_an_upstream_is_met_with_a_defect(tmp_path):
    said: dict[str, Any] = {}

    async def check(plain: Any, stream: list[Any], server: Server) -> None:
        said.update(plain=plain, stream=stream)
        for path in ("/v1/chat/completions", "/v1/responses"):
            for model in ("voted", "counted", "passed"):
                candidates = {} if model == "passed" else {"its": {"vote": "always", "candidates": True}}
                for is_stream in (False, True):
                    await ask(server, path, model, stream=is_stream, **candidates)
            await ask(server, path, "voted", stream=True, its={"vote": "off"})

    with asyncio.Runner() as runner:
        worlds = upstream(said)
        url = runner.run(worlds.__aenter__())
        servers = serving({**models(url, tmp_path), "log_level": "error"})
        server = runner.run(servers.__aenter__())

        @settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
        @given(COMPLETION, STREAM)
        def holds(plain: Any, stream: list[Any]) -> None:
            with capture_logs():  # a defect's traceback takes longer to draw than all the rest
                runner.run(check(plain, stream, server))

        try:
            holds()
        finally:
            runner.run(servers.__aexit__(None, None, None))
            runner.run(worlds.__aexit__(None, None, None))
