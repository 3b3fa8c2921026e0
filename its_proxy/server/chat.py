"""`POST /v1/chat/completions` and `/v1/responses`: plain, streamed, voted, and voted stream."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import lru_cache
from typing import Any

import orjson

from its_proxy.admission import Door
from its_proxy.codesign.errors import QuorumLost, UpstreamError
from its_proxy.codesign.query import user_turns
from its_proxy.exchange import Exchange, Front, Limits
from its_proxy.outcome import Outcome
from its_proxy.plan import Member
from its_proxy.protocol.body import read_body
from its_proxy.protocol.chat import ChatRequest, read_chat
from its_proxy.protocol.responses.request import chat_body
from its_proxy.route import Route
from its_proxy.served import Served
from its_proxy.server.auth import Caller
from its_proxy.server.context import caller_of, door_of, front_of, observer_of, tenant_of, traits_of
from its_proxy.server.dialect import ChatDialect, ResponsesDialect
from its_proxy.server.http.request import Request
from its_proxy.server.http.response import JSON, Response, Stream

_STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_CHAT = ChatDialect()
_limits = lru_cache(maxsize=16)(Limits)
"""Made once for all requests that the same settings hold for."""


async def chat_completions(request: Request) -> Response | Stream:
    caller = caller_of(request)
    request.dialect = _CHAT
    return await converse(request, caller, read_chat(read_body(await request.read())))


async def responses(request: Request) -> Response | Stream:
    """A Response is made of the chat completion that answers the same; nothing is stored."""
    caller = caller_of(request)
    body = read_body(await request.read())
    request.dialect = ResponsesDialect(body, request.id)
    return await converse(request, caller, read_chat(chat_body(body)))


Asked = tuple[Served, Sequence[Member]]
"""A model, and its members as one request asks them."""


def as_chat(chat: ChatRequest, asked: Asked, front: Front) -> Asked:
    return asked


async def converse(
    request: Request,
    caller: Caller,
    chat: ChatRequest,
    asking: Callable[[ChatRequest, Asked, Front], Asked] = as_chat,
) -> Response | Stream:
    """Answers a request that has been read. `asking`: how its route asks a model; raises what forbids it."""
    salt = caller.salt(tenant_of(request, caller, chat.body)) if caller.identity else None
    door = door_of(request, caller, salt)
    served = request.context.catalog.exactly(chat.model)
    if served is None:
        served, chat = await _resolve(request, chat, caller)
    request.model = served.name
    front, members = front_of(request, caller), served.members(salt)
    try:
        return await _answer(request, chat, asking(chat, (served, members), front), caller, door, front)
    except (UpstreamError, QuorumLost):
        again, _ = await _resolve(request, chat, caller)
        request.model = again.name
        if again is served or request.stream is not None or any(_was_begun(member) for member in members):
            raise
        # Its last target has just gone, and the alias has another model: nobody has begun to answer yet.
        return await _answer(request, chat, asking(chat, (again, again.members(salt)), front), caller, door, front)


async def _resolve(request: Request, chat: ChatRequest, caller: Caller) -> tuple[Served, ChatRequest]:
    catalog = request.context.catalog
    traits = traits_of(chat.body, caller, _first_query(chat)) if catalog.aliases else {}
    served, overrides = await catalog.resolve(chat.model, traits)
    return served, _with_suffix(chat, overrides)


def _first_query(chat: ChatRequest) -> str | None:
    first = next((message for message in chat.messages if message["role"] == "user"), None)
    turns = user_turns([first]) if first is not None else ()
    return turns[0].text if turns else None


def _was_begun(member: Member) -> bool:
    return isinstance(member.upstream, Route) and member.upstream.was_begun


async def _answer(
    request: Request, chat: ChatRequest, asked: Asked, caller: Caller, door: Door, front: Front
) -> Response | Stream:
    served, members = asked
    context = request.context

    def count(outcome: Outcome) -> None:
        context.metrics.count_outcome(request.model, outcome)
        if (span := request.span) is not None:
            span.tell(outcome)

    exchange = Exchange(
        chat=chat,
        served=served,
        members=members,
        request_id=request.id,
        rights=caller.rights,
        front=front,
        limits=_limits(context.settings.max_n, context.settings.max_request_tokens),
        on_outcome=count,
        door=door,
        observer=observer_of(request, request.dialect.operation),
        comparer=context.workers,
    )
    if chat.is_stream and not chat.its.explain:
        return await _stream(request, exchange)
    reply = await exchange.reply()
    return json_reply(request.dialect.whole(reply.body), reply.headers)


async def _stream(request: Request, exchange: Exchange) -> Stream:
    async with exchange.stream() as streamed:
        stream = request.begin({**_STREAM_HEADERS, **streamed.headers})
        async with aclosing(request.dialect.events(streamed.chunks)) as events:
            async for told in events:
                stream.write(told)
                if stream.is_behind:
                    await stream.caught_up()
    stream.end()
    return stream


def json_reply(body: dict[str, Any], headers: dict[str, str] | None = None, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, JSON, headers)


def _with_suffix(chat: ChatRequest, overrides: dict[str, Any]) -> ChatRequest:
    """The body's `its` wins over the model name's suffix."""
    if not overrides:
        return chat
    missing = {key: value for key, value in overrides.items() if getattr(chat.its, key) is None}
    return replace(chat, its=chat.its.model_copy(update=missing)) if missing else chat
