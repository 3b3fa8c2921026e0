"""A scripted upstream: a real HTTP server that speaks OpenAI's chat completions and says what a test tells it to.

It counts what reached it, what it finished and what was hung up on, which is how tests see cancellation.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from aiohttp import web


@dataclass
class Say:
    """One scripted reply: `text` after `delay_s`, or an HTTP `status`; `tokens` are the prompt's token ids."""

    text: str | None = "\\boxed{1}"
    delay_s: float = 0.0
    status: int = 200
    finish_reason: str | None = "stop"
    completion_tokens: int = 10
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    chunk_delay_s: float = 0.0


Script = Callable[[dict[str, Any], int], Say]
"""(request body, number of the call from 0) -> what to say."""


@dataclass
class ScriptedUpstream:
    """What a test reads: `bodies` of all calls, how many were finished or cancelled, and when (monotonic seconds)."""

    url: str
    script: Script
    models: list[str]
    tokens: Callable[[dict[str, Any]], list[int]] | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    n_finished: int = 0
    n_cancelled: int = 0
    cancelled_at: list[float] = field(default_factory=list)

    @property
    def n_open(self) -> int:
        return len(self.bodies) - self.n_finished - self.n_cancelled

    def forget(self) -> None:
        """As if nothing had been asked yet."""
        self.bodies.clear()
        self.headers.clear()
        self.n_finished = self.n_cancelled = 0

    async def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def scripted_upstream(script: Script, models: list[str] | None = None) -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream("", script, models or ["model"])

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        say = upstream.script(body, len(upstream.bodies))
        upstream.bodies.append(body)
        upstream.headers.append(dict(request.headers))
        try:
            await asyncio.sleep(say.delay_s)
            response = await _answer(request, body, say, upstream)
        except (asyncio.CancelledError, ConnectionResetError):
            upstream.n_cancelled += 1
            upstream.cancelled_at.append(monotonic())
            raise
        upstream.n_finished += 1
        return response

    async def list_models(request: web.Request) -> web.Response:
        cards = [{"id": name, "object": "model"} for name in upstream.models]
        return web.json_response({"object": "list", "data": cards})

    app = web.Application()
    app.router.add_post("/v1/{route:chat/completions|completions|embeddings}", chat)
    app.router.add_get("/v1/models", list_models)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield upstream
    finally:
        await runner.cleanup()


async def _answer(
    request: web.Request, body: dict[str, Any], say: Say, upstream: ScriptedUpstream
) -> web.StreamResponse:
    if say.status != 200:
        return web.Response(status=say.status, text="upstream secret text", headers=say.headers)
    if say.raw is not None:
        return web.Response(body=say.raw, content_type="application/json", headers=say.headers)
    if body.get("stream"):
        return await _stream(request, body, say)
    document = {
        "id": "cmpl-upstream",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": say.text},
                "logprobs": None,
                "finish_reason": say.finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": say.completion_tokens,
            "total_tokens": 7 + say.completion_tokens,
        },
    }
    if body.get("return_token_ids") and upstream.tokens is not None:
        document["prompt_token_ids"] = upstream.tokens(body)
    return web.json_response(document, headers=say.headers)


async def _stream(request: web.Request, body: dict[str, Any], say: Say) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for word in (say.text or "").split(" "):
        await response.write(_event(body, {"role": "assistant", "content": word + " "}, None))
        await asyncio.sleep(say.chunk_delay_s)
    if say.finish_reason is not None:
        await response.write(_event(body, {}, say.finish_reason))
        await response.write(b"data: [DONE]\n\n")
    return response


def _event(body: dict[str, Any], delta: dict[str, Any], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": body["model"], "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
