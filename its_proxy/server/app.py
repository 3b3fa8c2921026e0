"""The HTTP application: routes, and the one place where errors become replies."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from its_proxy.codesign.errors import ItsError, ModelNotFound, RequestError, StrategyNotApplicable
from its_proxy.protocol.body import read_body
from its_proxy.protocol.chat import client_max_tokens, read_model, refuse_denied
from its_proxy.protocol.envelope import ErrorReply, defect_reply, envelope, error_reply
from its_proxy.protocol.limits import refuse_excess, refuse_many_choices, refuse_many_tokens
from its_proxy.protocol.request_id import new_request_id
from its_proxy.server.chat import chat_completions, json_reply, read_bytes, responses
from its_proxy.server.context import (
    CONTEXT,
    DIALECT,
    MODEL,
    PHASE,
    REQUEST_ID,
    SPAN,
    STREAM,
    Context,
    caller_of,
    context_of,
    door_of,
    front_of,
    observer_of,
    tenant_of,
    traits_of,
)
from its_proxy.server.refusals import ENDS_CONNECTION, refuse_ambiguous, refuse_beyond_limit
from its_proxy.settings import Settings
from its_proxy.upstreams.base import applied, traced

log = structlog.get_logger("its_proxy")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HTTP_ERRORS = {
    404: ("not_found", "no such route"),
    405: ("method_not_allowed", "this route has another method"),
    408: ("request_timeout", "the body did not arrive in time"),
    413: ("body_too_large", "the body is too large"),
    415: ("unsupported_encoding", "compressed bodies are not accepted"),
}
CANCELLED_S = 0.1
_BAD = "invalid_request_error"
FORWARDED = ("completions", "embeddings")
_OPERATIONS = {"completions": "text_completion", "embeddings": "embeddings"}


def create_runner(context: Context) -> web.AppRunner:
    """The application for a `Site`: a client that leaves cancels its handler."""
    return web.AppRunner(
        create_app(context),
        handler_cancellation=True,
        # For handlers that are cancelled in the end: those that may still finish have been waited for before.
        shutdown_timeout=CANCELLED_S,
    )


def create_app(context: Context) -> web.Application:
    app = web.Application(middlewares=[_answer], client_max_size=context.settings.max_body_bytes)
    app[CONTEXT] = context
    app.on_response_prepare.append(_stamp)
    app.router.add_post("/v1/chat/completions", chat_completions)
    app.router.add_post("/v1/responses", responses)
    app.router.add_get("/v1/models", list_models)
    app.router.add_get("/v1/models/{name:.+}", show_model)
    for path in FORWARDED:
        app.router.add_post(f"/v1/{path}", forward)
    app.router.add_get("/livez", alive)
    app.router.add_get("/health", alive)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", metrics)
    return app


async def alive(request: web.Request) -> web.Response:
    return json_reply({"status": "alive"})


async def ready(request: web.Request) -> web.Response:
    """200 while at least one model serves and no shutdown has begun."""
    context = context_of(request)
    is_ready = context.is_ready
    # Counts, not names: this route is open to everyone.
    serving = [served.is_serving for served in context.catalog.served.values()]
    body = {"status": "ready" if is_ready else "not ready", "models": len(serving), "serving": sum(serving)}
    return json_reply(body, status=200 if is_ready else 503)


async def metrics(request: web.Request) -> web.Response:
    caller_of(request)
    return web.Response(body=context_of(request).metrics.exposition(), content_type="text/plain", charset="utf-8")


async def list_models(request: web.Request) -> web.Response:
    caller_of(request)
    return json_reply({"object": "list", "data": await context_of(request).catalog.cards()})


async def show_model(request: web.Request) -> web.Response:
    caller_of(request)
    name = request.match_info["name"]
    for card in await context_of(request).catalog.cards():
        if card.get("id") == name:
            return json_reply(card)
    raise ModelNotFound(f"no model named {name[:200]!r} is served here", param="model")


async def forward(request: web.Request) -> web.Response:
    """Routes without chat messages: passed on unchanged, but never past a strategy."""
    caller = caller_of(request)
    body = read_body(await read_bytes(request))
    refuse_denied(body)
    refuse_excess(body)
    _refuse_costly(body, context_of(request).settings)
    tenant = tenant_of(request, caller, body)
    door = door_of(request, caller, tenant)
    if "its" in body:
        raise RequestError("this route neither rewrites nor votes", param="its", hint="use /v1/chat/completions")
    served, overrides = await context_of(request).catalog.resolve(read_model(body), traits_of(body, caller, None))
    request[MODEL] = served.name
    if overrides:
        raise RequestError("this route knows no model suffix", param="model", hint="use /v1/chat/completions")
    served.require_serving()
    checkpoint = served.checkpoint
    front = front_of(request, caller)
    is_rewritten = front.has_applied(served)
    has_strategy = served.is_ensemble or (checkpoint is not None and checkpoint.serve.strategy.family != "none")
    if has_strategy and not is_rewritten:
        raise StrategyNotApplicable(
            f"{served.name} is asked through its strategy, which needs chat messages",
            param="model", hint="use /v1/chat/completions",
        )  # fmt: skip
    [member] = served.members()
    body["model"] = member.served_name
    path = request.path.removeprefix("/v1/")
    served.require_open()
    async with door.admitted([1]):
        call = observer_of(request).call(member, operation=_OPERATIONS[path])
        with call as calling, applied(front.mark), traced(calling.traceparent):
            reply = await member.upstream.forward("POST", path, orjson.dumps(body), "application/json")
    return web.Response(body=reply.body, status=reply.status, content_type=reply.content_type)


def _refuse_costly(body: Mapping[str, Any], settings: Settings) -> None:
    refuse_many_choices(body, settings.max_n)
    prompts = body.get("prompt")
    # A list of numbers is one prompt, as tokens.
    n_prompts = len(prompts) if isinstance(prompts, list) and not isinstance(next(iter(prompts), 0), int) else 1
    n_asked = n_prompts * max((value for value in map(body.get, ("n", "best_of")) if isinstance(value, int)), default=1)
    refuse_many_tokens(n_asked * (client_max_tokens(body) or 0), settings.max_request_tokens)


async def _stamp(request: web.Request, response: web.StreamResponse) -> None:
    """On every reply, streams included, before its headers leave."""
    # aiohttp refuses some requests on its own, before any middleware gave them an id.
    response.headers["x-request-id"] = request.get(REQUEST_ID) or new_request_id(None)
    response.headers["Server"] = "its-proxy"
    if context_of(request).is_draining:
        response.force_close()
        response.headers["Connection"] = "close"


@web.middleware
async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every request: an id, a reply in OpenAI's shape whatever happens, a log line, a count."""
    context = context_of(request)
    request[REQUEST_ID] = new_request_id(request.headers.get("x-request-id"))
    request[MODEL], request[PHASE] = "other", "receiving"
    started_at = time.perf_counter()
    status = 499
    context.metrics.in_flight.inc()
    if context.traces is not None and request.path.startswith("/v1/"):
        request[SPAN] = context.traces.request(
            request.method, _route(request), request[REQUEST_ID], request.headers.get("traceparent")
        )
    try:
        response = await _reply_or_error(request, handler)
        status = response.status
        return response
    except asyncio.CancelledError:
        context.metrics.disconnects.labels(request[PHASE]).inc()
        raise
    finally:
        seconds = time.perf_counter() - started_at
        context.metrics.in_flight.dec()
        if request.path.startswith("/v1/"):
            context.metrics.requests.labels(request[MODEL], str(status)).inc()
            context.metrics.duration.labels(request[MODEL]).observe(seconds)
        if (span := request.get(SPAN)) is not None:
            span.end(status, request[MODEL])
        log.info("request", id=request[REQUEST_ID], route=_route(request), model=request[MODEL], code=status,
                 ms=round(1000 * seconds, 1))  # fmt: skip


async def _reply_or_error(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        refuse_ambiguous(request)
        refuse_beyond_limit(request)
        return await handler(request)
    except ItsError as error:
        reply = error_reply(error)
    except web.HTTPException as error:
        # A body that came too slowly keeps its error, and the error's frames the request and so the body: a circle
        # that only the collector could break, which holds everybody up where a crowd has left thousands.
        error.__traceback__ = None
        reply = _http_error_reply(error)
    except ConnectionResetError:
        raise asyncio.CancelledError from None  # the client left while we wrote to it
    except RequestPayloadError as error:
        # Chunks that are none: what follows on this connection could be read as anything.
        error.__traceback__ = None
        reply = ErrorReply(400, envelope("the body is not framed as HTTP", kind=_BAD, code="invalid_http"))
    except Exception:
        log.exception("a defect of its-proxy", id=request[REQUEST_ID])
        reply = defect_reply()
    if (stream := request.get(STREAM)) is not None:
        return await _end_with_error(request, stream, reply)
    response = json_reply(reply.body, reply.headers, reply.status)
    if reply.status in (408, 413) or reply.body["error"]["code"] in ENDS_CONNECTION:
        response.force_close()
    return response


async def _end_with_error(request: web.Request, stream: web.StreamResponse, reply: ErrorReply) -> web.StreamResponse:
    """The status has left already: the error is the stream's last event but [DONE]."""
    log.warning("a stream ended with an error", id=request[REQUEST_ID], code=reply.status)
    try:
        await stream.write(request[DIALECT].broken(reply.body))
        await stream.write_eof()
    except ConnectionResetError:
        raise asyncio.CancelledError from None
    return stream


def _http_error_reply(error: web.HTTPException) -> ErrorReply:
    code, message = _HTTP_ERRORS.get(error.status, ("http_error", error.reason))
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    return ErrorReply(error.status, envelope(message, kind=_BAD, code=code), headers)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"
