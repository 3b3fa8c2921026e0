"""`POST /v1/chat/completions` and `/v1/responses`: plain, streamed, voted, and voted stream."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from its_proxy.admission import Door
from its_proxy.codesign.errors import QuorumLost, UpstreamError
from its_proxy.codesign.query import user_turns
from its_proxy.exchange import Exchange, Limits
from its_proxy.plan import Member
from its_proxy.protocol.body import read_body
from its_proxy.protocol.chat import ChatRequest, read_chat
from its_proxy.protocol.responses.request import chat_body
from its_proxy.route import Route
from its_proxy.sampling import Outcome
from its_proxy.served import Served
from its_proxy.server.auth import Caller
from its_proxy.server.context import (
    DIALECT,
    MODEL,
    PHASE,
    REQUEST_ID,
    SPAN,
    STREAM,
    caller_of,
    context_of,
    door_of,
    front_of,
    observer_of,
    tenant_of,
    traits_of,
)
from its_proxy.server.dialect import ChatDialect, ResponsesDialect
from its_proxy.settings import Settings

_STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def chat_completions(request: web.Request) -> web.StreamResponse:
    caller = caller_of(request)
    request[DIALECT] = ChatDialect()
    return await _converse(request, caller, read_chat(read_body(await read_bytes(request))))


async def responses(request: web.Request) -> web.StreamResponse:
    """A Response is made of the chat completion that answers the same; nothing is stored."""
    caller = caller_of(request)
    body = read_body(await read_bytes(request))
    request[DIALECT] = ResponsesDialect(body, request[REQUEST_ID])
    return await _converse(request, caller, read_chat(chat_body(body)))


async def _converse(request: web.Request, caller: Caller, chat: ChatRequest) -> web.StreamResponse:
    tenant = tenant_of(request, caller, chat.body)
    door, salt = door_of(request, caller, tenant), caller.salt(tenant)
    served, chat = await _resolve(request, chat, caller)
    members = served.members(salt)
    try:
        return await _answer(request, chat, served, members, caller, door)
    except (UpstreamError, QuorumLost):
        again, _ = await _resolve(request, chat, caller)
        if again is served or STREAM in request or any(_was_begun(member) for member in members):
            raise
        # Its last target has just gone, and the alias has another model: nobody has begun to answer yet.
        members = again.members(salt)
        return await _answer(request, chat, again, members, caller, door)


async def _resolve(request: web.Request, chat: ChatRequest, caller: Caller) -> tuple[Served, ChatRequest]:
    first = next((message for message in chat.messages if message["role"] == "user"), None)
    turns = user_turns([first]) if first is not None else []
    traits = traits_of(chat.body, caller, turns[0].text if turns else None)
    served, overrides = await context_of(request).catalog.resolve(chat.model, traits)
    request[MODEL] = served.name
    return served, _with_suffix(chat, overrides)


def _was_begun(member: Member) -> bool:
    return isinstance(member.upstream, Route) and member.upstream.was_begun


async def _answer(
    request: web.Request, chat: ChatRequest, served: Served, members: Sequence[Member], caller: Caller, door: Door
) -> web.StreamResponse:
    def count(outcome: Outcome) -> None:
        context_of(request).metrics.count_outcome(request[MODEL], outcome)
        if (span := request.get(SPAN)) is not None:
            span.tell(outcome)

    exchange = Exchange(
        chat=chat,
        served=served,
        members=members,
        request_id=request[REQUEST_ID],
        rights=caller.rights,
        front=front_of(request, caller),
        limits=_limits(context_of(request).settings),
        on_outcome=count,
        door=door,
        observer=observer_of(request),
        comparer=context_of(request).workers,
    )
    if chat.is_stream and not chat.its.explain:
        return await _stream(request, exchange)
    reply = await exchange.reply()
    return json_reply(request[DIALECT].whole(reply.body), reply.headers)


def _limits(settings: Settings) -> Limits:
    return Limits(settings.max_n, settings.max_request_tokens)


async def _stream(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    async with exchange.stream() as streamed:
        response = web.StreamResponse(headers={**_STREAM_HEADERS, **streamed.headers})
        await response.prepare(request)
        request[STREAM], request[PHASE] = response, "streaming"
        async with aclosing(request[DIALECT].events(streamed.chunks)) as events:
            async for told in events:
                await response.write(told)
    await response.write_eof()
    return response


async def read_bytes(request: web.Request) -> bytes:
    """The whole body, never more of it than is allowed; aiohttp's own `read` would keep it as long as the request."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise web.HTTPUnsupportedMediaType
    most = context_of(request).settings.max_body_bytes
    if (request.content_length or 0) > most:
        raise web.HTTPRequestEntityTooLarge(most, request.content_length or 0)
    chunks: list[bytes] = []
    n_bytes = 0
    while chunk := await request.content.readany():
        chunks.append(chunk)
        n_bytes += len(chunk)
        if n_bytes > most:
            raise web.HTTPRequestEntityTooLarge(most, n_bytes)
    request[PHASE] = "answering"
    return b"".join(chunks)


def json_reply(body: dict[str, Any], headers: dict[str, str] | None = None, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json", headers=headers)


def _with_suffix(chat: ChatRequest, overrides: dict[str, Any]) -> ChatRequest:
    """The body's `its` wins over the model name's suffix."""
    missing = {key: value for key, value in overrides.items() if getattr(chat.its, key) is None}
    return replace(chat, its=chat.its.model_copy(update=missing)) if missing else chat
