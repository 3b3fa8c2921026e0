"""The second door: deployments keep their model names; a query is rewritten once one was picked, and not voted on."""

from collections.abc import Mapping
from typing import Any

from litellm import BadRequestError
from litellm.integrations.custom_logger import CustomLogger

from its_litellm.deployment import PROVIDER, provider_and_name
from its_litellm.errors import told_to_litellm
from its_litellm.provider import body_of
from its_litellm.services import Address, Services
from its_proxy.codesign.errors import RequestError, StrategyNotApplicable
from its_proxy.service import Service
from its_proxy.upstreams.base import APPLIED_HEADER

# LiteLLM's names for calls that bring no query; whatever else is no chat call could carry one past us.
_NO_QUERY = ("embedding", "moderation", "rerank", "transcription")
_ASKED = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "reasoning_effort", "extra_body")
_EXTRA = ("top_k", "min_p", "chat_template_kwargs")
"""What LiteLLM passes on to an OpenAI-like server inside `extra_body` alone."""


class RewriteHook(CustomLogger):  # type: ignore[misc]
    """Acts on deployments with `model_info.its`, all others pass as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.services = Services()

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any] | None:
        info, model = kwargs.get("model_info"), str(kwargs.get("model"))
        if not _is_ours(model, info):
            return None
        provider, name = provider_and_name(model)
        with told_to_litellm():
            service = await self.services.find(Address(name, kwargs.get("api_base"), kwargs.get("api_key")), info)
            kind = str(getattr(call_type, "value", call_type))
            if kind in ("completion", "acompletion"):
                return {**kwargs, **_rewritten(service, kwargs)}
            # Before vLLM, `/v1/messages` becomes a chat call inside LiteLLM, and comes here once more.
            comes_again = kind == "anthropic_messages" and provider == "hosted_vllm"
            if not comes_again and kind.removeprefix("a") not in _NO_QUERY:
                _refuse(service, kind)
        return None

    def pre_call_check(self, deployment: dict[str, Any]) -> None:
        """What a router asks on its synchronous calls alone, on which LiteLLM would not let us rewrite."""
        params = deployment.get("litellm_params") or {}
        if _is_ours(str(params.get("model")), deployment.get("model_info")):
            message = "no synchronous call is rewritten, so none is made (use Router.acompletion)"
            raise BadRequestError(message, model=str(params.get("model")), llm_provider="its")


def _is_ours(model: str, info: Any) -> bool:
    return isinstance(info, Mapping) and info.get("its") is not None and not model.startswith(PROVIDER)


def _refuse(service: Service, kind: str) -> None:
    checkpoint = service.served.checkpoint
    if checkpoint is not None and checkpoint.serve.strategy.family != "none":
        raise StrategyNotApplicable(
            f"{service.served.name} is asked through its strategy, which needs chat messages, not {kind}",
            hint="use /v1/chat/completions, or the provider its/, which bridges",
        )


def _rewritten(service: Service, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The messages as trained, and what the manifest advises where the client says nothing."""
    extra = kwargs.get("extra_body") or {}
    if kwargs.get("its") is not None or extra.get("its") is not None:
        raise RequestError(f"{service.served.name} is rewritten and not voted on", param="its", hint="leave its out")
    asked = {key: kwargs[key] for key in _ASKED if kwargs.get(key) is not None}
    call = {"model": service.served.name, "messages": kwargs["messages"], "optional_params": asked}
    body = service.rewritten(body_of(call, stream=False))
    told: dict[str, Any] = {key: body[key] for key in ("messages", "temperature", "top_p", "max_tokens") if key in body}
    headers = {**(kwargs.get("extra_headers") or {}), APPLIED_HEADER: service.served.targets[0].pair_id}
    return {
        **told,
        "extra_body": {**extra, **{key: body[key] for key in _EXTRA if key in body}},
        "extra_headers": headers,
    }
