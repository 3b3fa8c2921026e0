"""An upstream that is away for a minute, while 500 clients keep asking: how soon all of them are answered again.

python -m benchmarks.reliability.outage [--clients 500] [--away-s 60]

Clients behave as OpenAI's own library does, but never give up: what is refused is asked again after its Retry-After,
else after 0.5 s, doubled up to 8 s, with jitter. The upstream has 32 slots of 0.8 s and carries some 1.5 times
what the clients ask in normal times.
"""

import asyncio
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import aiohttp
import click

from benchmarks.proxy import start_proxy
from benchmarks.reliability.limited import Running, State, start_limited
from benchmarks.reliability.results import FOLDER, save
from tests.serving import manifest, write_checkpoint

GOAL = "60 s outage, 500 clients: goodput back at 95% of what it was within 30 s."
SLOTS, SERVICE_S = 32, 0.8
BACK, WITHIN_S, WINDOW_S, BEFORE_S, AFTER_S = 0.95, 30.0, 5.0, 15.0, 45.0
MANNERS: dict[str, State] = {"it refuses connections": "gone", "it answers 503": "busy"}


class Crowd:
    """Clients that ask, read the answer for a while, and ask again; when each answer came."""

    def __init__(self, url: str, model: str, n_clients: int) -> None:
        self.answered_at: list[float] = []
        self.n_asked = 0
        self._url, self._model = url, model
        # Each asks so often that all together are two thirds of what the upstream can carry.
        self._pause_s = n_clients / (SLOTS / SERVICE_S / 1.5) - SERVICE_S

    async def client(self, http: aiohttp.ClientSession, seed: int) -> None:
        chance, n_failed = random.Random(seed), 0
        await asyncio.sleep(chance.uniform(0, self._pause_s))
        while True:
            wait_s = await self._ask(http)
            if wait_s is None:
                n_failed = 0
                await asyncio.sleep(self._pause_s * chance.uniform(0.8, 1.2))
            else:
                backoff_s = min(0.5 * 2**n_failed, 8.0) * chance.uniform(0.75, 1.0)
                n_failed = min(n_failed + 1, 10)
                await asyncio.sleep(wait_s or backoff_s)

    async def _ask(self, http: aiohttp.ClientSession) -> float | None:
        """None: it was answered; else how long to wait, 0 where nobody says."""
        body = {"model": self._model, "messages": [{"role": "user", "content": "How many are 3 + 4?"}]}
        body |= {"its": {"vote": "off"}} if self._model == "voted" else {}
        self.n_asked += 1
        async with http.post(f"{self._url}/chat/completions", json=body) as reply:
            await reply.read()
        if reply.status == 200:
            self.answered_at.append(monotonic())
            return None
        return float(reply.headers.get("Retry-After", 0))

    def per_second(self, begin: float, end: float) -> float:
        return sum(begin <= at < end for at in self.answered_at) / (end - begin)


async def measure(state: State, model: str, n_clients: int, away_s: float) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        async with (
            start_limited(SLOTS, SERVICE_S) as upstream,
            start_proxy(_settings(Path(folder), upstream), Path(folder)) as proxy,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            await proxy.until("voted", "gpu", "verified", "unverified")
            crowd = Crowd(proxy.url, model, n_clients)
            clients = [asyncio.ensure_future(crowd.client(http, number)) for number in range(n_clients)]
            try:
                await asyncio.sleep(crowd._pause_s + BEFORE_S)
                return await _through_the_outage(crowd, upstream, state, away_s)
            finally:
                for client in clients:
                    client.cancel()
                await asyncio.wait(clients)


async def _through_the_outage(crowd: Crowd, upstream: Running, state: State, away_s: float) -> dict[str, Any]:
    before = crowd.per_second(monotonic() - BEFORE_S, monotonic())
    calls, asked = (await upstream.counters())["n_calls"], crowd.n_asked
    await upstream.become(state)
    await asyncio.sleep(away_s)
    calls, asked = (await upstream.counters())["n_calls"] - calls, crowd.n_asked - asked
    back_at = monotonic()
    await upstream.become("well")
    await asyncio.sleep(AFTER_S)
    windows = [(end, crowd.per_second(back_at + end - WINDOW_S, back_at + end)) for end in _window_ends()]
    return {
        "answered_per_second_before": round(before, 1),
        "asked_per_second_while_away": round(asked / away_s, 1),
        "upstream_calls_per_second_while_away": round(calls / away_s, 1),
        "answered_per_second_after": {f"{end - WINDOW_S:g} to {end:g} s": round(rate, 1) for end, rate in windows},
        "recovered_within_s": next((end for end, rate in windows if rate >= BACK * before), None),
        "upstream_most_waiting": (await upstream.counters())["n_most_waiting"],
    }


def _window_ends() -> list[float]:
    return [WINDOW_S * k for k in range(1, int(AFTER_S / WINDOW_S) + 1)]


def _settings(folder: Path, upstream: Running) -> dict[str, Any]:
    checkpoint = write_checkpoint(folder / "checkpoint", manifest("random"))
    both = {"upstream": "gpu", "served_name": "model"}
    return {
        "upstreams": {"gpu": {"url": upstream.url}},
        "models": {"voted": {**both, "checkpoint": str(checkpoint)}, "passed": both},
        "limits": {"candidates": 40, "queue": 16, "queue_s": 3},
        "log_level": "error",
    }


@click.command(help=__doc__)
@click.option("--clients", default=500, show_default=True)
@click.option("--away-s", default=60.0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER)
def main(clients: int, away_s: float, folder: Path) -> None:
    async def all_of_them() -> dict[str, dict[str, Any]]:
        figures = {}
        for manner, state in MANNERS.items():
            both = await asyncio.gather(*(measure(state, model, clients, away_s) for model in ("voted", "passed")))
            figures |= {f"voted, {manner}": both[0], f"passed, {manner}": both[1]}
        return figures

    figures = asyncio.run(all_of_them())
    passed = all((row["recovered_within_s"] or AFTER_S) <= WITHIN_S for row in figures.values())
    conditions = {"clients": clients, "away_s": away_s, "upstream": f"{SLOTS} slots of {SERVICE_S} s +-20%"}
    print(save("outage", figures, passed, conditions, goal=GOAL, folder=folder))
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
