"""What a request costs: CPU time of a server that is a process of its own, and steps counted in one that is not."""

import asyncio
import io
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.process import held_by
from benchmarks.scaling.axes import Ask
from its_proxy.server.logs import writing_logs
from tests.counted import counting
from tests.serving import serving

ROOT = Path(__file__).parents[2]
ROUNDS = 3
# A round is at least so much work, or so many requests.
ROUND_CPU_S, ROUND_REQUESTS = 0.1, 200


@dataclass(frozen=True)
class Process:
    """A server that runs, what it took until it could answer, and what it holds then."""

    url: str
    pid: int
    start_cpu_s: float
    rss_mib: float

    @property
    def cpu_s(self) -> float:
        return cpu_s(self.pid)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process by Linux's clock of it, which its scheduler keeps to the nanosecond."""
    return time.clock_gettime((~pid << 3) | 2)


@asynccontextmanager
async def server_process(settings: dict[str, Any]) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.scaling.server"),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps({"port": 0, **settings}).encode())
        process.stdin.close()
        url = (await process.stdout.readline()).decode().strip()
        assert url, "the server did not start"
        await _all_known(url.removesuffix("/v1"))
        yield Process(url, process.pid, cpu_s(process.pid), held_by(process.pid).rss_bytes / 2**20)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _all_known(root: str) -> None:
    """Until every handshake has a verdict: what it costs is a cost of the start."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(300):
        while True:
            async with http.get(f"{root}/readyz") as reply:
                counts = await reply.json()
            if counts["serving"] == counts["models"]:
                return
            await asyncio.sleep(0.05)


async def cpu_ms(server: Process, ask: Ask) -> float:
    """Of one request: the least of some rounds, since what else the machine does can only add to it."""
    async with aiohttp.ClientSession() as http:
        send = _sender(http, server.url, ask)
        for _ in range(3):
            await send()
        return min([await _round(server, send) for _ in range(ROUNDS)])


async def _round(server: Process, send: Callable[[], Awaitable[None]]) -> float:
    began, n_sent = server.cpu_s, 0
    while (spent := server.cpu_s - began) < ROUND_CPU_S and n_sent < ROUND_REQUESTS:
        await send()
        n_sent += 1
    return 1000 * spent / n_sent


async def steps(settings: dict[str, Any], asks: Sequence[Mapping[str, Ask]]) -> list[dict[str, int]]:
    """Of one request each, counted in this process."""
    with writing_logs("error", "json"):
        async with serving(settings) as server, aiohttp.ClientSession() as http:
            return [{name: await _steps(http, server.url, ask) for name, ask in of_size.items()} for of_size in asks]


async def _steps(http: aiohttp.ClientSession, url: str, ask: Ask) -> int:
    """The least of some tries: an answer that comes in two packets takes a few more."""
    send = _sender(http, url, ask)
    await send()  # fills what is remembered
    tries = []
    for _ in range(ROUNDS):
        with counting() as counted:
            await send()
        tries.append(counted.total())
    return min(tries)


def _sender(http: aiohttp.ClientSession, url: str, ask: Ask) -> Callable[[], Awaitable[None]]:
    headers = {"Authorization": f"Bearer {ask.key}"} if ask.key else {}
    body = json.dumps(ask.fields).encode() if ask.path is None else b""
    root = url.removesuffix("/v1")

    async def send() -> None:
        if ask.path is not None:
            request = http.get(root + ask.path, headers=headers)
        else:
            # As a file: aiohttp warns of large bytes.
            request = http.post(f"{url}/chat/completions", data=io.BytesIO(body), headers=headers)
        async with request as reply:
            data = await reply.read()
            assert reply.status == 200, data

    return send
