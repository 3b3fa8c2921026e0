"""The HTTP application: routes, and the one place where errors become replies."""

import asyncio
import time

import structlog

from its_proxy.codesign.errors import ItsError, ModelNotFound
from its_proxy.protocol.envelope import ErrorReply, defect_reply, envelope, error_reply
from its_proxy.protocol.request_id import new_request_id
from its_proxy.server.chat import chat_completions, json_reply, responses
from its_proxy.server.completions import completions
from its_proxy.server.context import Context, caller_of
from its_proxy.server.http.request import Refused, Request
from its_proxy.server.http.response import Response, Stream
from its_proxy.server.http.router import Handler, Router
from its_proxy.server.logs import tell_request
from its_proxy.server.passed import FORM_ROUTES, JSON_ROUTES, pass_form, pass_json
from its_proxy.server.playground import playground
from its_proxy.server.refusals import ENDS_CONNECTION, refuse_ambiguous, refuse_beyond_limit, refuse_expectation

log = structlog.get_logger("its_proxy")
_HTTP_ERRORS = {
    # Chunks that are none: what follows on this connection could be read as anything.
    400: ("invalid_http", "the body is not framed as HTTP"),
    404: ("not_found", "no such route"),
    405: ("method_not_allowed", "this route has another method"),
    408: ("request_timeout", "the body did not arrive in time"),
    413: ("body_too_large", "the body is too large"),
    415: ("unsupported_encoding", "compressed bodies are not accepted"),
    417: ("expectation_failed", "nothing but 100-continue can be expected"),
}
_BAD = "invalid_request_error"


class App:
    """Its routes, and what its connections ask of it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.router = router = Router()
        router.post("/v1/chat/completions", chat_completions)
        router.post("/v1/responses", responses)
        router.get("/v1/models", list_models)
        router.get("/v1/models/{name}", show_model)
        router.post("/v1/completions", completions)
        for path in JSON_ROUTES:
            router.post(path, pass_json)
        for path in FORM_ROUTES:
            router.post(path, pass_form)
        router.get("/livez", alive)
        router.get("/health", alive)
        router.get("/readyz", ready)
        router.get("/metrics", metrics)
        for path in ("/playground", "/playground/{name}"):
            router.get(path, playground)

    @property
    def is_ending(self) -> bool:
        return self.context.is_draining

    @property
    def max_body_bytes(self) -> int:
        return self.context.settings.max_body_bytes

    async def answer(self, request: Request) -> Response | Stream:
        """Every request: an id, a reply in OpenAI's shape whatever happens, a log line, a count."""
        request.context = context = self.context
        request.id = new_request_id(request.header(b"x-request-id"))
        started_at = time.perf_counter()
        status = 499
        context.metrics.n_in_flight += 1
        try:
            try:
                reply = await self._handler(request)(request)
            except Exception as error:
                reply = await self._told(request, error)
            status = reply.status
            return reply
        except asyncio.CancelledError:
            context.metrics.disconnects.add(1, request.phase)
            raise
        finally:
            context.metrics.n_in_flight -= 1
            self._tell(request, status, time.perf_counter() - started_at)

    def _tell(self, request: Request, status: int, seconds: float) -> None:
        model = request.model
        if _is_counted(request):
            self.context.metrics.requests.add(1, model, str(status))
            self.context.metrics.duration.observe(seconds, model)
        if request.span is not None:
            request.span.end(status, model)
        tell_request(id=request.id, route=request.route, model=model, code=status, ms=round(1000 * seconds, 1))

    async def _told(self, request: Request, error: Exception) -> Response | Stream:
        if isinstance(error, ConnectionResetError):
            raise asyncio.CancelledError from None  # the client left while we wrote to it
        if isinstance(error, ItsError):
            reply = error_reply(error)
        elif isinstance(error, Refused):
            reply = _refused_reply(error)
        else:
            log.exception("a defect of its-proxy", id=request.id, exc_info=error)
            reply = defect_reply()
        if request.stream is not None:
            return await _end_with_error(request, request.stream, reply)
        response = json_reply(reply.body, reply.headers, reply.status)
        response.is_last = reply.status in (408, 413) or reply.body["error"]["code"] in ENDS_CONNECTION
        return response

    def _handler(self, request: Request) -> Handler:
        """Raises RequestError, TooManyConnections and Refused."""
        route = self.router.find(request)
        request.route = route.path
        traces = self.context.traces
        if traces is not None and _is_counted(request):
            traceparent = request.header(b"traceparent")
            request.span = traces.request(request.method, route.path, request.id, traceparent)
        # Whoever has none of these is refused for none of them.
        if request.repeated or b"host" not in request.fields or not request.target.startswith("/"):
            refuse_ambiguous(request)
        if request.connection.is_spare:
            refuse_beyond_limit(request)
        handler = route.handler(request.method)
        if b"expect" in request.fields:
            refuse_expectation(request)
        return handler


async def alive(request: Request) -> Response:
    return json_reply({"status": "alive"})


async def ready(request: Request) -> Response:
    """200 while at least one model serves and no shutdown has begun."""
    context = request.context
    is_ready = context.is_ready
    # Counts, not names: this route is open to everyone.
    serving = [served.is_serving for served in context.catalog.served.values()]
    body = {"status": "ready" if is_ready else "not ready", "models": len(serving), "serving": sum(serving)}
    return json_reply(body, status=200 if is_ready else 503)


async def metrics(request: Request) -> Response:
    caller_of(request)
    context = request.context
    told = context.metrics.exposition() if context.siblings is None else await context.siblings.exposition()
    return Response(told, content_type="text/plain; charset=utf-8")


async def list_models(request: Request) -> Response:
    caller_of(request)
    return json_reply({"object": "list", "data": await request.context.catalog.cards()})


async def show_model(request: Request) -> Response:
    caller_of(request)
    name = request.tail
    for card in await request.context.catalog.cards():
        if card.get("id") == name:
            return json_reply(card)
    raise ModelNotFound(f"no model named {name[:200]!r} is served here", param="model")


def _is_counted(request: Request) -> bool:
    """Whether it asks for what models do, and not how this server does."""
    return request.path.startswith("/v1/") or request.path in JSON_ROUTES


async def _end_with_error(request: Request, stream: Stream, reply: ErrorReply) -> Stream:
    """The status has left already: the error is the stream's last event but [DONE]."""
    log.warning("a stream ended with an error", id=request.id, code=reply.status)
    try:
        stream.write(request.dialect.broken(reply.body))
        await stream.caught_up()
        stream.end()
    except ConnectionResetError:
        raise asyncio.CancelledError from None
    return stream


def _refused_reply(error: Refused) -> ErrorReply:
    code, message = _HTTP_ERRORS[error.status]
    headers = {} if error.allow is None else {"Allow": error.allow}
    return ErrorReply(error.status, envelope(message, kind=_BAD, code=code), headers)
