"""The chat endpoints that write personas: least in flight first, patient with busy ones, bounded in failures."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any

from its_proxy.codesign.errors import (
    ConfigError,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from its_proxy.upstreams.http import HttpUpstream

FORMATS = ("json_schema", "json_object", "plain")
"""From the strictest; an endpoint that refuses one is asked in the next."""
FIRST_WAIT_S, MAX_WAIT_S = 0.25, 60.0
MOST_BROKEN = 8
"""Tries of one call: some queries always break (an upstream's filter, a context too long), and must not end a run."""


class Failures:
    """How many failed calls a run still bears: an endpoint that is gone ends it, one that stumbles does not."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = float(most)

    def failed(self, error: UpstreamError) -> None:
        """Raises ConfigError when the run has failed too often."""
        self._left -= 1
        if self._left < 0:
            raise ConfigError(
                f"the endpoints failed too often; the last time: {error.message}",
                hint="what is written is kept: the same command goes on once they are well",
            ) from None

    def succeeded(self) -> None:
        self._left = min(self._most, self._left + 0.5)


@dataclass(slots=True)
class _Endpoint:
    upstream: HttpUpstream
    n_in_flight: int = 0
    n_failures: int = 0
    not_before: float = 0.0
    format: int = 0


class Endpoints:
    """`async with Endpoints(urls, ...) as endpoints: await endpoints.ask(body, response_format)`."""

    def __init__(self, urls: Sequence[str], *, key: str | None, timeout_s: float, max_failures: int) -> None:
        self._endpoints = [_Endpoint(HttpUpstream(url, url, key=key, first_byte_timeout_s=timeout_s)) for url in urls]
        self._timeout_s = timeout_s
        self._failures = Failures(max_failures)
        # Only spreads waiting times; nothing that is written depends on it.
        self._random = Random()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Endpoints":
        for endpoint in self._endpoints:
            self._stack.push_async_callback(endpoint.upstream.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def ask(self, body: Mapping[str, Any], schema: Mapping[str, Any], request_id: str) -> Mapping[str, Any]:
        """One completion, from whichever endpoint gives it.

        Raises ConfigError where none ever will, and UpstreamError for a call that breaks each time it is tried.
        """
        n_broken = 0
        while n_broken < MOST_BROKEN:
            endpoint = await self._ready()
            endpoint.n_in_flight += 1
            format_tried = endpoint.format
            try:
                async with asyncio.timeout(self._timeout_s):
                    sent = {**body, **_response_format(FORMATS[format_tried], schema)}
                    completion = await endpoint.upstream.complete(sent, request_id)
            except TimeoutError:
                broken = UpstreamTimeout(f"upstream {endpoint.upstream.name} took too long")
                n_broken += self._failed(endpoint, broken)
            except UpstreamRejected as error:
                n_broken += self._rejected(endpoint, format_tried, error)
            except UpstreamError as error:
                n_broken += self._failed(endpoint, error)
            else:
                endpoint.n_failures = 0
                self._failures.succeeded()
                return completion
            finally:
                endpoint.n_in_flight -= 1
        raise UpstreamError(f"a call broke {n_broken} times", hint="others may be well: it is this one's words")

    async def _ready(self) -> _Endpoint:
        """The endpoint with the fewest calls in flight of those that may be asked now; waits for the first one."""
        now = asyncio.get_running_loop().time
        while True:
            ready = [endpoint for endpoint in self._endpoints if endpoint.not_before <= now()]
            if ready:
                return min(ready, key=lambda endpoint: endpoint.n_in_flight)
            await asyncio.sleep(max(0.01, min(endpoint.not_before for endpoint in self._endpoints) - now()))

    def _failed(self, endpoint: _Endpoint, error: UpstreamError) -> bool:
        """Makes the endpoint wait where it must; whether the call itself may be what breaks."""
        self._failures.failed(error)
        may_be_the_call = not isinstance(error, UpstreamBusy | UpstreamUnreachable)
        if may_be_the_call and not isinstance(error, UpstreamTimeout):
            return True  # a reply that broke: the endpoint may be asked again at once
        endpoint.n_failures += 1
        wait_s = error.retry_after_s if isinstance(error, UpstreamBusy) else None
        if wait_s is None:
            wait_s = FIRST_WAIT_S * 2 ** min(endpoint.n_failures, 8)
        # Jitter, so that the calls which failed together do not come back together.
        wait_s = min(MAX_WAIT_S, wait_s * self._random.uniform(1.0, 1.5))
        endpoint.not_before = max(endpoint.not_before, asyncio.get_running_loop().time() + wait_s)
        return may_be_the_call

    def _rejected(self, endpoint: _Endpoint, format_tried: int, error: UpstreamRejected) -> bool:
        """A refused `response_format` is a step down; a wrong key or name will not get better by asking."""
        if error.status in (400, 422) and format_tried < len(FORMATS) - 1:
            endpoint.format = max(endpoint.format, format_tried + 1)
            return False
        if error.status in (401, 403, 404):
            raise ConfigError(error.message, hint="check --endpoint (it ends in /v1), --model and --key-env") from None
        return self._failed(endpoint, error)


def _response_format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    if name == "plain":
        return {}
    return {"response_format": dict(schema) if name == "json_schema" else {"type": name}}
