"""vLLM, or any server that speaks OpenAI's HTTP, as an upstream; every call can be cancelled alone.

Closing a plain call's connection aborts its generation in vLLM within some 60 ms, so cancelling is
simply leaving: the connection of a call that was not read to its end is closed, never reused.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp
import orjson

from its_proxy import __version__
from its_proxy.codesign.errors import (
    BadPayload,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
    UpstreamUntrusted,
)
from its_proxy.upstreams.base import APPLIED, APPLIED_HEADER, Body, Completion, RawReply
from its_proxy.upstreams.replies import check_completion, read_cards, read_object
from its_proxy.upstreams.turns import Turn

MAX_REPLY_BYTES = 8 * 2**20
# At a time, of one reply: a server that talks faster than it is listened to is held back soon.
READ_BYTES = 2**15
# Well below the 5 s of uvicorn, vLLM's server: a call sent on a connection that is just being closed there is lost, and
# on a starved machine both clocks run late.
KEEPALIVE_S = 2.0
_JSON = "application/json"
_Result = TypeVar("_Result")


class RetryBudget:
    """At most a fifth of the calls in flight, and three in any case, may be second tries: an outage is not doubled."""

    def __init__(self) -> None:
        self.n_active = 0
        self.n_retrying = 0

    def allows(self) -> bool:
        return self.n_retrying < max(3, self.n_active // 5)


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
        self._url = url.rstrip("/")
        self._key = key
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._budget = RetryBudget()
        self._cache_salt = cache_salt
        self._is_vllm = False

    @property
    def takes_cache_salt(self) -> bool:
        """Whether a `cache_salt` may be sent: as set, else where the server has said that it is vLLM."""
        return self._is_vllm if self._cache_salt is None else self._cache_salt

    async def complete(self, body: Body, request_id: str) -> Completion:
        data = orjson.dumps(dict(body))
        return await self._twice(lambda: self._complete_once(data, request_id))

    @asynccontextmanager
    async def stream(self, body: Body, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        data = orjson.dumps({**body, "stream": True})
        response = await self._twice(lambda: self._open("POST", "chat/completions", data, _JSON, request_id))
        try:
            if response.content_type != "text/event-stream":
                raise BadPayload("the upstream was asked for a stream and sent something else")
            async with aclosing(self._chunks(response)) as chunks:
                yield chunks
        finally:
            response.close()

    async def models(self) -> Sequence[Mapping[str, Any]]:
        response = await self._open("GET", "models", None, None, None)
        async with response:
            cards = read_cards(read_object(await self._read(response)))
        self._is_vllm = any(card.get("owned_by") == "vllm" for card in cards)
        return cards

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        response = await self._twice(lambda: self._open(method, path, body or None, content_type, None))
        async with response:
            return RawReply(response.status, response.content_type, await self._read(response))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        """Opened on first use, inside the running loop. Nothing of this process's environment is trusted."""
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._max_connections, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=30
            )
            headers = {"Accept-Encoding": "identity", "User-Agent": f"its-proxy/{__version__}"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers=headers,
                # An upstream's cookie would tie the requests of all clients together.
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                trust_env=False,
                read_bufsize=READ_BYTES,
                auto_decompress=False,
            )
        return self._session

    async def _twice(self, call: Callable[[], Awaitable[_Result]]) -> _Result:
        """Asks again, once, where the first try certainly cost the upstream nothing and the budget allows."""
        self._budget.n_active += 1
        try:
            try:
                return await call()
            except (UpstreamUnreachable, UpstreamBusy) as error:
                wait_s = getattr(error, "retry_after_s", None) or 0.0
                if wait_s > 1.0 or not self._budget.allows():
                    raise
            self._budget.n_retrying += 1
            try:
                await asyncio.sleep(max(wait_s, random.uniform(0.02, 0.1)))
                return await call()
            finally:
                self._budget.n_retrying -= 1
        finally:
            self._budget.n_active -= 1

    async def _complete_once(self, data: bytes, request_id: str) -> Completion:
        response = await self._open("POST", "chat/completions", data, _JSON, request_id)
        async with response:
            return check_completion(read_object(await self._read(response)))

    async def _open(
        self,
        method: str,
        path: str,
        data: bytes | None,
        content_type: str | None,
        request_id: str | None,
    ) -> aiohttp.ClientResponse:
        """Sends, and waits for the status; raises anything but a plain 200."""
        headers = {"Content-Type": content_type} if content_type else {}
        if request_id is not None:
            headers["X-Request-Id"] = request_id
        if (pair_id := APPLIED.get()) is not None:
            headers[APPLIED_HEADER] = pair_id
        try:
            async with asyncio.timeout(self._first_byte_timeout_s):
                response = await self._open_session().request(
                    method, self._route(path), data=data, headers=headers, allow_redirects=False
                )
        except (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError):
            raise UpstreamUntrusted(
                f"upstream {self.name} has no TLS certificate that is trusted here", hint="has it expired?"
            ) from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise UpstreamUnreachable(f"upstream {self.name} cannot be reached", hint="is it running?") from None
        except TimeoutError:
            raise UpstreamTimeout(f"upstream {self.name} sent nothing in time") from None
        except (aiohttp.ClientError, OSError):
            raise UpstreamError(f"upstream {self.name} broke the connection") from None
        if response.status != 200:
            response.close()
            raise _refusal(self.name, response)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()  # it could inflate without bound
            raise BadPayload(f"upstream {self.name} sent a compressed reply that was not asked for")
        return response

    def _route(self, path: str) -> str:
        # vLLM's own routes stand beside OpenAI's, not below them.
        base = self._url.removesuffix("/v1") if path == "tokenize" else self._url
        return f"{base}/{path}"

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The whole body, bounded in size and in silence."""
        body = bytearray()
        try:
            async with Turn() as turn:
                while chunk := await self._next_chunk(response, self._idle_timeout_s):
                    body += chunk
                    if len(body) > MAX_REPLY_BYTES:
                        raise BadPayload(f"upstream {self.name} sent more than {MAX_REPLY_BYTES} bytes")
                    await turn.grown_to(len(body))
            return bytes(body)
        finally:
            body.clear()  # where this fails, the error may live on for long, and this frame with it

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        # A stream's headers come at once, its first event when the request leaves the server's queue.
        timeout_s = self._first_byte_timeout_s
        while chunk := await self._next_chunk(response, timeout_s):
            yield chunk
            timeout_s = self._idle_timeout_s

    async def _next_chunk(self, response: aiohttp.ClientResponse, timeout_s: float) -> bytes:
        """Whatever has come, or nothing at the end."""
        try:
            async with asyncio.timeout(timeout_s):
                return await response.content.read(READ_BYTES)
        except TimeoutError:
            raise UpstreamTimeout(f"upstream {self.name} went silent in the middle of a reply") from None
        except (aiohttp.ClientError, OSError):
            raise UpstreamError(f"upstream {self.name} broke off in the middle of a reply") from None


def _refusal(name: str, response: aiohttp.ClientResponse) -> UpstreamError:
    status = response.status
    if status in (429, 503):
        return UpstreamBusy(
            f"upstream {name} is busy", status=status, retry_after_s=_retry_after(response.headers.get("Retry-After"))
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
