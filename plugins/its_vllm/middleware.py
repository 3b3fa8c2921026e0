"""`vllm serve CHECKPOINT --middleware its_vllm.Middleware`: the served checkpoint's strategy and vote, inside vLLM.

Pure ASGI around vLLM's own application. Only chat completions of models with a manifest are touched.
"""

import asyncio
import json
import os
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from its_proxy.codesign.errors import ConfigError, ItsError
from its_proxy.exchange import Exchange, Front
from its_proxy.protocol.body import read_body as read_json
from its_proxy.protocol.chat import read_chat
from its_proxy.protocol.envelope import error_reply
from its_proxy.protocol.request_id import new_request_id
from its_proxy.protocol.sse import DONE, event
from its_proxy.served import Served
from its_proxy.upstreams.base import APPLIED_HEADER
from its_vllm.asgi import App, ClientLeft, Receive, Scope, Send, header, json_reply, path_of, raw, read_body, replayed
from its_vllm.inner import Refused, asking_for
from its_vllm.models import Models
from its_vllm.options import RIGHTS, Options, options_from

CHAT = "/v1/chat/completions"
ADAPTERS = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
UNKNOWN_BODY_BYTES = 2**20
_STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


class Middleware:
    """What vLLM makes one of for each of its API processes."""

    def __init__(self, app: App, options: Options | None = None) -> None:
        self._app = app
        self._wrong: ConfigError | None = None
        self._options = Options()
        try:
            self._options = options if options is not None else options_from(os.environ)
        except ConfigError as error:
            self._wrong = error
        self._models = Models(app, self._options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._wrong is not None:
            await _refuse_to_start(self._wrong, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._models.live(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST" and path_of(scope) == CHAT:
            await self._chat(scope, receive, send)
        elif scope["type"] == "http" and path_of(scope) in ADAPTERS:
            await self._app(scope, receive, send)
            await self._models.renew(scope)
        else:
            await self._app(scope, receive, send)

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientLeft):
            body, is_whole = await read_body(receive, UNKNOWN_BODY_BYTES)
            if not is_whole:
                # Memory is for those whom vLLM knows: their bodies it would read whole, too.
                if (refusal := await self._models.inner.refusal_of(scope)) is not None:
                    return await refusal.send(send)
                body += (await read_body(receive))[0]
            await self._whole_chat(scope, body, receive, send)

    async def _whole_chat(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        request_id = new_request_id(header(scope, b"x-request-id"))
        try:
            served = await self._served(scope, body)
            front = self._front(scope)
            if served is None or front.has_applied(served):
                untouched = {**scope, "headers": [one for one in scope["headers"] if one[0] != APPLIED_HEADER.encode()]}
                return await self._app(untouched, replayed(body, receive), send)
        except ItsError as error:
            return await _tell(error, request_id, send)
        if (refusal := await self._models.inner.refusal_of(scope)) is not None:
            return await refusal.send(send)
        with asking_for(scope):
            await _until_left(self._answer(served, front, body, request_id, send), receive)

    async def _served(self, scope: Scope, body: bytes) -> Served | None:
        """What this request is for, if it is ours. The body is read as vLLM reads it, which is more than we take from
        anyone: what it would answer plain must not pass by us. What it would refuse is left to it."""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(document, dict) or not isinstance(name := document.get("model"), str | None):
            return None
        return await self._models.find(name, scope)

    def _front(self, scope: Scope) -> Front:
        is_trusted = not self._models.keys or self._options.is_front(header(scope, b"authorization"))
        return Front.said(header(scope, APPLIED_HEADER.encode()), is_trusted=is_trusted)

    async def _answer(self, served: Served, front: Front, body: bytes, request_id: str, send: Send) -> None:
        has_begun = asyncio.Event()
        try:
            exchange = Exchange(
                chat=read_chat({**read_json(body), "model": served.name}),
                served=served,
                members=served.members(),
                request_id=request_id,
                rights=self._options.rights if self._models.keys else RIGHTS,
                front=front,
                comparer=self._models.workers,
            )
            if exchange.chat.is_stream and not exchange.chat.its.explain:
                return await _stream(exchange, send, has_begun)
            reply = await exchange.reply()
            await json_reply(reply.body, {**reply.headers, "x-request-id": request_id}).send(send)
        except ItsError as error:
            if has_begun.is_set():  # the status has left: the error is the last event but [DONE]
                told = b"\n" + event(error_reply(error).body) + DONE
                return await send({"type": "http.response.body", "body": told})
            await _tell(error, request_id, send)


async def _refuse_to_start(error: ConfigError, scope: Scope, receive: Receive, send: Send) -> None:
    """Said as ASGI says it: a server takes an exception for an application that has no start, and goes on."""
    if scope["type"] != "lifespan":
        raise error
    await receive()
    await send({"type": "lifespan.startup.failed", "message": f"its_vllm: {error}"})


async def _stream(exchange: Exchange, send: Send, has_begun: asyncio.Event) -> None:
    async with exchange.stream() as streamed:
        headers = {**_STREAM_HEADERS, **streamed.headers, "x-request-id": exchange.request_id}
        await send({"type": "http.response.start", "status": 200, "headers": raw(headers)})
        has_begun.set()
        async for chunk in streamed.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _tell(error: ItsError, request_id: str, send: Send) -> None:
    """vLLM's refusals as vLLM wrote them; ours in the same shape."""
    if isinstance(error, Refused):
        return await error.reply.send(send)
    told = error_reply(error)
    await json_reply(told.body, {**told.headers, "x-request-id": request_id}, told.status).send(send)


async def _until_left(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Ends the work when the client leaves."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})
        with suppress(asyncio.CancelledError):
            leaving.exception()
