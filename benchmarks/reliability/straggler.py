"""One candidate of eight that takes ten times as long: what it costs the vote.

python -m benchmarks.reliability.straggler [--votes 400]

Votes with and without it take turns, so that whatever else the machine does meets both alike.
"""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import aiohttp
import click

from benchmarks.proxy import start_proxy
from benchmarks.reliability.clients import quantile
from benchmarks.reliability.limited import SLOW, start_limited
from benchmarks.reliability.results import FOLDER, save
from tests.serving import manifest, write_checkpoint

GOAL = "One candidate of 8 ten times slower: p99 of the votes at most 1.1 times that without it."
MOST, SERVICE_S, AT_ONCE, N = 1.1, 0.5, 4, 8
QUERIES = {"even": "How many are 3 + 4?", "one_slow": f"How many are 3 + 4? {SLOW}"}


async def measure(votes: int) -> dict[str, list[float]]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_checkpoint(folder / "checkpoint", manifest("random"))
        async with start_limited(512, SERVICE_S) as upstream:
            settings = {
                "upstreams": {"gpu": {"url": upstream.url}},
                "models": {"model": {"upstream": "gpu", "checkpoint": str(checkpoint)}},
                "vote": {"n": N},
                "log_level": "error",
            }
            async with start_proxy(settings, folder) as proxy, aiohttp.ClientSession() as http:
                await proxy.until("model", "gpu", "verified", "unverified")
                lasted: dict[str, list[float]] = {name: [] for name in QUERIES}
                numbers = iter(range(2 * votes))

                async def client() -> None:
                    for number in numbers:
                        kind = list(QUERIES)[number % 2]
                        body = {"model": "model", "messages": [{"role": "user", "content": QUERIES[kind]}], "seed": 0}
                        began = monotonic()
                        async with http.post(f"{proxy.url}/chat/completions", json=body) as reply:
                            await reply.read()
                            reply.raise_for_status()
                        lasted[kind].append(monotonic() - began)

                await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return lasted


@click.command(help=__doc__)
@click.option("--votes", default=400, show_default=True, help="of each kind")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER)
def main(votes: int, folder: Path) -> None:
    lasted = asyncio.run(measure(votes))
    figures: dict[str, Any] = {
        f"{kind}_p{share}_ms": round(1000 * quantile(seconds, share / 100), 1)
        for kind, seconds in lasted.items()
        for share in (50, 99)
    }
    figures["p99_ratio"] = round(figures["one_slow_p99_ms"] / figures["even_p99_ms"], 3)
    passed = figures["p99_ratio"] <= MOST
    conditions = {"votes_of_each_kind": votes, "n": N, "a_candidate": f"{SERVICE_S} s +-20%", "clients": AT_ONCE}
    print(save("straggler", figures, passed, conditions, goal=GOAL, folder=folder))
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
