"""A scripted upstream: a real HTTP server that speaks OpenAI's completions and says what a test tells it to.

It counts what reached it, what it finished and what was hung up on, which is how tests see cancellation.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from aiohttp import web


@dataclass
class Say:
    """One scripted reply: `text` after `delay_s`, or an HTTP `status`; `message`: what else it holds, as calls.

    `gate`: an event that is waited for before anything is said. `pieces`: what a stream tells before `text`, each a
    delta, or an event that is waited for. `document`: a whole completion to tell instead, as a stream if asked for one.
    """

    text: str | None = "\\boxed{1}"
    delay_s: float = 0.0
    status: int = 200
    finish_reason: str | None = "stop"
    completion_tokens: int = 10
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    chunk_delay_s: float = 0.0
    counts_along: bool = True
    message: dict[str, Any] = field(default_factory=dict)
    gate: asyncio.Event | None = None
    pieces: Sequence[dict[str, Any] | asyncio.Event] = ()
    document: dict[str, Any] | None = None


Script = Callable[[dict[str, Any], int], Say]
"""(request body, number of the call from 0) -> what to say."""


@dataclass
class ScriptedUpstream:
    """What a test reads: `bodies` of all calls, how many were finished or cancelled, and when (monotonic seconds)."""

    url: str
    script: Script
    models: list[str]
    owned_by: str = "scripted"
    card_fields: dict[str, Any] = field(default_factory=dict)
    cards: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: Callable[[dict[str, Any]], list[int]] | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    n_finished: int = 0
    n_cancelled: int = 0
    n_listed: int = 0
    cancelled_at: list[float] = field(default_factory=list)

    def add_model(self, name: str, **card: object) -> None:
        """Lists a model, with what else its card tells; again: with another card."""
        self.drop_model(name)
        self.models.append(name)
        self.cards[name] = {key: str(value) for key, value in card.items()}

    def drop_model(self, name: str) -> None:
        self.models[:] = [listed for listed in self.models if listed != name]

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
async def scripted_upstream(
    script: Script, models: list[str] | None = None, port: int = 0
) -> AsyncIterator[ScriptedUpstream]:
    """One server, on a free port unless told which; its end breaks the connections of whatever is in flight."""
    upstream = ScriptedUpstream("", script, models or ["model"])

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        say = upstream.script(body, len(upstream.bodies))
        upstream.bodies.append(body)
        upstream.headers.append(dict(request.headers))
        try:
            await asyncio.sleep(say.delay_s)
            if say.gate is not None:
                await say.gate.wait()
            response = await _answer(request, body, say, upstream)
        except (asyncio.CancelledError, ConnectionResetError):
            upstream.n_cancelled += 1
            upstream.cancelled_at.append(monotonic())
            raise
        upstream.n_finished += 1
        return response

    async def list_models(request: web.Request) -> web.Response:
        upstream.n_listed += 1
        fields = {"object": "model", "owned_by": upstream.owned_by, **upstream.card_fields}
        cards = [{"id": name, **fields, **upstream.cards.get(name, {})} for name in upstream.models]
        return web.json_response({"object": "list", "data": cards})

    app = web.Application()
    app.router.add_post("/v1/{route:chat/completions|completions|embeddings}", chat)
    app.router.add_get("/v1/models", list_models)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
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
    if say.document is not None:
        return await _told(request, body, say.document)
    if body.get("stream"):
        return await _stream(request, body, say)
    said = (
        {"text": say.text}
        if "prompt" in body
        else {"message": {"role": "assistant", "content": say.text, **say.message}}
    )
    document = {
        "id": "cmpl-upstream",
        "object": "text_completion" if "messages" not in body else "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": say.finish_reason}],
        "usage": _usage(say.completion_tokens),
    }
    if body.get("return_token_ids") and upstream.tokens is not None:
        document["prompt_token_ids"] = upstream.tokens(body)
    return web.json_response(document, headers=say.headers)


async def _stream(request: web.Request, body: dict[str, Any], say: Say) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    options = body.get("stream_options") or {}
    counts_along = say.counts_along and options.get("continuous_usage_stats", False)
    if say.message:
        await response.write(_event(body, {"role": "assistant", **_numbered(say.message)}, None))
    for piece in say.pieces:
        if isinstance(piece, asyncio.Event):
            await piece.wait()
        else:
            await response.write(_event(body, piece, None))
    for number, word in enumerate((say.text or "").split(" "), start=1):
        usage = _usage(min(number, say.completion_tokens)) if counts_along else None
        await response.write(_event(body, {"role": "assistant", "content": word + " "}, None, usage))
        await asyncio.sleep(say.chunk_delay_s)
    if say.finish_reason is not None:
        await response.write(_event(body, {}, say.finish_reason))
        if options.get("include_usage"):
            last = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": body["model"], "choices": []}
            await response.write(_data({**last, "usage": _usage(say.completion_tokens)}))
        await response.write(b"data: [DONE]\n\n")
    return response


async def _told(request: web.Request, body: dict[str, Any], document: dict[str, Any]) -> web.StreamResponse:
    if not body.get("stream"):
        return web.json_response(document)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for chunk in _chunks(document):
        await response.write(_data(chunk))
    if (body.get("stream_options") or {}).get("include_usage"):
        await response.write(_data({**document, "object": "chat.completion.chunk", "choices": []}))
    await response.write(b"data: [DONE]\n\n")
    return response


def _chunks(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """As vLLM cuts a completion: an empty content first, each field and each call for itself, then the finish."""
    head = {key: value for key, value in document.items() if key != "usage"} | {"object": "chat.completion.chunk"}
    for choice in document["choices"]:
        rest = {key: value for key, value in choice.items() if key not in ("message", "logprobs", "finish_reason")}
        plain = {"index": choice["index"], "logprobs": None, "finish_reason": None}
        message = _numbered(choice["message"])
        calls = message.pop("tool_calls", [])
        deltas = [{"role": "assistant", "content": ""}, *({key: message[key]} for key in message if key != "role")]
        for delta in [*deltas, *({"tool_calls": [call]} for call in calls)]:
            logprobs = choice.get("logprobs") if "content" in delta and delta is not deltas[0] else None
            yield {**head, "choices": [{**plain, "delta": delta, "logprobs": logprobs}]}
        yield {**head, "choices": [{**plain, **rest, "delta": {}, "finish_reason": choice["finish_reason"]}]}


def _numbered(message: dict[str, Any]) -> dict[str, Any]:
    """As a delta: tool calls are numbered there."""
    calls = [{**call, "index": number} for number, call in enumerate(message.get("tool_calls", []))]
    return {**message, **({"tool_calls": calls} if calls else {})}


def _event(body: dict[str, Any], delta: dict[str, Any], finish_reason: str | None, usage: Any = None) -> bytes:
    is_chat = "messages" in body
    told = {"delta": delta} if is_chat else {"text": delta.get("content", "")}
    choice = {"index": 0, **told, "logprobs": None, "finish_reason": finish_reason}
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    chunk = {"id": "c", "object": kind, "created": 1, "model": body["model"], "choices": [choice]}
    if usage is not None:
        chunk["usage"] = usage
    return _data(chunk)


def _data(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _usage(completion_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 7, "completion_tokens": completion_tokens, "total_tokens": 7 + completion_tokens}
