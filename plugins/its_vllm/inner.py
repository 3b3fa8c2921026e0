"""vLLM's own application as an upstream: each candidate is one more request to it, without a network between.

Leaving a call tells the application what a closed connection would have told it, so vLLM aborts the generation.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import orjson

from its_proxy.codesign.errors import UpstreamBusy, UpstreamError, UpstreamRejected
from its_proxy.upstreams.base import APPLIED_HEADER, Body, Completion, RawReply
from its_proxy.upstreams.replies import check_completion, read_cards, read_object
from its_vllm.asgi import App, AppReply, Message, Scope

MAX_WAITING = 64
GRACE_S = 5.0
WHO = "vLLM"
# Of the client's request; the application gets its own, for each call. Replies must be read, so not compressed.
_RESET = {
    *(b"content-length", b"content-type", b"transfer-encoding"),
    *(b"accept-encoding", b"x-request-id", APPLIED_HEADER.encode()),
}
_caller: ContextVar[Scope | None] = ContextVar("caller", default=None)


class Refused(UpstreamRejected):
    """vLLM's own refusal, which a client gets as vLLM wrote it."""

    def __init__(self, reply: AppReply) -> None:
        super().__init__(f"vLLM answered {reply.status}", status=reply.status)
        self.reply = reply


@contextmanager
def asking_for(scope: Scope) -> Iterator[None]:
    """Calls in this block are made as by the client whose request this is: with its key, from its address."""
    token = _caller.set(scope)
    try:
        yield
    finally:
        _caller.reset(token)


class InnerApp:
    """`own`: the scope of calls that no client asked for, as the handshake's; `revision`: of models from the Hub."""

    name = "vllm"

    def __init__(self, app: App, own: Scope, revision: str | None = None) -> None:
        self._app = app
        self._own = own
        self._revision = revision
        self._ending: set[asyncio.Task[None]] = set()

    async def complete(self, body: Body, request_id: str) -> Completion:
        reply = await self._whole("POST", "/v1/chat/completions", orjson.dumps(dict(body)), request_id)
        return check_completion(read_object(reply.body, WHO), WHO)

    @asynccontextmanager
    async def stream(self, body: Body, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        data = orjson.dumps({**body, "stream": True})
        async with self._call("POST", "/v1/chat/completions", data, request_id) as messages:
            start = await anext(messages)
            if start["status"] != 200:
                raise _refusal(await _read(start, messages))
            async with aclosing(_chunks(messages)) as chunks:
                yield chunks

    async def models(self) -> Sequence[Mapping[str, Any]]:
        reply = await self._whole("GET", "/v1/models", b"", None)
        return [_placed(card, self._revision) for card in read_cards(read_object(reply.body, WHO), WHO)]

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        route = "/tokenize" if path == "tokenize" else f"/v1/{path}"
        reply = await self._whole(method, route, body, None)
        return RawReply(reply.status, content_type, reply.body)

    async def refusal_of(self, caller: Scope) -> AppReply | None:
        """What vLLM says to a caller whose key it does not know: asked of a route that costs nothing."""
        with asking_for(caller):
            async with self._call("GET", "/v1/models", b"", None) as messages:
                reply = await _read(await anext(messages), messages)
        return reply if reply.status in (401, 403) else None

    async def close(self) -> None:
        """The application is vLLM's."""

    async def _whole(self, method: str, path: str, body: bytes, request_id: str | None) -> AppReply:
        """Raises UpstreamError for anything but a 200."""
        async with self._call(method, path, body, request_id) as messages:
            reply = await _read(await anext(messages), messages)
        if reply.status != 200:
            raise _refusal(reply)
        return reply

    @asynccontextmanager
    async def _call(
        self, method: str, path: str, body: bytes, request_id: str | None
    ) -> AsyncIterator[AsyncGenerator[Message, None]]:
        """One request in a task of its own; the messages of its reply. Leaving ends it."""
        arrived: asyncio.Queue[Message | None] = asyncio.Queue(MAX_WAITING)
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        has_left = asyncio.Event()

        async def receive() -> Message:
            if waiting:
                return waiting.pop()
            await has_left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message | None) -> None:
            if has_left.is_set():
                await asyncio.sleep(0)  # nobody listens, and the others must have their turn
            else:
                await arrived.put(message)

        async def run() -> None:
            try:
                await self._app(self._scope(method, path, len(body), request_id), receive, send)
            finally:
                await send(None)

        task = asyncio.create_task(run())
        try:
            async with aclosing(_messages(arrived, task)) as messages:
                yield messages
        finally:
            has_left.set()
            while not arrived.empty():
                arrived.get_nowait()  # room for a send that waits for it
            ending = asyncio.create_task(_end(task))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            await asyncio.shield(ending)

    def _scope(self, method: str, path: str, n_bytes: int, request_id: str | None) -> Scope:
        scope = _caller.get() or self._own
        headers = [(name, value) for name, value in scope["headers"] if name not in _RESET]
        headers.append((b"content-length", str(n_bytes).encode()))
        if method == "POST":
            headers.append((b"content-type", b"application/json"))
        if request_id is not None:
            headers.append((b"x-request-id", request_id.encode("latin-1", "replace")))
        full = (scope.get("root_path") or "") + path
        changed = {"method": method, "path": full, "raw_path": full.encode(), "query_string": b"", "headers": headers}
        return {**scope, **changed, "state": dict(scope.get("state") or {})}


async def _end(task: "asyncio.Task[None]") -> None:
    """Lets the application notice that its client has left. Cancelled at once, vLLM would not pass that on to the task
    that generates, which would go on for nobody."""
    await asyncio.wait({task}, timeout=GRACE_S)
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # told by _messages, or of no interest to one who has left


async def _messages(
    arrived: "asyncio.Queue[Message | None]", task: "asyncio.Task[None]"
) -> AsyncGenerator[Message, None]:
    while (message := await arrived.get()) is not None:
        yield message
    await asyncio.wait({task})
    if not task.cancelled() and task.exception() is not None:
        raise UpstreamError("vLLM failed on this request", hint="its log says why")
    raise UpstreamError("vLLM ended its reply in the middle")


async def _read(start: Message, messages: AsyncIterator[Message]) -> AppReply:
    body = b"".join([chunk async for chunk in _chunks(messages)])
    return AppReply(start["status"], tuple(start.get("headers") or ()), body)


async def _chunks(messages: AsyncIterator[Message]) -> AsyncGenerator[bytes, None]:
    async for message in messages:
        if message["type"] == "http.response.body":
            if chunk := message.get("body", b""):
                yield chunk
            if not message.get("more_body", False):
                return


def _refusal(reply: AppReply) -> UpstreamError:
    if reply.status in (429, 503):
        return UpstreamBusy("vLLM is busy", status=reply.status)
    return Refused(reply)


def _placed(card: Mapping[str, Any], revision: str | None) -> dict[str, Any]:
    """The card with a root that is a folder here, if it is one: vLLM runs in this process, and in its folder. What is
    none lies on the Hub, a base model at the revision that vLLM was started with."""
    root = card.get("root")
    if isinstance(root, str) and os.path.isdir(root):
        return {**card, "root": os.path.abspath(root)}
    if isinstance(root, str) and revision and not card.get("parent"):
        return {**card, "root": f"{root}@{revision}"}
    return dict(card)
