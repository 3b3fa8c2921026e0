"""A deployment of LiteLLM's own router as an upstream: its keys, limits and cooldowns stay LiteLLM's."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from its_litellm.deployment import PROVIDER, provider_and_name
from its_litellm.errors import upstream_error
from its_proxy.codesign.errors import ConfigError, UpstreamRejected
from its_proxy.protocol.sse import DONE, event
from its_proxy.upstreams.base import APPLIED, APPLIED_HEADER, Body, Completion, RawReply
from its_proxy.upstreams.http import HttpUpstream
from its_proxy.upstreams.replies import check_completion

# What every call through the router carries: retries and fallbacks would multiply the candidates, or ask another
# checkpoint for them; LiteLLM logs and charges the outer call, whose usage is the sum.
_ONCE = {"num_retries": 0, "max_retries": 0, "disable_fallbacks": True, "no-log": True}
# OpenAI's fields. Whatever else a client sends goes in `extra_body`, which LiteLLM hands on unread: as an argument of
# its own, `api_base` would send the query, and the deployment's key, anywhere.
_OPENAI = frozenset({
    "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "messages", "modalities",
    "parallel_tool_calls", "presence_penalty", "reasoning_effort", "response_format", "seed", "stop", "stream_options",
    "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user",
})  # fmt: skip


def proxy_router() -> Any | None:
    """The router of the LiteLLM proxy that this process runs, if it runs one."""
    server = sys.modules.get("litellm.proxy.proxy_server")
    return getattr(server, "llm_router", None)


def deployments_named(router: Any, name: str) -> "list[RouterUpstream]":
    """Every deployment behind a model name, or the one with that id: each is proved, and asked, by itself.

    Raises ConfigError where there is none, or where it is one of this provider's own.
    """
    deployments = router.get_model_list() or []
    named = [one for one in deployments if name in (one["model_name"], one["model_info"]["id"])]
    if not named:
        known = sorted({one["model_name"] for one in deployments})
        raise ConfigError(f"this router has no deployment {name!r}", hint=f"it has {', '.join(known[:8])}")
    if any(one["litellm_params"]["model"].startswith(PROVIDER) for one in named):
        raise ConfigError(f"{name} votes itself", hint="name the deployments that it votes over")
    return [
        RouterUpstream(router, name if len(named) == 1 else f"{name}/{position}", one)
        for position, one in enumerate(named)
    ]


class RouterUpstream:
    """One deployment, by its id; `name` is what replies call it.

    Candidates go through LiteLLM, with its keys and limits. What the handshake asks goes to the server itself, where
    LiteLLM names one of OpenAI's kind: LiteLLM keeps prompt log-probabilities to itself.
    """

    def __init__(self, router: Any, name: str, deployment: Mapping[str, Any]) -> None:
        params = deployment["litellm_params"]
        provider, self._served_name = provider_and_name(params["model"])
        is_openai = provider in ("hosted_vllm", "openai") and params.get("api_base")
        self.name = name
        self.deployment = deployment["model_info"]["id"]
        self._router = router
        self._server = HttpUpstream(name, params["api_base"], key=params.get("api_key")) if is_openai else None

    @property
    def poll_s(self) -> float | None:
        """How often the server's model list is worth looking at, where there is one to ask."""
        return self._server.poll_s if self._server is not None else None

    @property
    def takes_cache_salt(self) -> bool:
        return self._server is not None and self._server.takes_cache_salt

    async def complete(self, body: Body, request_id: str) -> Completion:
        response = await self._ask(body, stream=False)
        completion: dict[str, Any] = response.model_dump(mode="json", exclude_none=True)
        return check_completion(completion, f"deployment {self.name}")

    @asynccontextmanager
    async def stream(self, body: Body, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        stream = await self._ask(body, stream=True)
        try:
            yield self._events(stream)
        finally:
            await stream.aclose()

    async def models(self) -> Sequence[Mapping[str, Any]]:
        """The deployment, as long as its server lists it; of another kind of server LiteLLM has the last word."""
        if self._server is None:
            return [{"id": self.deployment}]
        cards = await self._server.models()
        return [{**card, "id": self.deployment} for card in cards if card.get("id") == self._served_name]

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        if self._server is None:
            raise UpstreamRejected(f"deployment {self.name} has no /v1/{path}", status=404)
        renamed = orjson.dumps({**orjson.loads(body), "model": self._served_name})
        return await self._server.forward(method, path, renamed, content_type)

    async def close(self) -> None:
        """The router is LiteLLM's to close."""
        if self._server is not None:
            await self._server.close()

    async def _ask(self, body: Body, *, stream: bool) -> Any:
        known = {key: value for key, value in body.items() if key in _OPENAI}
        rest = {key: value for key, value in body.items() if key not in _OPENAI and key not in ("model", "stream")}
        headers = {APPLIED_HEADER: pair_id} if (pair_id := APPLIED.get()) is not None else {}
        options = {**_ONCE, "stream": stream, "extra_body": rest, "extra_headers": headers}
        try:
            return await self._router.acompletion(model=self.deployment, **known, **options)
        except Exception as error:
            raise upstream_error(self.name, error) from None

    async def _events(self, stream: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        try:
            async for chunk in stream:
                yield event(chunk.model_dump(mode="json", exclude_none=True))
        except Exception as error:
            raise upstream_error(self.name, error) from None
        yield DONE
