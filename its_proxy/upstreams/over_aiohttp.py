"""The transport by aiohttp, for servers behind TLS."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import aiohttp

from its_proxy.upstreams.transport import (
    DNS_TTL_S,
    KEEPALIVE_S,
    READ_AHEAD_BYTES,
    SENT_AS_ONE_BYTES,
    Asked,
    Response,
    TransportError,
    Unreachable,
    Untrusted,
)
from its_proxy.upstreams.written import Pieces


class AiohttpTransport:
    """One server's; its session is opened on first use, inside the running loop."""

    def __init__(self, url: str, fields: Mapping[str, str], *, max_connections: int, connect_timeout_s: float) -> None:
        parts = urlsplit(url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._fields = fields
        self._max_connections = max_connections
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def open(self, asked: Asked, request_id: str | None, data: Pieces, within_s: float) -> Response:
        n_bytes, fields = sum(map(len, data)), {**self._fields, **asked.fields}
        if request_id is not None:
            fields["X-Request-Id"] = request_id
        body: bytes | AsyncIterator[bytes] | None
        if n_bytes > SENT_AS_ONE_BYTES:
            body, fields = _one_by_one(data), {**fields, "Content-Length": str(n_bytes)}
        else:
            body = b"".join(data) or None
        async with asyncio.timeout(within_s):  # around the `try`: a TimeoutError is an OSError, too
            try:
                response = await self._opened().request(
                    asked.method, self._origin + asked.path, data=body, headers=fields, allow_redirects=False
                )
            except (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError):
                raise Untrusted from None
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                raise Unreachable from None
            except (aiohttp.ClientError, OSError) as error:
                raise TransportError(type(error).__name__) from None
        return _AiohttpResponse(response)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._max_connections, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=DNS_TTL_S
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                # An upstream's cookie would tie the requests of all clients together.
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                trust_env=False,
                read_bufsize=READ_AHEAD_BYTES,
                auto_decompress=False,
            )
        return self._session


async def _one_by_one(data: Pieces) -> AsyncIterator[bytes]:
    for piece in data:
        for start in range(0, len(piece), SENT_AS_ONE_BYTES):  # aiohttp waits for the socket between two of them
            yield piece[start : start + SENT_AS_ONE_BYTES]


class _AiohttpResponse:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._response = response

    def field(self, name: str) -> str | None:
        values = self._response.headers.getall(name, [])
        return values[-1] if values else None

    def whole(self) -> bytes | None:
        return None

    async def chunk(self, within_s: float) -> bytes:
        async with asyncio.timeout(within_s):
            try:
                return await self._response.content.read(READ_AHEAD_BYTES)
            except (aiohttp.ClientError, OSError) as error:
                raise TransportError(type(error).__name__) from None

    def close(self) -> None:
        if self._response.content.is_eof():
            self._response.release()
        else:
            self._response.close()
