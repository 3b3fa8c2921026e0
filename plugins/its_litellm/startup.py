"""Inside LiteLLM's proxy: every deployment of ours is examined at the start, and what is wrong with one is logged then.

A wrong deployment answers with its reason; the others serve.
"""

import asyncio
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from its_litellm.deployment import PROVIDER, provider_and_name
from its_litellm.router import proxy_router
from its_litellm.services import Address, Services
from its_proxy.codesign.errors import ItsError

if TYPE_CHECKING:
    from its_litellm.hook import RewriteHook
    from its_litellm.provider import Provider

ROUTER_COMES_WITHIN_S = 120.0
log = logging.getLogger("its_litellm")
_tasks: set[asyncio.Task[None]] = set()


def begin(handler: "Provider", hook: "RewriteHook") -> None:
    """Called on import. Outside of a starting proxy there is nothing to examine yet."""
    if "litellm.proxy.proxy_server" not in sys.modules:
        return
    try:
        task = asyncio.get_running_loop().create_task(_examine_all(handler.services, hook.services))
    except RuntimeError:  # no loop: a worker that only imports
        return
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _examine_all(provider: Services, hook: Services) -> None:
    """Once the proxy has read its whole configuration; one without models has no router."""
    try:
        async with asyncio.timeout(ROUTER_COMES_WITHIN_S):
            while (router := proxy_router()) is None:
                await asyncio.sleep(0.1)
    except TimeoutError:
        return
    async with asyncio.TaskGroup() as group:
        for deployment in ours(router.get_model_list() or []):
            is_voted = deployment["litellm_params"]["model"].startswith(PROVIDER)
            group.create_task(_examine(deployment, provider if is_voted else hook))


def ours(deployments: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Those of the provider, and those that the hook rewrites for."""
    for deployment in deployments:
        model = str(deployment["litellm_params"].get("model"))
        if model.startswith(PROVIDER) or "its" in (deployment.get("model_info") or {}):
            yield deployment


async def _examine(deployment: Mapping[str, Any], services: Services) -> None:
    params, name = deployment["litellm_params"], deployment["model_name"]
    try:
        _, served_name = provider_and_name(params["model"])
        address = Address(served_name, params.get("api_base"), params.get("api_key"))
        await services.find(address, deployment.get("model_info"))
    except ItsError as error:
        log.error("its_litellm: model %s is not served: %s", name, error)
    else:
        log.info("its_litellm: model %s is served", name)
