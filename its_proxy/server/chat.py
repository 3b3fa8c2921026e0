"""`POST /v1/chat/completions`: plain, streamed, voted, and voted stream."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from its_proxy.codesign.errors import NotPermitted, QuorumLost, RequestError, UpstreamError
from its_proxy.codesign.query import user_turns
from its_proxy.plan import Member, Plan, make_plan
from its_proxy.protocol.chat import ChatRequest, read_body, read_chat
from its_proxy.protocol.its import ItsRequest
from its_proxy.protocol.sse import DONE, HEARTBEAT, completion_events, relayed, role_event
from its_proxy.reply import completion_of, explanation, headers_of
from its_proxy.sampling import Outcome, sample
from its_proxy.server.auth import Caller
from its_proxy.server.context import MODEL, REQUEST_ID, STREAM, caller_of, context_of, tenant_of, traits_of
from its_proxy.server.served import Served
from its_proxy.targets import Route
from its_proxy.upstreams.base import Body, Upstream

HEADERS_AFTER_S = 1.0
HEARTBEAT_S = 10.0
_STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def chat_completions(request: web.Request) -> web.StreamResponse:
    caller = caller_of(request)
    chat = read_chat(read_body(await read_bytes(request)))
    served, chat = await _resolve(request, chat, caller)
    members = served.members(caller.salt(tenant_of(request, caller, chat.body)))
    try:
        return await _answer(request, chat, served, members, caller)
    except (UpstreamError, QuorumLost):
        again, _ = await _resolve(request, chat, caller)
        if again is served or STREAM in request or any(_was_begun(member) for member in members):
            raise
        # Its last target has just gone, and the alias has another model: nobody has begun to answer yet.
        members = again.members(caller.salt(tenant_of(request, caller, chat.body)))
        return await _answer(request, chat, again, members, caller)


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
    request: web.Request, chat: ChatRequest, served: Served, members: Sequence[Member], caller: Caller
) -> web.StreamResponse:
    served.require_serving()
    if served.checkpoint is None and not served.is_ensemble:
        return await _pass_through(request, chat, served, members[0])
    _require_rights(chat.its, caller)
    plan = make_plan(chat, members, served.rules, caller.rights, chat.model)
    if chat.its.explain:
        return json_reply(explanation(plan), headers_of(plan))
    if not chat.is_stream:
        return await _reply(request, chat, plan)
    if plan.n == 1:
        return await _stream_one(request, chat, plan)
    return await _stream_vote(request, chat, plan)


async def read_bytes(request: web.Request) -> bytes:
    """The whole body; the application's size limit holds while reading."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise web.HTTPUnsupportedMediaType
    return await request.read()


def json_reply(body: dict[str, Any], headers: dict[str, str] | None = None, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json", headers=headers)


def _with_suffix(chat: ChatRequest, overrides: dict[str, Any]) -> ChatRequest:
    """The body's `its` wins over the model name's suffix."""
    missing = {key: value for key, value in overrides.items() if getattr(chat.its, key) is None}
    return replace(chat, its=chat.its.model_copy(update=missing)) if missing else chat


def _require_rights(its: ItsRequest, caller: Caller) -> None:
    for name in ("explain", "candidates"):
        if getattr(its, name) and name not in caller.rights:
            raise NotPermitted(f"{name} is not among this key's rights", param=f"its.{name}")


async def _reply(request: web.Request, chat: ChatRequest, plan: Plan) -> web.Response:
    outcome = await sample(plan, request[REQUEST_ID])
    return json_reply(_completion(request, chat, outcome), headers_of(plan, outcome))


def _completion(request: web.Request, chat: ChatRequest, outcome: Outcome) -> dict[str, Any]:
    context_of(request).metrics.count_outcome(request[MODEL], outcome)
    return completion_of(
        outcome,
        completion_id=_completion_id(request),
        created=int(time.time()),
        with_candidates=chat.its.candidates,
    )


def _completion_id(request: web.Request) -> str:
    return f"chatcmpl-{request[REQUEST_ID]}"


async def _stream_one(request: web.Request, chat: ChatRequest, plan: Plan) -> web.StreamResponse:
    """One candidate needs no vote, so nothing holds its words back: the upstream's own stream is relayed."""
    planned = plan.members[0]
    body = {**planned.body, "seed": plan.seed}
    if (options := chat.body.get("stream_options")) is not None:
        body["stream_options"] = options
    return await _relay(request, planned.member.upstream, body, headers_of(plan))


async def _stream_vote(request: web.Request, chat: ChatRequest, plan: Plan) -> web.StreamResponse:
    """Headers wait for the first candidate or a second, so that an early failure still gets its HTTP status."""
    has_first = asyncio.Event()
    async with _running(sample(plan, request[REQUEST_ID], has_first.set)) as vote:
        async with _running(has_first.wait()) as first:
            await asyncio.wait({vote, first}, timeout=HEADERS_AFTER_S, return_when=asyncio.FIRST_COMPLETED)
        if vote.done():
            await vote  # raises what it failed with, while there is still a status to say it with
        response = await _begin_stream(request, headers_of(plan))
        created = int(time.time())
        await response.write(role_event(_completion_id(request), created, plan.model, plan.n_choices))
        while not vote.done():
            await asyncio.wait({vote}, timeout=HEARTBEAT_S)
            if not vote.done():
                await response.write(HEARTBEAT)
        completion = _completion(request, chat, await vote) | {"created": created}
    for chunk in completion_events(completion, include_usage=chat.wants_usage):
        await response.write(chunk)
    await response.write(DONE)
    await response.write_eof()
    return response


@asynccontextmanager
async def _running(work: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """A task that never outlives the block, however it is left: the client may go at any await."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at, or asyncio would report what nobody waits for any more


async def _pass_through(request: web.Request, chat: ChatRequest, served: Served, member: Member) -> web.StreamResponse:
    """A model without a manifest: the request goes on as it came, under the name that its upstream knows."""
    if chat.its.model_fields_set:
        raise RequestError(
            f"{served.name} has no manifest, so its-proxy neither rewrites nor votes", param="its", hint="leave its out"
        )
    body = {**chat.body, "model": member.served_name}
    if chat.is_stream:
        return await _relay(request, member.upstream, body, {})
    return json_reply(await member.upstream.complete(body, request[REQUEST_ID]))


async def _relay(request: web.Request, upstream: Upstream, body: Body, headers: dict[str, str]) -> web.StreamResponse:
    """An upstream's events, as they come."""
    async with upstream.stream(body, request[REQUEST_ID]) as chunks:
        response = await _begin_stream(request, headers)
        async for chunk in relayed(chunks):
            await response.write(chunk)
    await response.write_eof()
    return response


async def _begin_stream(request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(headers={**_STREAM_HEADERS, **headers})
    await response.prepare(request)
    request[STREAM] = response
    return response
