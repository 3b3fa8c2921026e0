"""Upstreams that never stop talking, 32 at a time, and what its-proxy holds of it all.

python -m benchmarks.reliability.endless
"""

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import click

from benchmarks.process import held_by
from benchmarks.proxy import Proxy
from benchmarks.reliability.results import FOLDER, save
from benchmarks.reliability.wishes import Wish
from benchmarks.reliability.world import N, world

GOAL = "32 replies without an end, or with one line of 100 MB: at most 50 MiB more."
N_REPLIES, MAX_MIB, DEADLINE_S = 32, 50.0, 2.0
MIB = 2**20
WAYS = {
    # model, whether it is streamed, how many upstream replies a request is
    "candidates, plain": ("voted", False, N),
    "candidates, streamed": ("counted", False, N),
    "passed through, plain": ("passed", False, 1),
    "passed through, streamed": ("passed", True, 1),
}
FAULTS = ("endless-stream", "100MB-line")


async def most_held(folder: Path, way: str, fault: str) -> float:
    """MiB of its-proxy beyond those at rest, at the worst moment. A process of its own each: freed memory counts."""
    model, is_stream, each = WAYS[way]
    async with world(folder, {"vote": {"deadline_s": DEADLINE_S}}) as (proxy, _), aiohttp.ClientSession() as http:

        async def ask(wish: Wish) -> None:
            vote = {} if model == "passed" else {"its": {"vote": "always"}}
            messages = [{"role": "user", "content": wish.written("How many are 3 + 4?")}]
            body = {"model": model, "seed": 0, "messages": messages, "stream": is_stream, **vote}
            async with http.post(f"{proxy.url}/chat/completions", json=body) as reply:
                async for _ in reply.content.iter_any():
                    pass

        await ask(Wish())
        asking = asyncio.gather(*(ask(Wish(faults={"all": fault})) for _ in range(N_REPLIES // each)))
        return await _highest_meanwhile(proxy, asking)


async def _highest_meanwhile(proxy: Proxy, work: "asyncio.Future[list[None]]") -> float:
    before = highest = held_by(proxy.pid).rss_bytes
    while not work.done():
        highest = max(highest, held_by(proxy.pid).rss_bytes)
        await asyncio.wait({work}, timeout=0.005)
    await work
    return (highest - before) / MIB


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(out: Path) -> None:
    figures = {}
    for way in WAYS:
        for fault in FAULTS:
            with TemporaryDirectory() as folder:
                figures[f"{way}: {fault}, MiB"] = round(asyncio.run(most_held(Path(folder), way, fault)), 1)
    conditions = {"replies at once": N_REPLIES, "deadline, s": DEADLINE_S, "candidates of a vote": N}
    path = save("endless", figures, max(figures.values()) <= MAX_MIB, conditions, goal=GOAL, folder=out)
    print(json.dumps(figures, indent=1), path)


if __name__ == "__main__":
    main()
