"""Bodies of up to 2 MiB: how long reading the costliest holds the event loop, and what many large ones take of memory.

python -m benchmarks.reliability.large_bodies
"""

import asyncio
import json
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import click

from benchmarks.process import held_by
from benchmarks.proxy import Proxy
from benchmarks.reliability.results import FOLDER, save
from benchmarks.reliability.wishes import Wish
from benchmarks.reliability.world import world
from its_proxy.codesign.errors import RequestError
from its_proxy.protocol.body import MAX_CONTAINERS, MAX_LONG_NUMBERS, MAX_TEXTS, MAX_VALUES, read_body

GOAL = (
    "20 requests of 1 MB, 16 candidates each: at most 120 MiB more; no body of 2 MiB holds the event loop for 100 ms."
)
N_REQUESTS, N_CANDIDATES, MAX_MIB, MAX_MS = 20, 16, 120.0, 100.0
MIB = 2**20
FULL = 2 * MIB - 100


def many(unit: bytes, n: int) -> bytes:
    return b'{"model":"m","x":[' + b",".join([unit] * min(n, FULL // (len(unit) + 1))) + b"]}"


BODIES = {
    "one text": b'{"model":"' + b"a" * FULL + b'"}',
    "a text of escapes": b'{"model":"' + b"\\n" * (FULL // 2) + b'"}',
    "a text of quotes": b'{"model":"' + b'\\"' * (FULL // 2) + b'"}',
    "as many values as are read": many(b"12345", MAX_VALUES - 2),
    "as many objects as are read": many(b"{}", MAX_CONTAINERS - 3),
    "as many keys as are read": b'{"x":{' + b",".join(b'"%06d":1' % number for number in range(MAX_TEXTS - 1)) + b"}}",
    "as many long numbers as are read": many(b"1" * 19, MAX_LONG_NUMBERS),
    "a million values": many(b"1", MIB),
    "a million lists": many(b"[]", MIB),
    "a million levels": b'{"a":' + b"[" * MIB + b"]" * (MIB - 100) + b"}",
    "a number of two million digits": b'{"a":' + b"9" * FULL + b"}",
    "a duplicate key at the end": b'{"a":1,"model":"' + b"a" * FULL + b'","a":2}',
}


def reading_ms(data: bytes) -> float:
    """Processor time, the best of five: what the reading itself needs, however busy the machine is."""
    times = []
    for _ in range(5):
        began = time.thread_time()
        with suppress(RequestError):
            read_body(data)
        times.append(time.thread_time() - began)
    return 1000 * min(times)


async def most_held(folder: Path) -> tuple[float, int]:
    """MiB of its-proxy beyond those at rest, at the worst moment, and how many replies were good."""
    limits = {"candidates": 2 * N_REQUESTS * N_CANDIDATES}
    async with world(folder, {"limits": limits}) as (proxy, _), aiohttp.ClientSession() as http:
        body = json.dumps(_request()).encode()

        async def ask() -> int:
            headers = {"Content-Type": "application/json"}
            async with http.post(f"{proxy.url}/chat/completions", data=bytearray(body), headers=headers) as reply:
                await reply.read()
                return reply.status

        before = held_by(proxy.pid).rss_bytes
        asking = asyncio.gather(*(ask() for _ in range(N_REQUESTS)))
        highest = await _highest(proxy, asking)
        return (highest - before) / MIB, sum(status == 200 for status in await asking)


def _request() -> dict[str, Any]:
    wish = Wish(delay_s=2.0).written("How many are 3 + 4?")
    messages = [{"role": "system", "content": "x" * 1_000_000}, {"role": "user", "content": wish}]
    return {
        "model": "voted",
        "seed": 0,
        "messages": messages,
        "its": {"vote": "always", "n": N_CANDIDATES, "stop": "none"},
    }


async def _highest(proxy: Proxy, work: "asyncio.Future[list[int]]") -> int:
    highest = 0
    while not work.done():
        highest = max(highest, held_by(proxy.pid).rss_bytes)
        await asyncio.wait({work}, timeout=0.005)
    return highest


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(out: Path) -> None:
    figures: dict[str, Any] = {f"reading {name}, ms": round(reading_ms(data), 1) for name, data in BODIES.items()}
    slowest = max(figures.values())
    with TemporaryDirectory() as folder:
        held, n_good = asyncio.run(most_held(Path(folder)))
    figures |= {"slowest reading, ms": slowest, "most memory, MiB more": round(held, 1), "good replies": n_good}
    is_passed = slowest <= MAX_MS and held <= MAX_MIB and n_good == N_REQUESTS
    conditions = {"requests at once": N_REQUESTS, "candidates each": N_CANDIDATES, "MB each": 1}
    path = save("large_bodies", figures, is_passed, conditions, goal=GOAL, folder=out)
    print(json.dumps(figures, indent=1), path)


if __name__ == "__main__":
    main()
