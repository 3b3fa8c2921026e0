"""What honest servers are put through: examined at first sight, again, and while they work; and what that costs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp

from benchmarks.torture_vllm.case import VERIFIED, Ask, Case, Found, Make, World, against, examined, post
from benchmarks.torture_vllm.workshop import ARM, DEMO

N_BUSY = 32


def honest(name: str, make: Make, served_name: str | None = None) -> tuple[Case, ...]:
    """Three examinations of one honest server: at first sight, again, and while it answers 32 others."""
    ask = against(make, served_name)
    ways = {"first": ask, "again": ask, "under load": under_load(ask)}
    return tuple(Case(f"{name}: {way}", "honest", name, VERIFIED, how) for way, how in ways.items())


def under_load(ask: Ask) -> Ask:
    async def ask_meanwhile(world: World) -> Found:
        async with busy(world):
            return await ask(world)

    return ask_meanwhile


@asynccontextmanager
async def busy(world: World) -> AsyncIterator[None]:
    """The server answers 32 requests at once, and each that ends is asked again."""
    body = {"model": world.server.name, "prompt": "The farmer has 25 eggs.", "max_tokens": 100, "ignore_eos": True}

    async def keep_asking(http: aiohttp.ClientSession) -> None:
        while True:
            # Without a seed: on CPUs vLLM 0.32 dies of a seeded request whose prompt comes in chunks.
            async with http.post(f"{world.server.url}/completions", json=body) as reply:
                reply.raise_for_status()
                await reply.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        tasks = [asyncio.create_task(keep_asking(http)) for _ in range(N_BUSY)]
        try:
            async with asyncio.timeout(30):
                while await world.server.n_running() < N_BUSY // 2:
                    await asyncio.sleep(0.05)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    with suppress(TimeoutError):
        await world.server.until_idle(5.0)


async def memory_of_the_check(world: World) -> Found:
    """Resident memory of all its processes, on a server that has not been examined before: peaks in bytes."""
    body = {"model": world.server.name, "messages": [{"role": "user", "content": "2+2?"}], "max_tokens": 32}

    async def ask_plainly() -> None:
        await post(f"{world.server.url}/chat/completions", body)

    async def examine() -> None:
        await examined(DEMO / ARM, world.server.name, world.server.url)

    figures: dict[str, float] = {}
    await ask_plainly()
    for name, ask, n in (
        ("32 plain replies, one by one", ask_plainly, 32),
        ("the first handshake", examine, 1),
        ("five more", examine, 5),
    ):
        world.server.forget_peak()
        figures[f"{name}: before"] = world.server.memory().rss_bytes
        for _ in range(n):
            await ask()
        figures[f"{name}: peak"] = world.server.memory().peak_rss_bytes
    return Found("measured", "RSS of all processes of the server", figures)
