"""its-proxy restarted under load, again and again, and every request that was lost or refused meanwhile.

    python -m benchmarks.reliability.rolling_restarts [--restarts 30] [--per-second 50]

Two ways: servers that share one port (`reuse_port`), and servers behind a balancer that asks for their readiness.
"""

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import aiohttp
import click
import yaml

from benchmarks.reliability.clients import quantile
from benchmarks.reliability.instances import Instance, start
from benchmarks.reliability.results import FOLDER, save
from benchmarks.reliability.upstream import start_upstream
from benchmarks.reliability.wishes import Wish
from benchmarks.reliability.world import models

GOAL = "30 rolling restarts at 50 requests/s, plain and streamed, kept and new connections: 0 lost, 0 refused."
WAYS = ("one port", "behind a balancer")
LAME_DUCK_S, LOOK_S = 2.0, 0.1
ANSWERS_S = (0.2, 2.0)


# -- the balancer ------------------------------------------------------------------------------------------------------


class Balancer:
    """Passes each new connection to an instance that says it is ready."""

    def __init__(self) -> None:
        self.instances: list[Instance] = []
        self._ready: list[Instance] = []
        self.n_refused = 0

    async def look(self) -> None:
        """For as long as it runs: asks every instance for its readiness."""
        async with aiohttp.ClientSession() as http:
            while True:
                found = list(self.instances)
                answers = await asyncio.gather(*(_is_ready(http, instance) for instance in found))
                self._ready = [instance for instance, is_ready in zip(found, answers, strict=True) if is_ready]
                await asyncio.sleep(LOOK_S)

    async def until_ready(self, instance: Instance) -> None:
        while instance not in self._ready:
            await asyncio.sleep(LOOK_S)

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        places = [instance.place for instance in self._ready or self.instances]
        for place in random.sample(places, len(places)):
            try:
                behind = await asyncio.open_connection(*place)
            except OSError:
                self.n_refused += 1
                continue
            with suppress(OSError):
                await asyncio.gather(_pass_on(reader, behind[1]), _pass_on(behind[0], writer))
            behind[1].close()
            break
        writer.close()


async def _is_ready(http: aiohttp.ClientSession, instance: Instance) -> bool:
    with suppress(aiohttp.ClientError):
        async with http.get(f"{instance.url.removesuffix('/v1')}/readyz") as reply:
            return reply.status == 200
    return False


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.close()


# -- the clients -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    """How requests ended, and how much longer they took than the upstream did."""

    ends: Counter[str] = field(default_factory=Counter)
    late_s: list[float] = field(default_factory=list)

    def count(self, *ends: str) -> int:
        return sum(n for end, n in self.ends.items() if end in ends)


def request(number: int) -> tuple[dict[str, Any], float]:
    """A body, and how long its answer takes at the upstream."""
    delay_s = random.Random(number).uniform(*ANSWERS_S)
    model, is_stream = ("voted", "passed")[number % 2], number % 4 >= 2
    wish = Wish(delay_s=delay_s, n_chunks=3)
    vote = {"its": {"vote": "always"}} if model == "voted" else {}
    messages = [{"role": "user", "content": wish.written(f"How many eggs are 3 eggs and 4 eggs? ({number})")}]
    return {"model": model, "messages": messages, "seed": 0, "stream": is_stream, **vote}, delay_s


async def ask(http: aiohttp.ClientSession, url: str, number: int, seen: Seen) -> None:
    body, delay_s = request(number)
    began = monotonic()
    try:
        async with http.post(f"{url}/chat/completions", json=body) as reply:
            data = await reply.read()
            is_whole = not body["stream"] or (data.endswith(b"data: [DONE]\n\n") and b'"error"' not in data)
            seen.ends["answered" if reply.status == 200 and is_whole else f"status {reply.status}"] += 1
    except aiohttp.ClientConnectorError:
        seen.ends["refused"] += 1
    except (aiohttp.ClientError, TimeoutError) as error:
        seen.ends[f"lost: {type(error).__name__}"] += 1
    else:
        seen.late_s.append(monotonic() - began - delay_s)


async def load(url: str, per_second: float, is_over: Callable[[], bool], seen: Seen) -> None:
    """An open loop; every other pair of requests opens a connection of its own, the others keep theirs."""
    began, number = monotonic(), 0
    timeout = aiohttp.ClientTimeout(total=60)
    async with AsyncExitStack() as stack:
        kept, new = [
            await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=is_new), timeout=timeout)
            )
            for is_new in (False, True)
        ]
        group = await stack.enter_async_context(asyncio.TaskGroup())
        while not is_over():
            await asyncio.sleep(max(0.0, began + number / per_second - monotonic()))
            group.create_task(ask(new if number % 8 >= 4 else kept, url, number, seen))
            number += 1


# -- the restarts ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(way: str, settings: Mapping[str, Any], folder: Path) -> AsyncIterator[tuple[str, Callable[[], Any]]]:
    """The URL for clients, and what replaces the instance that serves; it returns how long the old one took to leave
    and its exit code."""
    config, balancer = folder / "its.yaml", Balancer()
    is_shared = way == "one port"
    place = {"port": _free_port(), "reuse_port": True} if is_shared else {"port": 0}
    config.write_text(yaml.safe_dump({**settings, **place, "lame_duck_s": LAME_DUCK_S}))
    balancer.instances = [await start(config, folder)]

    async def replace() -> tuple[float, int]:
        fresh = await start(config, folder)
        balancer.instances.insert(0, fresh)
        if not is_shared:
            await balancer.until_ready(fresh)
        ended = await balancer.instances[1].end()
        balancer.instances.pop()
        return ended

    async with AsyncExitStack() as stack:
        stack.push_async_callback(lambda: balancer.instances[0].end())
        url = balancer.instances[0].url
        if not is_shared:
            looking = asyncio.create_task(balancer.look())
            stack.callback(looking.cancel)
            server = await stack.enter_async_context(await asyncio.start_server(balancer.take, "127.0.0.1", 0))
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            await balancer.until_ready(balancer.instances[0])
        yield url, replace


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


async def measure(way: str, n_restarts: int, per_second: float, folder: Path) -> dict[str, Any]:
    """Figures of one way."""
    seen, left_s, codes = Seen(), [], Counter[int]()
    async with start_upstream() as upstream:
        upstreams = {name: {"url": upstream.url} for name in ("gpu", "gpu2")}
        settings = {"upstreams": upstreams, "models": models(folder), "log_level": "warning"}
        async with serving(way, settings, folder) as (url, replace):
            is_over = asyncio.Event()
            loading = asyncio.create_task(load(url, per_second, is_over.is_set, seen))
            try:
                for _ in range(n_restarts):
                    seconds, code = await replace()
                    left_s.append(seconds)
                    codes[code] += 1
            finally:
                is_over.set()
                await loading
    n = seen.ends.total()
    refused, answered = seen.count("refused"), seen.count("answered")
    return {
        "restarts": n_restarts,
        "requests": n,
        "answered": answered,
        "refused": refused,
        "lost": n - answered - refused,
        "ended otherwise": {end: count for end, count in seen.ends.items() if end != "answered"},
        "exit_codes": {str(code): count for code, count in codes.items()},
        "leaving_max_s": round(max(left_s), 2),
        "late_p50_ms": round(1000 * quantile(seen.late_s, 0.5), 1),
        "late_p99_ms": round(1000 * quantile(seen.late_s, 0.99), 1),
    }


def is_passed(figures: Mapping[str, Any]) -> bool:
    return all(way["lost"] == way["refused"] == 0 and set(way["exit_codes"]) == {"0"} for way in figures.values())


@click.command(help=__doc__)
@click.option("--restarts", default=30, show_default=True)
@click.option("--per-second", default=50.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(restarts: int, per_second: float, out: Path) -> None:
    figures = {}
    for way in WAYS:
        with TemporaryDirectory() as folder:
            figures[way] = asyncio.run(measure(way, restarts, per_second, Path(folder)))
    conditions = {"requests a second": per_second, "lame_duck_s": LAME_DUCK_S, "answers take, s": list(ANSWERS_S)}
    path = save("rolling_restarts", figures, is_passed(figures), conditions, goal=GOAL, folder=out)
    print(json.dumps(figures, indent=1), path)


if __name__ == "__main__":
    main()
