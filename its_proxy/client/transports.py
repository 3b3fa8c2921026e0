"""A door as a transport of the caller's HTTP client: chat requests are answered here, all others sent as they are."""

from collections.abc import Iterator
from typing import Any

import openai

from its_proxy.background import BackgroundLoop
from its_proxy.client.door import Asked, Door, Told, options_of
from its_proxy.client.upstream import http_of


def async_http(client: openai.AsyncOpenAI, door: Door) -> Any:
    """The HTTP client of a wrapped AsyncOpenAI. Closing it closes the one that it stands before."""
    http, inner = http_of(client), client._client

    class Stream(http.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, events: Any) -> None:
            self._events = events

        def __aiter__(self) -> Any:
            return aiter(self._events)

        async def aclose(self) -> None:
            await self._events.aclose()

    class Transport(http.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        async def handle_async_request(self, request: Any) -> Any:
            route = door.route(request.method, _path(client, request))
            if route == "send":
                return await inner.send(request, stream=True)
            told = await door.answer(_asked(http, request, await request.aread())) if route == "vote" else route
            return _response(http, told, Stream)

        async def aclose(self) -> None:
            await door.close()
            await inner.aclose()

    return http.AsyncClient(transport=Transport(), **_settings(inner))


def sync_http(client: openai.OpenAI, door: Door, background: BackgroundLoop, candidates: openai.AsyncOpenAI) -> Any:
    """The HTTP client of a wrapped OpenAI: votes are held in the background, by the `candidates` client."""
    http, inner = http_of(client), client._client

    class Stream(http.SyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, events: Any) -> None:
            self._events = events

        def __iter__(self) -> Iterator[bytes]:
            chunks = aiter(self._events)
            while chunk := background.run(_next(chunks)):
                yield chunk

        def close(self) -> None:
            self._events.cancel()

    class Transport(http.BaseTransport):  # type: ignore[misc, name-defined]
        def handle_request(self, request: Any) -> Any:
            route = door.route(request.method, _path(client, request))
            if route == "send":
                return inner.send(request, stream=True)
            asked = _asked(http_of(candidates), request, request.read())
            return _response(http, background.run(door.answer(asked)) if route == "vote" else route, Stream)

        def close(self) -> None:
            background.run(_close(door, candidates))
            background.close()
            inner.close()

    return http.Client(transport=Transport(), **_settings(inner))


def _path(client: openai.OpenAI | openai.AsyncOpenAI, request: Any) -> str | None:
    url, base = str(request.url.copy_with(query=None)), str(client.base_url)
    return url.removeprefix(base) if url.startswith(base) else None


def _asked(http: Any, request: Any, body: bytes) -> Asked:
    times = request.extensions.get("timeout")
    timeout = None if times is None else http.Timeout(**times)
    return Asked(body, request.headers, options_of(request.headers, request.url.params, timeout))


def _response(http: Any, told: Told, stream: Any) -> Any:
    whole = isinstance(told.body, bytes)
    how = {"content": told.body} if whole else {"stream": stream(told.body)}
    return http.Response(told.status, headers=told.headers, **how)


def _settings(inner: Any) -> dict[str, Any]:
    """What the caller's HTTP client adds to requests when it builds them."""
    return {name: getattr(inner, name) for name in ("headers", "cookies", "params", "timeout", "follow_redirects")}


async def _next(chunks: Any) -> bytes:
    """Nothing at the end."""
    return await anext(chunks, b"")


async def _close(door: Door, candidates: openai.AsyncOpenAI) -> None:
    await door.close()
    await candidates.close()
