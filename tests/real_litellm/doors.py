"""LiteLLM's doors, by its Router in the SDK: the provider that votes, and the hook that only rewrites."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import litellm

import its_litellm
from tests.doors import TWICE, Ask, Door, Messages, asked_of, engine


@asynccontextmanager
async def provider(checkpoint: Path) -> AsyncIterator[Ask]:
    litellm.custom_provider_map = [{"provider": "its", "custom_handler": its_litellm.handler}]
    async with routed(checkpoint, "its/model", its=TWICE) as ask:
        yield ask
    await its_litellm.handler.services.close()


@asynccontextmanager
async def hook(checkpoint: Path) -> AsyncIterator[Ask]:
    litellm.callbacks = [its_litellm.rewrite]
    async with routed(checkpoint, "hosted_vllm/model") as ask:
        yield ask
    litellm.callbacks = []
    await its_litellm.rewrite.services.close()


@asynccontextmanager
async def routed(checkpoint: Path, model: str, **fields: Any) -> AsyncIterator[Ask]:
    async with engine() as upstream:
        params = {"model": model, "api_base": upstream.url, "api_key": "k", "max_retries": 0}
        deployment = {
            "model_name": "ours",
            "litellm_params": params,
            "model_info": {"its": {"manifest": str(checkpoint)}},
        }
        router = litellm.Router(model_list=[deployment], num_retries=0)

        async def ask(messages: Messages) -> list[Messages]:
            await router.acompletion("ours", messages=messages, **fields)
            return asked_of(upstream)

        yield ask


DOORS: dict[str, Door] = {"litellm provider": provider, "litellm hook": hook}
