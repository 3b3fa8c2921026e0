"""Votes whose candidates answer with expression bombs: how late the event loop was, and what was left of the workers.

python -m benchmarks.reliability.bombs [--votes 200] [--nice -15]

The same number of votes over plain numbers goes before, for what the machine does anyway. `--nice` puts its-proxy
before the machine's other work, or behind it: as root, on Linux.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import click

from benchmarks.answer_bombs import REFUSED, slow_pair
from benchmarks.proxy import Proxy
from benchmarks.reliability.results import FOLDER, save
from benchmarks.reliability.wishes import Wish
from benchmarks.reliability.world import N, world

GOAL = "200 expression bombs through the server, 8 candidates each: loop lag p99 at most 20 ms, no child left."
QUERY = "How many eggs are 3 eggs and 4 eggs?"
P99_MS, AT_ONCE = 20.0, 4


@dataclass
class Seen:
    """`lags`: how many ticks of its event loop were at most so many seconds late. `pids`: of all its workers."""

    statuses: Counter[int] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    lags: dict[str, dict[float, float]] = field(default_factory=dict)
    pids: set[int] = field(default_factory=set)
    n_left: int = 0


def bombs(number: int) -> tuple[str, ...]:
    """Eight answers of one vote, not those of any other: six that are refused, and two that are given to a worker."""
    refused = [REFUSED[(number * 6 + k) % len(REFUSED)] for k in range(N - 2)]
    return tuple(f"So it is \\boxed{{{text}}}." for text in (*slow_pair(number), *(f"{b}+{number}" for b in refused)))


def plain(number: int) -> tuple[str, ...]:
    return tuple(f"So it is \\boxed{{{number + k % 3}}}." for k in range(N))


async def measure(votes: int, folder: Path, nice: int = 0) -> Seen:
    seen = Seen()
    async with world(folder, {"max_n": N}) as (proxy, _):
        if nice:
            os.setpriority(os.PRIO_PROCESS, proxy.pid, nice)
            Path(f"/proc/{proxy.pid}/autogroup").write_text(str(nice))  # it is a session of its own
        with watching(proxy.pid, seen.pids):
            for name, texts in (("plain", plain), ("bombs", bombs)):
                before = await _lags(proxy)
                await vote(proxy, range(votes), texts, seen)
                seen.lags[name] = {late: n - before[late] for late, n in (await _lags(proxy)).items()}
        seen.pids |= children_of(proxy.pid)
    seen.n_left = sum(map(is_alive, seen.pids))
    return seen


async def vote(proxy: Proxy, numbers: range, texts: Callable[[int], tuple[str, ...]], seen: Seen) -> None:
    """One vote for each number, a few at a time."""
    left = iter(numbers)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:

        async def client() -> None:
            for number in left:
                messages = [{"role": "user", "content": Wish(texts=texts(number)).written(QUERY)}]
                its = {"vote": "always", "stop": "none"}
                body = {"model": "voted", "messages": messages, "seed": 0, "its": its}
                async with http.post(f"{proxy.url}/chat/completions", json=body) as reply:
                    seen.statuses[reply.status] += 1
                    told = (await reply.json()).get("its", {}).get("equivalence", {})
                seen.verdicts.update(told.get("undecided", {}) | {"equal": told.get("equal", 0)})

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))


@contextmanager
def watching(pid: int, pids: set[int]) -> Iterator[None]:
    """Collects the children that a process has at any time."""

    async def look() -> None:
        while True:
            pids.update(children_of(pid))
            await asyncio.sleep(0.05)

    looking = asyncio.ensure_future(look())
    try:
        yield
    finally:
        looking.cancel()


def children_of(pid: int) -> set[int]:
    """Whichever of its threads began them."""
    found: set[int] = set()
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended meanwhile
            found.update(map(int, file.read_text().split()))
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def _lags(proxy: Proxy) -> dict[float, float]:
    samples = await proxy.samples("its_proxy_loop_lag_seconds")
    return {float(labels["le"]): value for labels, value in samples if "le" in labels}


def p99_ms(lags: dict[float, float]) -> float:
    """An upper bound: the end of the bucket that it lies in."""
    return 1000 * min(late for late, n in lags.items() if n >= 0.99 * lags[inf])


def figures_of(seen: Seen, votes: int) -> dict[str, Any]:
    return {
        "votes": votes,
        "answered": seen.statuses[200],
        "lag_p99_ms_at_most": p99_ms(seen.lags["bombs"]),
        "lag_p99_ms_at_most_with_plain_numbers": p99_ms(seen.lags["plain"]),
        "ticks_later_than_100_ms": seen.lags["bombs"][inf] - seen.lags["bombs"][0.1],
        "pairs_refused": seen.verdicts["refused"],
        "pairs_ended_by_a_kill": seen.verdicts["timeout"],
        "pairs_merged": seen.verdicts["equal"],
        "workers_started": len(seen.pids),
        "children_left": seen.n_left,
    }


@click.command(help=__doc__)
@click.option("--votes", default=200, show_default=True)
@click.option("--nice", default=0, show_default=True, type=click.IntRange(-19, 19))
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER)
def main(votes: int, nice: int, folder: Path) -> None:
    load = os.getloadavg()[1]
    with TemporaryDirectory() as name:
        figures = figures_of(asyncio.run(measure(votes, Path(name), nice)), votes)
    is_whole = figures["answered"] == 2 * votes and figures["pairs_merged"] == 0 and figures["children_left"] == 0
    passed = is_whole and figures["lag_p99_ms_at_most"] <= P99_MS
    conditions = {"candidates_each": N, "clients": AT_ONCE, "workers": 2, "nice": nice, "load_before": round(load, 1)}
    print(save("bombs", figures, passed, conditions, goal=GOAL, folder=folder))
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
