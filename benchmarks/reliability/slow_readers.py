"""200 clients that ask for 50 MB each and read nothing of it.

python -m benchmarks.reliability.slow_readers [--clients 200]
"""

import asyncio
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.process import held_by
from benchmarks.proxy import Proxy
from benchmarks.reliability.crowd import crowd
from benchmarks.reliability.results import FOLDER, save
from benchmarks.reliability.wishes import Wish
from benchmarks.reliability.world import world

GOAL = "200 clients that read nothing of 50 MB each: at most 100 MiB more, closed after 60 s, their work cancelled."
WRITE_IDLE_S, TOLERANCE_S, MAX_MIB = 60.0, 5.0, 100.0
MIB, LOOK_S = 2**20, 0.1
CHUNK = "word " * 6_400
N_CHUNKS = 50 * MIB // len(CHUNK)


async def measure(folder: Path, n: int, write_idle_s: float) -> dict[str, Any]:
    async with world(folder, {"write_idle_s": write_idle_s, "limits": {"candidates": 4 * n}}) as (proxy, upstream):
        before = held_by(proxy.pid)
        async with crowd(proxy.url, "readers", n, write_idle_s + 60.0, _body()) as readers:
            opened, began = await readers.opened(), time.monotonic()
            watched = await _until_closed(proxy, n, began + write_idle_s + 30.0)
            calls = await upstream.counters()
            after = await _at_rest(proxy, before.connections)
        return {
            "clients opened": opened,
            "closed": watched["closed"],
            "first closed after, s": round(watched["first"] - began, 1),
            "last closed after, s": round(watched["last"] - began, 1),
            "most memory, MiB more": round((watched["rss"] - before.rss_bytes) / MIB, 1),
            "upstream calls begun": calls.n_begun,
            "upstream calls aborted": calls.n_aborted,
            "connections before and after": f"{before.connections} -> {after}",
            "other requests meanwhile, ms at most": round(1000 * watched["slowest"], 1),
        }


def _body() -> bytes:
    messages = [{"role": "user", "content": Wish(texts=(CHUNK,), n_chunks=N_CHUNKS).written("Tell me everything.")}]
    return json.dumps({"model": "passed", "messages": messages, "stream": True}).encode()


async def _until_closed(proxy: Proxy, n: int, until: float) -> dict[str, float]:
    """When the first and the last were closed, and what was held at the worst moment meanwhile."""
    seen = {"closed": 0.0, "first": 0.0, "last": 0.0, "rss": 0.0, "slowest": 0.0}
    while seen["closed"] < n and time.monotonic() < until:
        asked = time.monotonic()
        [(_, closed)] = await proxy.samples("its_proxy_slow_client_closed")
        now = time.monotonic()
        seen["slowest"] = max(seen["slowest"], now - asked)
        seen["rss"] = max(seen["rss"], held_by(proxy.pid).rss_bytes)
        if closed > seen["closed"]:
            seen["first"] = seen["first"] or now
            seen["last"], seen["closed"] = now, closed
        await asyncio.sleep(LOOK_S)
    return seen


async def _at_rest(proxy: Proxy, n_before: int) -> int:
    """Connections that are left, when they do not become fewer any more."""
    for _ in range(50):
        if (n := held_by(proxy.pid).connections) <= n_before:
            return n
        await asyncio.sleep(LOOK_S)
    return n


def is_passed(figures: dict[str, Any], n: int, write_idle_s: float) -> bool:
    return (
        figures["closed"] == figures["upstream calls begun"] == figures["upstream calls aborted"] == n
        and figures["first closed after, s"] >= write_idle_s - TOLERANCE_S
        and figures["last closed after, s"] <= write_idle_s + TOLERANCE_S
        and figures["most memory, MiB more"] <= MAX_MIB
    )


@click.command(help=__doc__)
@click.option("--clients", default=200, show_default=True)
@click.option("--write-idle-s", default=WRITE_IDLE_S, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(clients: int, write_idle_s: float, out: Path) -> None:
    with TemporaryDirectory() as folder:
        figures = asyncio.run(measure(Path(folder), clients, write_idle_s))
    conditions = {"write_idle_s": write_idle_s, "MB each": 50}
    path = save("slow_readers", figures, is_passed(figures, clients, write_idle_s), conditions, goal=GOAL, folder=out)
    print(json.dumps(figures, indent=1), path)


if __name__ == "__main__":
    main()
