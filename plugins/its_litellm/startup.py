"""Inside LiteLLM's proxy: every deployment is examined at the start, and what is wrong with one is logged then.

A wrong deployment answers with its reason; the others serve.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from its_litellm.router import proxy_router
from its_proxy.codesign.errors import ItsError

if TYPE_CHECKING:
    from its_litellm.hook import RewriteHook
    from its_litellm.provider import Provider

ROUTER_COMES_WITHIN_S = 120.0
PROVIDER = "its/"
log = logging.getLogger("its_litellm")
_tasks: set[asyncio.Task[None]] = set()


def begin(handler: "Provider", hook: "RewriteHook") -> None:
    """Called on import. Outside of a starting proxy there is nothing to examine yet."""
    if "litellm.proxy.proxy_server" not in sys.modules:
        return
    try:
        task = asyncio.get_running_loop().create_task(_examine(handler, hook))
    except RuntimeError:  # no loop: a worker that only imports
        return
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _examine(handler: "Provider", hook: "RewriteHook") -> None:
    async for deployment in _deployments():
        params, name = deployment["litellm_params"], deployment["model_name"]
        model = str(params.get("model"))
        door = handler if model.startswith(PROVIDER) else hook
        try:
            await door.services.find(
                model.partition("/")[2] or model,
                params.get("api_base"),
                params.get("api_key"),
                deployment["model_info"],
            )
        except ItsError as error:
            log.error("model %s: %s", name, error)
        else:
            log.info("model %s: its manifest holds", name)


async def _deployments() -> AsyncIterator[dict[str, Any]]:
    """Those that are ours, once the proxy has read its whole configuration."""
    async with asyncio.timeout(ROUTER_COMES_WITHIN_S):
        while (router := proxy_router()) is None:
            await asyncio.sleep(0.1)
    for deployment in router.get_model_list() or []:
        is_provider = str(deployment["litellm_params"].get("model")).startswith(PROVIDER)
        if is_provider or "its" in (deployment.get("model_info") or {}):
            yield deployment
