"""The second door: deployments keep their model names; a query is rewritten once one was picked, and not voted on."""

from collections.abc import Mapping
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from its_litellm.errors import told_to_litellm
from its_litellm.provider import body_of
from its_litellm.services import Services
from its_proxy.codesign.errors import StrategyNotApplicable
from its_proxy.service import Service
from its_proxy.upstreams.base import APPLIED_HEADER

# LiteLLM's names for calls that carry a query past chat messages. `/v1/messages` becomes a chat call, which comes here.
_PAST_CHAT = ("text_completion", "atext_completion", "responses", "aresponses")
_ASKED = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "reasoning_effort", "extra_body")
_EXTRA = ("top_k", "min_p", "chat_template_kwargs")
"""What LiteLLM passes on to an OpenAI-like server inside `extra_body` alone."""


class RewriteHook(CustomLogger):  # type: ignore[misc]
    """Acts on deployments with `model_info.its`, all others pass as they are. LiteLLM runs no such hook on synchronous
    calls: they would be plain, so only its proxy and its asynchronous SDK may be used with it."""

    def __init__(self) -> None:
        super().__init__()
        self.services = Services()

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any] | None:
        info, model = kwargs.get("model_info"), str(kwargs.get("model"))
        if not isinstance(info, dict) or "its" not in info or model.startswith("its/"):
            return None
        name = model.partition("/")[2] or model
        with told_to_litellm():
            service = await self.services.find(name, kwargs.get("api_base"), kwargs.get("api_key"), info)
            kind = getattr(call_type, "value", call_type)
            if kind in _PAST_CHAT:
                _refuse(service, kind)
            if kind not in ("completion", "acompletion"):
                return None
            return {**kwargs, **_rewritten(service, kwargs)}


def _refuse(service: Service, kind: str) -> None:
    checkpoint = service.served.checkpoint
    if checkpoint is not None and checkpoint.serve.strategy.family != "none":
        raise StrategyNotApplicable(
            f"{service.served.name} is asked through its strategy, which needs chat messages, not {kind}",
            hint="use /v1/chat/completions, or the provider its/, which bridges",
        )


def _rewritten(service: Service, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The messages as trained, and what the manifest advises where the client says nothing."""
    asked = {key: kwargs[key] for key in _ASKED if kwargs.get(key) is not None}
    call = {"model": service.served.name, "messages": kwargs["messages"], "optional_params": asked}
    body = service.rewritten(body_of(call, stream=False))
    extra = {**(kwargs.get("extra_body") or {}), **{key: body[key] for key in _EXTRA if key in body}}
    told: dict[str, Any] = {key: body[key] for key in ("messages", "temperature", "top_p", "max_tokens") if key in body}
    headers = {**(kwargs.get("extra_headers") or {}), APPLIED_HEADER: service.served.targets[0].pair_id}
    return {**told, "extra_body": extra, "extra_headers": headers}
