"""A deployment of LiteLLM's own router as an upstream: its keys, limits and cooldowns stay LiteLLM's."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from its_litellm.errors import upstream_error
from its_proxy.codesign.errors import BadPayload, ConfigError, UpstreamError, UpstreamRejected
from its_proxy.protocol.sse import DONE, event
from its_proxy.upstreams.base import APPLIED, APPLIED_HEADER, Body, Completion, RawReply

# What every call through the router carries: retries would multiply the candidates, and LiteLLM logs and charges the
# outer call, whose usage is the sum.
_ONCE = {"num_retries": 0, "max_retries": 0, "no-log": True}


def proxy_router() -> Any | None:
    """The router of the LiteLLM proxy that this process runs, if it runs one."""
    server = sys.modules.get("litellm.proxy.proxy_server")
    return getattr(server, "llm_router", None)


def deployment_names(router: Any) -> set[str]:
    """What a call may name: model names and the ids of single deployments."""
    deployments = router.get_model_list() or []
    ids = {(deployment.get("model_info") or {}).get("id") for deployment in deployments}
    return {deployment["model_name"] for deployment in deployments} | {one for one in ids if one}


class RouterUpstream:
    """`name`: the model name, or id, of one deployment. Probes that need a route of their own are not passed on."""

    def __init__(self, router: Any, name: str) -> None:
        if name not in (known := deployment_names(router)):
            raise ConfigError(f"no deployment {name!r} in this router", hint=f"known: {', '.join(sorted(known)[:8])}")
        self.name = name
        self._router = router

    async def complete(self, body: Body, request_id: str) -> Completion:
        response = await self._ask(body, stream=False)
        completion: dict[str, Any] = response.model_dump(mode="json", exclude_none=True)
        if not completion.get("choices"):
            raise BadPayload(f"deployment {self.name} sent a completion without choices")
        return completion

    @asynccontextmanager
    async def stream(self, body: Body, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        stream = await self._ask(body, stream=True)
        try:
            yield self._events(stream)
        finally:
            await stream.aclose()

    async def models(self) -> Sequence[Mapping[str, Any]]:
        """LiteLLM answers for its deployments; whether one lives is seen by asking it."""
        return [{"id": self.name}]

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        if path != "completions":
            raise UpstreamRejected(f"LiteLLM has no route /v1/{path}", status=404)
        sent = orjson.loads(body)
        try:
            response = await self._router.atext_completion(**sent, **self._options(sent))
        except Exception as error:
            raise upstream_error(self.name, error) from None
        return RawReply(200, content_type, orjson.dumps(response.model_dump(mode="json")))

    async def close(self) -> None:
        """The router is LiteLLM's to close."""

    async def _ask(self, body: Body, *, stream: bool) -> Any:
        sent = {key: value for key, value in body.items() if key not in ("model", "stream")}
        try:
            return await self._router.acompletion(model=self.name, **sent, stream=stream, **self._options(sent))
        except Exception as error:
            raise upstream_error(self.name, error) from None

    def _options(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        headers = dict(sent.get("extra_headers") or {})
        if (pair_id := APPLIED.get()) is not None:
            headers[APPLIED_HEADER] = pair_id
        return {**_ONCE, "extra_headers": headers}

    async def _events(self, stream: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        try:
            async for chunk in stream:
                yield event(chunk.model_dump(mode="json", exclude_none=True))
        except UpstreamError:
            raise
        except Exception as error:
            raise upstream_error(self.name, error) from None
        yield DONE
