"""200 clients that ask for 50 MB each and read nothing of it.

python -m benchmarks.reliability.slow_readers [--clients 200]
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import click

from benchmarks.process import held_by
from benchmarks.proxy import Proxy
from benchmarks.reliability.crowd import crowd
from benchmarks.reliability.results import FOLDER, save
from benchmarks.reliability.wishes import Wish
from benchmarks.reliability.world import world

GOAL = "200 clients that read nothing of 50 MB each: at most 100 MiB more, closed after 60 s, their work cancelled."
WRITE_IDLE_S, TOLERANCE_S, MAX_MIB = 60.0, 5.0, 100.0
MIB, LOOK_S = 2**20, 0.2
CHUNK = "word " * 6_400
N_CHUNKS = 50 * MIB // len(CHUNK)


async def measure(folder: Path, n: int, write_idle_s: float) -> dict[str, Any]:
    async with world(folder, {"write_idle_s": write_idle_s, "limits": {"candidates": 4 * n}}) as (proxy, upstream):
        before = held_by(proxy.pid)
        async with crowd(proxy.url, "readers", n, write_idle_s + 120.0, _body()) as readers:
            opened = await readers.opened()
            watched = await _until_closed(proxy, n, write_idle_s + 60.0)
            calls = await upstream.counters()
            after = await _at_rest(proxy, before.connections)
        [(_, closed)] = await proxy.samples("its_proxy_slow_client_closed")
    return {
        "clients opened": opened,
        "closed": int(closed),
        "closed after, s at least": round(min(watched.lasted_s, default=0.0), 1),
        "closed after, s at most": round(max(watched.lasted_s, default=0.0), 1),
        "most memory, MiB more": round((watched.rss_bytes - before.rss_bytes) / MIB, 1),
        "upstream calls begun": calls.n_begun,
        "upstream calls aborted": calls.n_aborted,
        "connections before and after": f"{before.connections} -> {after}",
    }


def _body() -> bytes:
    messages = [{"role": "user", "content": Wish(texts=(CHUNK,), n_chunks=N_CHUNKS).written("Tell me everything.")}]
    return json.dumps({"model": "passed", "messages": messages, "stream": True}).encode()


@dataclass(slots=True)
class Watched:
    """`lasted_s`: of each client, how long nothing had moved when its connection was cut. `rss_bytes`: the most."""

    lasted_s: list[float] = field(default_factory=list)
    rss_bytes: int = 0


async def _until_closed(proxy: Proxy, n: int, within_s: float) -> Watched:
    """By what the kernel says of its-proxy's connections: what waits to be sent changes no more where nobody reads."""
    watched, since = Watched(), dict[str, tuple[int, float]]()
    began = time.monotonic()
    while len(watched.lasted_s) < n and time.monotonic() - began < within_s:
        watched.rss_bytes = max(watched.rss_bytes, held_by(proxy.pid).rss_bytes)
        waiting, now = _send_queues(proxy), time.monotonic()
        for client in since.keys() - waiting.keys():
            n_waiting, moved_at = since.pop(client)
            if n_waiting:
                watched.lasted_s.append(now - moved_at)
        for client, n_waiting in waiting.items():
            if client not in since or since[client][0] != n_waiting:
                since[client] = (n_waiting, now)
        await asyncio.sleep(LOOK_S)
    return watched


def _send_queues(proxy: Proxy) -> dict[str, int]:
    """Bytes that wait to be sent to each client."""
    port = f":{int(urlsplit(proxy.url).port or 0):04X}"
    lines = [line.split() for line in Path(f"/proc/{proxy.pid}/net/tcp").read_text().splitlines()[1:]]
    return {fields[2]: int(fields[4][:8], 16) for fields in lines if fields[1].endswith(port) and fields[3] == "01"}


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
        and figures["closed after, s at least"] >= write_idle_s - TOLERANCE_S
        and figures["closed after, s at most"] <= write_idle_s + TOLERANCE_S
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
