"""LoRA adapters in a running server: loaded, exchanged in place, and found by discovery."""

import asyncio

from benchmarks.torture_vllm.case import Ask, Found, Make, World, post
from benchmarks.torture_vllm.workshop import DEMO
from its_proxy.discovery import discover
from its_proxy.upstreams.http import HttpUpstream


def with_adapter(name: str, make: Make, ask: Ask) -> Ask:
    """`ask` after the server was told to load that adapter under the name, in place where there is one already."""

    async def ask_then(world: World) -> Found:
        folder = await asyncio.to_thread(make, world.shop)
        body = {"lora_name": name, "lora_path": str(folder.resolve()), "load_inplace": True}
        await post(f"{world.server.url}/load_lora_adapter", body)
        return await ask(world)

    return ask_then


async def unrecorded_lora(world: World) -> Found:
    """Discovery looks at the server's cards: the base's manifest is found, and the adapter inherits none of it."""
    upstream = HttpUpstream("vllm", world.server.url)
    try:
        found = await discover(await upstream.models(), roots=[DEMO, world.shop.folder], hub=None)
    finally:
        await upstream.close()
    base, adapter = found[world.server.name], found["unrecorded"]
    if base.checkpoint is None or adapter.checkpoint is not None or adapter.error is not None:
        return Found("inherited", f"base: {base.reason}; adapter: {adapter.reason}")
    return Found("refused", "the adapter is passed through without a strategy; the base keeps its own")
