"""LiteLLM's provider `its`: rewriting, sampling and voting behind `model: its/NAME`, in the proxy and in the SDK."""

import atexit
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from queue import SimpleQueue
from typing import Any

from litellm import ModelResponse
from litellm.litellm_core_utils.llm_response_utils.convert_dict_to_response import convert_to_model_response_object
from litellm.llms.custom_llm import CustomLLM

from its_litellm.chunks import chunks_of
from its_litellm.errors import told_to_litellm
from its_litellm.services import Address, Services
from its_proxy.background import BackgroundLoop
from its_proxy.codesign.errors import RequestError
from its_proxy.exchange import Exchange, Front
from its_proxy.tenants import cache_salt
from its_proxy.upstreams.base import APPLIED_HEADER

# LiteLLM's own, not the request's.
_NOT_FORWARDED = ("extra_body", "extra_headers", "max_retries", "stream")
# Who asks, as LiteLLM's proxy knows it: the key, its user, and the user that the client names.
_TENANT = ("user_api_key_hash", "user_api_key_user_id", "user_api_key_end_user_id")
_END = object()


class Provider(CustomLLM):  # type: ignore[misc]
    """One instance serves every deployment whose model begins with `its/`."""

    def __init__(self) -> None:
        super().__init__()
        self.services = Services()
        self._background = BackgroundLoop("its_litellm")
        atexit.register(self._background.close)

    @property
    def router(self) -> Any:
        """Where the deployments are that `targets` name; in LiteLLM's proxy its own."""
        return self.services.router

    @router.setter
    def router(self, router: Any) -> None:
        self.services.router = router

    async def close(self) -> None:
        """Ends what the running event loop has opened; asyncio.run does so by itself."""
        await self.services.close()

    async def acompletion(self, *args: Any, **call: Any) -> ModelResponse:
        with told_to_litellm():
            exchange = await self._exchange(call, stream=False)
            reply = await exchange.reply()
        response = convert_to_model_response_object(
            response_object=reply.body, model_response_object=call["model_response"], _response_headers=reply.headers
        )
        if "its" in reply.body:
            response.its = reply.body["its"]
        return response

    async def astreaming(self, *args: Any, **call: Any) -> AsyncGenerator[Any, None]:
        with told_to_litellm():
            exchange = await self._exchange(call, stream=True)
            async with exchange.stream() as streamed, aclosing(chunks_of(streamed.chunks)) as chunks:
                async for chunk in chunks:
                    yield chunk

    def completion(self, *args: Any, **call: Any) -> ModelResponse:
        return self._background.run(self.acompletion(**call))

    def streaming(self, *args: Any, **call: Any) -> Iterator[Any]:
        """One task makes the chunks; leaving the iteration ends it."""
        arrived: SimpleQueue[Any] = SimpleQueue()

        async def make() -> None:
            async with aclosing(self.astreaming(**call)) as chunks:
                async for chunk in chunks:
                    arrived.put(chunk)

        making = self._background.begin(make())
        making.add_done_callback(lambda _: arrived.put(_END))
        try:
            while (chunk := arrived.get()) is not _END:
                yield chunk
            making.result()
        finally:
            making.cancel()

    async def _exchange(self, call: Mapping[str, Any], *, stream: bool) -> Exchange:
        params = call.get("litellm_params") or {}
        address = Address(call["model"], call.get("api_base"), call.get("api_key"))
        service = await self.services.find(address, params.get("model_info"))
        headers = (params.get("proxy_server_request") or {}).get("headers") or {}
        exchange = service.exchange(
            body := body_of(call, stream=stream),
            getattr(call.get("logging_obj"), "litellm_call_id", None) or uuid.uuid4().hex,
            salt=salt_of(params, body),
            front=Front.said(headers.get(APPLIED_HEADER), is_trusted="front" in service.rights),
        )
        if exchange.chat.its.explain:
            raise RequestError("a plan is no chat completion", param="its.explain", hint="ask its-proxy explain")
        if stream and exchange.chat.n > 1:
            raise RequestError("LiteLLM streams one choice", param="n", hint="leave out stream, or n")
        return exchange


def body_of(call: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """The client's request, put together again from what LiteLLM took it apart into."""
    params = call.get("optional_params") or {}
    asked = {**params, **(params.get("extra_body") or {})}
    told = {key: value for key, value in asked.items() if key not in _NOT_FORWARDED and value is not None}
    if stream:
        told |= {"stream": True, "stream_options": {"include_usage": True}}
    return {**told, "model": call["model"], "messages": [_plain(message) for message in call["messages"]]}


def _plain(message: Any) -> Any:
    """The SDK's users also pass LiteLLM's own message objects on."""
    return message.model_dump(exclude_none=True) if hasattr(message, "model_dump") else message


def salt_of(params: Mapping[str, Any], body: Mapping[str, Any]) -> str | None:
    """Keeps LiteLLM's users apart in an engine's prefix cache; None where nobody is named."""
    metadata = params.get("metadata") or {}
    who = [metadata.get(name) for name in _TENANT] + [body.get("user")]
    if not any(who):
        return None
    identity, *names = ("" if one is None else str(one) for one in who)
    return cache_salt(identity.encode(), "\0".join(names))
