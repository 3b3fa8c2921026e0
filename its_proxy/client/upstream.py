"""The caller's own `openai` client as an upstream: its address, key, headers, time-outs and HTTP client are kept."""

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import openai
import orjson

from its_proxy.codesign.errors import (
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from its_proxy.upstreams.base import APPLIED, APPLIED_HEADER, Body, Completion, RawReply
from its_proxy.upstreams.replies import check_completion, read_cards, read_object

_CHAT = "/chat/completions"
_asked: ContextVar[Mapping[str, Any] | None] = ContextVar("asked", default=None)


@contextmanager
def asking_with(options: Mapping[str, Any]) -> Iterator[None]:
    """Calls in this block carry what the caller's request carries beside its body: `headers`, `params`, `timeout`."""
    token = _asked.set(options)
    try:
        yield
    finally:
        _asked.reset(token)


def http_of(client: openai.OpenAI | openai.AsyncOpenAI) -> ModuleType:
    """The module that a client sends its requests with: `httpx`, or its successor `httpx2` (`openai` 3)."""
    kinds = [kind for kind in type(client._client).__mro__ if kind.__name__ in ("Client", "AsyncClient")]
    return sys.modules[kinds[-1].__module__.partition(".")[0]]


class ClientUpstream:
    """`failure`: what the last call failed with, as the server or the client library has told it.

    `poll_s`: how often its model list is worth looking at.
    """

    poll_s = 10.0

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self.name = client.base_url.host
        self.failure: UpstreamError | None = None
        self._client = client
        self._http = http_of(client)

    async def complete(self, body: Body, request_id: str) -> Completion:
        response = await self._post(_CHAT, body, request_id)
        return check_completion(read_object(response.content))

    @asynccontextmanager
    async def stream(self, body: Body, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        sent = {**body, "stream": True}
        stream = await self._post(_CHAT, sent, request_id, stream=True, stream_cls=openai.AsyncStream[object])
        try:
            async with aclosing(self._chunks(stream.response)) as chunks:
                yield chunks
        finally:
            await stream.close()

    async def models(self) -> Sequence[Mapping[str, Any]]:
        with self._told():
            response = await self._client.get(
                "/models", cast_to=self._http.Response, options=_options(self._client, None)
            )
        return read_cards(read_object(response.content))

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        """JSON alone, by POST: that is what a handshake asks."""
        # vLLM's own routes stand beside OpenAI's, not below them.
        base = str(self._client.base_url).rstrip("/")
        url = f"{base.removesuffix('/v1')}/{path}" if path == "tokenize" else f"/{path}"
        response = await self._post(url, orjson.loads(body), None)
        return RawReply(response.status_code, response.headers.get("content-type", ""), response.content)

    async def close(self) -> None:
        """The client is its caller's to close."""

    async def _post(self, path: str, body: Body, request_id: str | None, **how: Any) -> Any:
        how = {"cast_to": object, **how} if how else {"cast_to": self._http.Response}
        with self._told():
            return await self._client.post(path, body=dict(body), options=_options(self._client, request_id), **how)

    async def _chunks(self, response: Any) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in response.aiter_bytes():
                yield chunk
        except self._http.TimeoutException as error:
            raise UpstreamTimeout(f"upstream {self.name} went silent in the middle of a reply") from error
        except self._http.HTTPError as error:
            raise UpstreamError(f"upstream {self.name} broke off in the middle of a reply") from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        """`openai`'s errors as the family that a vote understands."""
        try:
            yield
        except openai.APIError as error:
            self.failure = _upstream_error(self.name, error)
            raise self.failure from error
        self.failure = None


def _options(client: openai.AsyncOpenAI, request_id: str | None) -> Any:
    """One call, never repeated by the client library: the vote knows when a second try is worth its cost."""
    asked = _asked.get() or {}
    # `openai` merges headers by their very spelling, and sends two that differ in it both.
    spelt = {name.lower(): name for name in ("Authorization", *client.default_headers)}
    headers = {spelt.get(name.lower(), name): value for name, value in asked.get("headers", {}).items()}
    if request_id is not None:
        headers["x-request-id"] = request_id
    if (pair_id := APPLIED.get()) is not None:
        headers[APPLIED_HEADER] = pair_id
    return {**asked, "headers": headers, "max_retries": 0}


def _upstream_error(name: str, error: openai.APIError) -> UpstreamError:
    if isinstance(error, openai.APITimeoutError):
        return UpstreamTimeout(f"upstream {name} sent nothing in time")
    if isinstance(error, openai.APIStatusError):
        return _refusal(name, error)
    if type(error.__cause__).__name__ == "ConnectError":
        return UpstreamUnreachable(f"upstream {name} cannot be reached", hint="is it running?")
    return UpstreamBroken(f"upstream {name} broke the connection")


def _refusal(name: str, error: openai.APIStatusError) -> UpstreamError:
    status, headers = error.status_code, error.response.headers
    reply = RawReply(status, headers.get("content-type", "application/json"), error.response.content)
    if status in (429, 503):
        return Busy(f"upstream {name} is busy", reply, headers.get("retry-after"))
    return Rejected(f"upstream {name} answered {status}", reply)


class Rejected(UpstreamRejected):
    """Keeps the reply: what the caller's server says is for the caller."""

    def __init__(self, message: str, reply: RawReply) -> None:
        super().__init__(message, status=reply.status)
        self.reply = reply


class Busy(UpstreamBusy):
    """The same; `openai` itself waits as long as `retry_after` says."""

    def __init__(self, message: str, reply: RawReply, retry_after: str | None) -> None:
        super().__init__(message, status=reply.status)
        self.reply = reply
        self.retry_after = retry_after
