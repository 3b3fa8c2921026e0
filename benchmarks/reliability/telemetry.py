"""Logs and traces whose receivers are slow, silent or gone, and what requests notice of it.

    python -m benchmarks.reliability.telemetry [--seconds 120] [--per-second 60]

Servers that differ in nothing else are asked in turn, so that whatever else the machine does is the same for all.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import aiohttp
import click
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.reliability.clients import quantile
from benchmarks.reliability.instances import Instance, start
from benchmarks.reliability.results import FOLDER, save
from benchmarks.reliability.upstream import start_upstream
from benchmarks.reliability.wishes import Wish
from benchmarks.reliability.world import models
from tests.server.otlp import receiving

GOAL = "A receiver of logs or traces that is slow, silent or gone: p99 at most 5% higher; what is lost is counted."
ANSWER_S, MAX_RATIO = 0.1, 1.05
N_LINES = 15_000
"""Of the log: more than a pipe, a buffer behind it and a queue before it hold."""
_DROPPED = ("its_proxy_log_lines_dropped", "its_proxy_spans_dropped")
_TRACES = {"ITS_PROXY_TRACES": "true", "OTEL_BSP_SCHEDULE_DELAY": "1000"}


@dataclass(frozen=True, slots=True)
class Way:
    """`receiver`: where traces go, if anywhere. `is_read`: whether anybody reads the log."""

    receiver: str | None = None
    is_read: bool = True

    def environ(self) -> dict[str, str]:
        return {} if self.receiver is None else {**_TRACES, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": self.receiver}


@asynccontextmanager
async def ways() -> AsyncIterator[Mapping[str, Way]]:
    async with receiving() as there, await asyncio.start_server(_say_nothing, "127.0.0.1", 0) as silent:
        yield {
            "neither": Way(),
            "traces, received": Way(there.url),
            "traces, receiver gone": Way("http://127.0.0.1:9/v1/traces"),
            "traces, receiver silent": Way(f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/v1/traces"),
            "log, not read": Way(is_read=False),
        }


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass
    writer.close()


def request(number: int) -> dict[str, Any]:
    model = ("voted", "passed")[number % 2]
    vote = {"its": {"vote": "always"}} if model == "voted" else {}
    messages = [{"role": "user", "content": Wish(delay_s=ANSWER_S).written("How many eggs are 3 eggs and 4 eggs?")}]
    return {"model": model, "messages": messages, "seed": 0, **vote}


async def ask(http: aiohttp.ClientSession, url: str, number: int, lasted: list[float]) -> None:
    began = monotonic()
    async with http.post(f"{url}/chat/completions", json=request(number)) as reply:
        await reply.read()
        reply.raise_for_status()
    lasted.append(monotonic() - began)


async def measure(seconds: float, per_second: float, folder: Path) -> dict[str, Any]:
    lasted: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(start_upstream())
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        given = await stack.enter_async_context(ways())
        servers = {}
        for name, way in given.items():
            config = folder / f"{name}.yaml"
            settings = {"upstreams": {key: {"url": upstream.url} for key in ("gpu", "gpu2")}, "models": models(folder)}
            config.write_text(yaml.safe_dump({**settings, "port": 0, "lame_duck_s": 0}))
            servers[name] = await start(config, folder, way.environ(), is_read=way.is_read)
            stack.push_async_callback(servers[name].end)
            lasted[name] = []
        for name, server in servers.items():
            await _warm(http, server, given[name])
        began, turns = monotonic(), random.Random(0)
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * per_second / len(servers))):
                for place, name in enumerate(turns.sample(list(servers), len(servers))):
                    due = began + (number * len(servers) + place) / per_second
                    await asyncio.sleep(max(0.0, due - monotonic()))
                    group.create_task(ask(http, servers[name].url, number, lasted[name]))
        dropped = {name: await _dropped(http, server) for name, server in servers.items()}
    return {name: {**_figures(lasted[name], lasted["neither"]), **dropped[name]} for name in lasted}


async def _warm(http: aiohttp.ClientSession, server: Instance, way: Way) -> None:
    """Ready, and with a log that takes no more where nobody reads it."""
    async with asyncio.timeout(60):
        while not await _is_ready(http, server):
            await asyncio.sleep(0.1)
    if not way.is_read:
        await _fill_log(*server.place)
    for number in range(10):
        await ask(http, server.url, number, [])


async def _is_ready(http: aiohttp.ClientSession, server: Instance) -> bool:
    async with http.get(server.url.removesuffix("/v1") + "/readyz") as reply:
        return reply.status == 200


async def _fill_log(host: str, port: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    for _ in range(N_LINES // 100):
        writer.write(100 * b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
        for _ in range(100):
            await reader.readuntil(b"}")
    writer.close()


async def _dropped(http: aiohttp.ClientSession, server: Instance) -> dict[str, int]:
    async with http.get(server.url.removesuffix("/v1") + "/metrics") as reply:
        families = list(text_string_to_metric_families(await reply.text()))
    return {
        family.name.removeprefix("its_proxy_"): int(family.samples[0].value)
        for family in families
        if family.name in _DROPPED
    }


def _figures(lasted: list[float], plain: list[float]) -> dict[str, Any]:
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    times = {f"{name}_ms": round(1000 * quantile(lasted, share), 1) for name, share in shares.items()}
    ratios = {
        f"{name}_ratio": round(quantile(lasted, share) / quantile(plain, share), 3) for name, share in shares.items()
    }
    return {"requests": len(lasted), **times, **ratios}


def is_passed(figures: Mapping[str, Any]) -> bool:
    return all(way["p99_ratio"] <= MAX_RATIO for way in figures.values())


@click.command(help=__doc__)
@click.option("--seconds", default=120.0, show_default=True)
@click.option("--per-second", default=60.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(seconds: float, per_second: float, out: Path) -> None:
    with TemporaryDirectory() as folder:
        figures = asyncio.run(measure(seconds, per_second, Path(folder)))
    conditions = {
        "requests a second, all servers together": per_second,
        "seconds": seconds,
        "answers take, s": ANSWER_S,
        "ratios": "to the server with neither traces nor a full log, asked in turn with the others",
    }
    path = save("telemetry", figures, is_passed(figures), conditions, goal=GOAL, folder=out)
    print(json.dumps(figures, indent=1), path)


if __name__ == "__main__":
    main()
