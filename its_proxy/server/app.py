"""The HTTP application: routes, and the one place where errors become replies."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import orjson
import structlog
from aiohttp import web

from its_proxy.codesign.errors import ItsError, ModelNotFound, StrategyNotApplicable
from its_proxy.protocol.chat import read_body
from its_proxy.protocol.envelope import envelope, error_reply
from its_proxy.server.chat import chat_completions, json_reply, read_bytes
from its_proxy.server.context import CONTEXT, MODEL, REQUEST_ID, Context, caller_of, context_of, new_request_id

log = structlog.get_logger("its_proxy")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HTTP_ERRORS = {
    404: ("not_found", "no such route"),
    405: ("method_not_allowed", "this route has another method"),
    413: ("body_too_large", "the body is too large"),
    415: ("unsupported_encoding", "compressed bodies are not accepted"),
}
FORWARDED = ("completions", "embeddings")


def create_app(context: Context) -> web.Application:
    # The handlers read a body whole before anything else happens to it.
    app = web.Application(middlewares=[_answer], client_max_size=context.settings.max_body_bytes)
    app[CONTEXT] = context
    app.router.add_post("/v1/chat/completions", chat_completions)
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
    models = {name: served.is_serving for name, served in context.catalog.served.items()}
    is_ready = context.catalog.is_ready and not context.is_draining
    return json_reply({"status": "ready" if is_ready else "not ready", "serving": models}, status=200 if is_ready else 503)


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
    caller_of(request)
    body = read_body(await read_bytes(request))
    served, _ = await context_of(request).catalog.resolve(str(body.get("model") or ""))
    request[MODEL] = served.name
    served.require_serving()
    member = served.members[0]
    if served.is_ensemble or (member.checkpoint is not None and member.checkpoint.serve.strategy.family != "none"):
        raise StrategyNotApplicable(
            f"{served.name} is asked through its strategy, which needs chat messages",
            param="model", hint="use /v1/chat/completions",
        )  # fmt: skip
    body["model"] = member.served_name
    path = request.path.removeprefix("/v1/")
    reply = await member.upstream.forward("POST", path, orjson.dumps(body), "application/json")
    return web.Response(body=reply.body, status=reply.status, content_type=reply.content_type)


@web.middleware
async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every request: an id, a reply in OpenAI's shape whatever happens, a log line, a count."""
    context = context_of(request)
    request[REQUEST_ID] = new_request_id(request.headers.get("x-request-id"))
    request[MODEL] = "other"
    started_at = time.perf_counter()
    status = 499
    context.metrics.in_flight.inc()
    try:
        response = await _reply_or_error(request, handler)
        status = response.status
        if not response.prepared:
            response.headers["x-request-id"] = request[REQUEST_ID]
        return response
    except asyncio.CancelledError:
        context.metrics.disconnects.inc()
        raise
    finally:
        seconds = time.perf_counter() - started_at
        context.metrics.in_flight.dec()
        if request.path.startswith("/v1/"):
            context.metrics.requests.labels(request[MODEL], str(status)).inc()
            context.metrics.duration.labels(request[MODEL]).observe(seconds)
        log.info("request", id=request[REQUEST_ID], route=_route(request), model=request[MODEL], code=status,
                 ms=round(1000 * seconds, 1))  # fmt: skip


async def _reply_or_error(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ItsError as error:
        reply = error_reply(error)
        return json_reply(reply.body, reply.headers, reply.status)
    except web.HTTPException as error:
        code, message = _HTTP_ERRORS.get(error.status, ("http_error", error.reason))
        return json_reply(envelope(message, kind="invalid_request_error", code=code), status=error.status)
    except ConnectionResetError:
        raise asyncio.CancelledError from None  # the client left while we wrote to it
    except Exception:
        log.exception("a defect of its-proxy", id=request[REQUEST_ID])
        body = envelope("its-proxy failed on this request", kind="server_error", code="internal_error")
        return json_reply(body, {"x-should-retry": "false"}, 500)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"
