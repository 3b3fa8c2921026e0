"""vLLM, or any server that speaks OpenAI's HTTP, as an upstream; every call can be cancelled alone.

Closing a plain call's connection aborts its generation in vLLM within some 60 ms, so cancelling is
simply leaving: the connection of a call that was not read to its end is closed, never reused.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from its_proxy import __version__
from its_proxy.codesign.errors import (
    BadPayload,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
    UpstreamUntrusted,
)
from its_proxy.upstreams.base import APPLIED, APPLIED_HEADER, TRACEPARENT, Body, Completion, RawReply, is_text
from its_proxy.upstreams.replies import check_completion, check_text_completion, read_cards, read_object
from its_proxy.upstreams.retries import RetryBudget, is_tried_once, may_try_again
from its_proxy.upstreams.transport import Asked, Response, Transport, TransportError, Unreachable, Untrusted
from its_proxy.upstreams.turns import Turns
from its_proxy.upstreams.wire import WireTransport
from its_proxy.upstreams.written import Pieces, over, pieces_of

MAX_REPLY_BYTES = 8 * 2**20
_JSON = "application/json"
_STREAM = {"stream": True}
_CHAT, _TEXT = "chat/completions", "completions"
_BESIDE = ("tokenize", "detokenize")


class HttpUpstream:
    """`url` ends where the routes begin (`http://gpu:8000/v1`); times are in seconds.

    `poll_s`: how often its model list is worth looking at. `identity`: whatever its owner tells it apart by.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        key: str | None = None,
        connect_timeout_s: float = 5.0,
        first_byte_timeout_s: float = 600.0,
        idle_timeout_s: float = 60.0,
        max_connections: int = 1024,
        cache_salt: bool | None = None,
        poll_s: float = 10.0,
        identity: str = "",
    ) -> None:
        self.name = name
        self.poll_s = poll_s
        self.identity = identity
        self._base = urlsplit(url).path.rstrip("/")
        fields = {"Accept-Encoding": "identity", "User-Agent": f"its-proxy/{__version__}"}
        if key:
            fields["Authorization"] = f"Bearer {key}"
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._transport = _transport(url, fields, max_connections, connect_timeout_s)
        self._budget = RetryBudget()
        self._turns = Turns()
        self._cache_salt = cache_salt
        self._is_vllm = False

    @property
    def takes_cache_salt(self) -> bool:
        """Whether a `cache_salt` may be sent: as set, else where the server has said that it is vLLM."""
        return self._is_vllm if self._cache_salt is None else self._cache_salt

    async def complete(self, body: Body, request_id: str) -> Completion:
        is_prompt = is_text(body)
        response = await self._ask("POST", _TEXT if is_prompt else _CHAT, pieces_of(body), _JSON, request_id)
        try:
            data = response.whole()  # mostly it came with its head
            if data is None or len(data) > MAX_REPLY_BYTES:
                data = await self._read(response)
            return check_text_completion(read_object(data)) if is_prompt else check_completion(read_object(data))
        finally:
            response.close()

    @asynccontextmanager
    async def stream(self, body: Body, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        path, data = _TEXT if is_text(body) else _CHAT, pieces_of(over(body, _STREAM))
        response = await self._ask("POST", path, data, _JSON, request_id)
        try:
            if _content_type(response) != "text/event-stream":
                raise BadPayload("the upstream was asked for a stream and sent something else")
            async with aclosing(self._chunks(response)) as chunks:
                yield chunks
        finally:
            response.close()

    async def models(self) -> Sequence[Mapping[str, Any]]:
        try:
            response = await self._open("GET", "models", [], None, None)
        except UpstreamRejected as error:
            if error.status != 404:
                raise
            url = self._base or "/"
            said = f"upstream {self.name} has no list of models below {url}: it answered 404"
            raise UpstreamRejected(said, status=404, hint="an OpenAI server's URL mostly ends in /v1") from None
        with closing(response):
            cards = read_cards(read_object(await self._read(response)))
        self._is_vllm = any(card.get("owned_by") == "vllm" for card in cards)
        return cards

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        response = await self._ask(method, path, [body], content_type, None)
        with closing(response):
            return RawReply(response.status, _content_type(response), await self._read(response))

    async def close(self) -> None:
        await self._transport.close()

    async def _ask(
        self, method: str, path: str, data: Pieces, content_type: str | None, request_id: str | None
    ) -> Response:
        """Opens a call, and once more where the first certainly cost the upstream nothing and the budget allows."""
        if is_tried_once():
            return await self._open(method, path, data, content_type, request_id)
        self._budget.earn()
        try:
            return await self._open(method, path, data, content_type, request_id)
        except (UpstreamUnreachable, UpstreamBusy) as error:
            wait_s = getattr(error, "retry_after_s", None) or 0.0
            if wait_s > 1.0 or not may_try_again() or not self._budget.spend():
                raise
        await asyncio.sleep(max(wait_s, random.uniform(0.02, 0.1)))
        return await self._open(method, path, data, content_type, request_id)

    async def _open(
        self,
        method: str,
        path: str,
        data: Pieces,
        content_type: str | None,
        request_id: str | None,
    ) -> Response:
        """Sends, and waits for the status; raises anything but a plain 200."""
        asking = _asked_again if content_type == _JSON else _asked
        asked = asking(self._base, method, path, content_type, APPLIED.get())
        if (traceparent := TRACEPARENT.get()) is not None:
            asked = replace(asked, fields={**asked.fields, "traceparent": traceparent})
        try:
            response = await self._transport.open(asked, request_id, data, self._first_byte_timeout_s)
        except Untrusted:
            raise UpstreamUntrusted(
                f"upstream {self.name} has no TLS certificate that is trusted here", hint="has it expired?"
            ) from None
        except Unreachable:
            raise UpstreamUnreachable(f"upstream {self.name} cannot be reached", hint="is it running?") from None
        except TimeoutError:
            raise UpstreamTimeout(f"upstream {self.name} sent nothing in time") from None
        except TransportError:
            raise UpstreamBroken(f"upstream {self.name} broke the connection") from None
        if response.status != 200:
            response.close()
            raise _refusal(self.name, response)
        if (response.field("content-encoding") or "identity") != "identity":
            response.close()  # it could inflate without bound
            raise BadPayload(f"upstream {self.name} sent a compressed reply that was not asked for")
        return response

    async def _read(self, response: Response) -> bytes:
        """The whole body, bounded in size and in silence."""
        body = await self._next_chunk(response)
        # Mostly that is all of it. What is longer waits for its turn while it grows.
        more = await self._next_chunk(response) if body else b""
        return await self._read_on(response, bytearray(body + more)) if more else body

    async def _read_on(self, response: Response, body: bytearray) -> bytes:
        try:
            async with self._turns.one() as turn:
                while True:
                    if len(body) > MAX_REPLY_BYTES:
                        raise BadPayload(f"upstream {self.name} sent more than {MAX_REPLY_BYTES} bytes")
                    await turn.grown_to(len(body))
                    if not (chunk := await self._next_chunk(response)):
                        return bytes(body)
                    body += chunk
        finally:
            body.clear()  # where this fails, the error may live on for long, and this frame with it

    async def _chunks(self, response: Response) -> AsyncGenerator[bytes, None]:
        # A stream's headers come at once, its first event when the request leaves the server's queue.
        timeout_s = self._first_byte_timeout_s
        try:
            while chunk := await response.chunk(timeout_s):
                yield chunk
                timeout_s = self._idle_timeout_s
        except (TimeoutError, TransportError) as error:
            raise self._cut_off(error) from None

    async def _next_chunk(self, response: Response) -> bytes:
        """Whatever has come, or nothing at the end."""
        try:
            return await response.chunk(self._idle_timeout_s)
        except (TimeoutError, TransportError) as error:
            raise self._cut_off(error) from None

    def _cut_off(self, error: Exception) -> UpstreamError:
        if isinstance(error, TimeoutError):
            return UpstreamTimeout(f"upstream {self.name} went silent in the middle of a reply")
        return UpstreamError(f"upstream {self.name} broke off in the middle of a reply")


def _asked(base: str, method: str, path: str, content_type: str | None, pair_id: str | None) -> Asked:
    fields = {"Content-Type": content_type} if content_type else {}
    if pair_id is not None:
        fields[APPLIED_HEADER] = pair_id
    # vLLM's own routes stand beside OpenAI's, not below them.
    root = base.removesuffix("/v1") if path in _BESIDE else base
    return Asked(method, f"{root}/{path}", fields)


_asked_again = lru_cache(maxsize=64)(_asked)
"""For what is mostly asked: the calls of one pair to one route differ in their ids and bodies only."""


def _transport(url: str, fields: dict[str, str], max_connections: int, connect_timeout_s: float) -> Transport:
    if urlsplit(url).scheme != "https":
        return WireTransport(url, fields, max_connections=max_connections, connect_timeout_s=connect_timeout_s)
    from its_proxy.upstreams.over_aiohttp import AiohttpTransport  # takes long to import, and much memory

    return AiohttpTransport(url, fields, max_connections=max_connections, connect_timeout_s=connect_timeout_s)


def _content_type(response: Response) -> str:
    """Without its parameters; empty where none is told."""
    return (response.field("content-type") or "").partition(";")[0].strip().lower()


def _refusal(name: str, response: Response) -> UpstreamError:
    status = response.status
    if status in (429, 503):
        return UpstreamBusy(
            f"upstream {name} is busy", status=status, retry_after_s=_retry_after(response.field("retry-after"))
        )
    return UpstreamRejected(
        f"upstream {name} answered {status}", status=status, hint="the upstream's own log has its reason"
    )


def _retry_after(text: str | None) -> float | None:
    """Seconds; the header holds a number of them or a date."""
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < 8:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
