"""What a caller's HTTP request becomes: a vote held here, a refusal in one line, or a request to be sent as it is."""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import orjson

from its_proxy.client.upstream import ClientUpstream, asking_with
from its_proxy.codesign.errors import (
    ConfigError,
    ItsError,
    ModelNotFound,
    ModelUnavailable,
    QuorumLost,
    RequestError,
    StrategyNotApplicable,
    UpstreamBroken,
    UpstreamError,
    UpstreamUnreachable,
)
from its_proxy.exchange import Exchange, Front
from its_proxy.protocol.body import read_body
from its_proxy.protocol.chat import read_model
from its_proxy.protocol.envelope import defect_reply, error_reply
from its_proxy.protocol.request_id import new_request_id
from its_proxy.protocol.sse import DONE, event
from its_proxy.served import Served
from its_proxy.service import Service
from its_proxy.upstreams.base import APPLIED_HEADER

RIGHTS = frozenset({"force", "explain", "candidates", "front"})
"""All of them: whoever wraps a client in his own process may ask as he likes."""

# What may be sent to a persona checkpoint's server past its strategy, as it holds no query.
_WITHOUT_QUERY = (
    "audio", "chat", "containers", "detokenize", "embeddings", "files", "fine_tuning", "images", "models",
    "moderations", "pooling", "rerank", "score", "skills", "tokenize", "uploads", "vector_stores", "videos",
)  # fmt: skip
# Made anew for each candidate.
_OWN_HEADERS = re.compile(
    r"(x-stainless-.*|host|connection|content-(length|type)|accept(-encoding)?|transfer-encoding|x-request-id|"
    r"idempotency-key|x-its-applied)"
)


NO_REPLY = "x-its-no-reply"
"""Stands in a reply for what `openai` raises where the server sends none: "timeout" or "connection"."""


class Events:
    """A stream's bytes, made by a task of its own. Closing them, at whatever point, or dropping them ends that task."""

    def __init__(self, exchange: Exchange) -> None:
        self._loop = asyncio.get_running_loop()
        self._head: asyncio.Future[dict[str, str]] = self._loop.create_future()
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue()
        # The task knows nothing of this object, so that one which nobody holds any more can go.
        self._making = asyncio.create_task(_make(exchange, self._head, self._chunks))

    async def begun(self) -> dict[str, str]:
        """The headers, once there is something to tell. Raises ItsError for what fails before."""
        try:
            return await self._head
        except BaseException:
            await self.aclose()
            raise

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> bytes:
        if chunk := await self._chunks.get():
            return chunk
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._making.cancel()
        await asyncio.wait({self._making})

    def cancel(self) -> None:
        """From any thread, and without waiting: whoever drops a stream may be Python's collector in the loop's own."""
        if not self._making.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._making.cancel)

    def __del__(self) -> None:
        self.cancel()


async def _make(exchange: Exchange, head: "asyncio.Future[dict[str, str]]", chunks: "asyncio.Queue[bytes]") -> None:
    """A failure after the status has left is the last event but [DONE]; nothing at all is the end."""
    try:
        async with exchange.stream() as streamed:
            head.set_result(streamed.headers)
            async for chunk in streamed.chunks:
                chunks.put_nowait(chunk)
    except Exception as error:
        if not head.done():
            head.set_exception(error)
            return
        told = error_reply(error) if isinstance(error, ItsError) else defect_reply()
        chunks.put_nowait(b"\n" + event(told.body) + DONE)
    finally:
        chunks.put_nowait(b"")  # also for one who still waits when another closes


@dataclass(frozen=True, slots=True)
class Asked:
    """A chat request. `options`: what each of its candidates carries beside the body."""

    body: bytes
    headers: Mapping[str, str]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    status: int
    headers: dict[str, str]
    body: bytes | Events


class Door:
    """`serve` makes the served model of a name at the server; without `model` that is the one it lists.

    Connections and handshakes belong to the event loop that asks, so each has a service of its own.
    """

    def __init__(
        self, upstream: ClientUpstream, serve: Callable[[str], Served], model: str | None, *, has_strategy: bool
    ) -> None:
        self.has_strategy = has_strategy
        self._upstream = upstream
        self._serve = serve
        self._model = model
        self._services: WeakKeyDictionary[asyncio.AbstractEventLoop, Service] = WeakKeyDictionary()

    async def ready(self) -> Service:
        """The service, its checkpoint proved. Raises ModelUnavailable; where no model is named, also ConfigError, and
        UpstreamError while the server cannot be asked for its list."""
        loop = asyncio.get_running_loop()
        if loop not in self._services:
            service = Service(self._serve(self._model or await self._listed()), rights=RIGHTS)
            self._services.setdefault(loop, service)  # where two ask at once, the first one's
        await self._services[loop].ready()
        return self._services[loop]

    async def close(self) -> None:
        service = self._services.pop(asyncio.get_running_loop(), None)
        if service is not None:
            await service.close()

    def route(self, method: str, path: str | None) -> "Told | Literal['vote', 'send']":
        """Where a request goes, or the refusal of one that would carry a query past the strategy.

        `path` is relative to the client's base_url, None where it lies outside.
        """
        if method != "POST":
            return "send"
        if path is None:
            error = RequestError("this copy of a wrapped client asks another server", hint="wrap the other client")
            return refusal(error, new_request_id(None))
        inside = re.sub(r"^deployments/[^/]+/", "", path.strip("/"))  # Azure's way to name a model
        if inside == "chat/completions":
            return "vote"
        if self.has_strategy and inside.partition("/")[0] not in _WITHOUT_QUERY:
            return refusal(past_strategy(inside), new_request_id(None))
        return "send"

    async def answer(self, asked: Asked) -> Told:
        """A chat request, answered as a server would answer it, errors included."""
        request_id = new_request_id(asked.headers.get("x-request-id"))
        try:
            service = await self.ready()
            with asking_with(asked.options):  # not before: the handshakes outlive this request
                return await self._answer(self._exchange(service, asked, request_id))
        except ItsError as error:
            return refusal(self._reason(error), request_id)

    def _exchange(self, service: Service, asked: Asked, request_id: str) -> Exchange:
        body = read_body(asked.body)
        if (model := read_model(body)) != service.served.name:
            raise ModelNotFound(
                f"this client is wrapped for {service.served.name}, not for {model[:200]!r}",
                param="model",
                hint="ask other models by the client as it was",
            )
        return service.exchange(body, request_id, front=Front.said(asked.headers.get(APPLIED_HEADER), is_trusted=True))

    async def _answer(self, exchange: Exchange) -> Told:
        named = {"x-request-id": exchange.request_id}
        if not exchange.chat.is_stream or exchange.chat.its.explain:
            reply = await exchange.reply()
            headers = {"content-type": "application/json", **named, **reply.headers}
            return Told(200, headers, orjson.dumps(reply.body))
        events = Events(exchange)
        headers = {"content-type": "text/event-stream", **named, **await events.begun()}
        return Told(200, headers, events)

    def _reason(self, error: ItsError) -> ItsError:
        """What `openai` has a class for: the failure behind a handshake that is pending, or behind a lost quorum."""
        if isinstance(error, ModelUnavailable) and error.is_retryable:
            return self._upstream.failure or error
        if isinstance(error, QuorumLost) and isinstance(first := error.__cause__, UpstreamError):
            return first if error_reply(first).status == error_reply(error).status else error
        return error

    async def _listed(self) -> str:
        names = [str(card.get("id")) for card in await self._upstream.models()]
        if len(names) == 1:
            return names[0]
        listed = ", ".join(ascii(name)[:80] for name in names[:8]) or "no model"
        raise ConfigError(f"which model is it? the server lists {listed}", hint="wrap(..., model=NAME)")


def past_strategy(what: str) -> StrategyNotApplicable:
    return StrategyNotApplicable(
        f"{what[:80]} would ask the model past its strategy, which needs chat messages",
        hint="use client.chat.completions",
    )


def refusal(error: ItsError, request_id: str) -> Told:
    """The upstream's own words where it refused, else ours. Only what cost nothing may be asked again as a whole."""
    told = error_reply(error)
    reply = getattr(error, "reply", None)
    status = told.status if reply is None else reply.status
    headers = {"content-type": "application/json", "x-request-id": request_id, **told.headers}
    if not error.is_retryable:
        headers["x-should-retry"] = "false"
    if reply is None:
        return Told(status, headers | _no_reply(error, status), orjson.dumps(told.body))
    if (retry_after := getattr(error, "retry_after", None)) is not None:
        headers["retry-after"] = retry_after
    return Told(status, headers | {"content-type": reply.content_type}, reply.body)


def _no_reply(error: ItsError, status: int) -> dict[str, str]:
    if status == 504:
        return {NO_REPLY: "timeout"}
    is_broken = isinstance(error, UpstreamUnreachable | UpstreamBroken) or type(error) is UpstreamError
    return {NO_REPLY: "connection"} if is_broken else {}


def options_of(headers: Mapping[str, str], params: Mapping[str, str], timeout: Any) -> dict[str, Any]:
    """Beside its own body, every candidate is the request that the caller has made."""
    kept = {name: value for name, value in headers.items() if not _OWN_HEADERS.fullmatch(name.lower())}
    return {"headers": kept, "params": dict(params), **({} if timeout is None else {"timeout": timeout})}
