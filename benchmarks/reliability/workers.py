"""kill -9 of equivalence workers while votes need them: every client is answered, and another worker takes over.

python -m benchmarks.reliability.workers [--seconds 60]
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.process import held_by
from benchmarks.reliability.clients import Reply, quantile, steady_load
from benchmarks.reliability.results import FOLDER, save
from benchmarks.reliability.wishes import Wish
from benchmarks.reliability.world import N, world

GOAL = "kill -9 of one of two equivalence workers, again and again under load: nobody notices."
PER_SECOND, KILL_EVERY_S, GONE_WITHIN_S, START_WITHIN_S = 5.0, 2.0, 5.0, 60.0
N_WORKERS = 2
LOADED_BYTES = 40 * 2**20
"""What a worker holds once it has loaded what it computes with."""
WORKER = b"equivalence/worker.py"


@dataclass(frozen=True, slots=True)
class Seen:
    """What clients saw without kills and with them; how many workers were killed, and were there at the end."""

    calm: Sequence[Reply]
    killing: Sequence[Reply]
    n_killed: int
    n_at_the_end: int


def vote_over_two_spellings(number: int) -> dict[str, Any]:
    """A vote that only a worker can unite: half of the candidates say k sqrt(3), the others sqrt(3 k^2)."""
    k = number + 2
    wish = Wish(texts=(f"\\boxed{{{k}\\sqrt{{3}}}}", f"\\boxed{{\\sqrt{{{3 * k * k}}}}}"))
    messages = [{"role": "user", "content": wish.written("How long is the diagonal?")}]
    return {"model": "voted", "seed": 0, "messages": messages, "its": {"vote": "always", "stop": "none"}}


def workers_of(pid: int) -> list[int]:
    """Process ids of the workers among the children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z" and WORKER in (stat.parent / "cmdline").read_bytes():
                found.append(int(stat.parent.name))
    return sorted(found)


@asynccontextmanager
async def killing(pid: int, every_s: float) -> AsyncIterator[list[int]]:
    """One worker of the process after the other, while the block runs, each when all are there; the list of the killed
    grows."""
    killed: list[int] = []

    async def kill() -> None:
        while True:
            await until_loaded(pid, N_WORKERS)
            await asyncio.sleep(every_s)  # the younger one may still be loading the rest
            killed.append(workers_of(pid)[0])
            os.kill(killed[-1], signal.SIGKILL)

    task = asyncio.ensure_future(kill())
    try:
        yield killed
    finally:
        task.cancel()
        await asyncio.wait({task})


def _has_loaded(worker: int) -> bool:
    try:
        return held_by(worker).rss_bytes > LOADED_BYTES
    except OSError:
        return False  # it has just ended


async def until_loaded(pid: int, n_workers: int) -> None:
    """Until so many workers of the process can compare."""
    async with asyncio.timeout(START_WITHIN_S):
        while sum(map(_has_loaded, workers_of(pid))) < n_workers:
            await asyncio.sleep(0.1)


async def measure(seconds: float, folder: Path, every_s: float = KILL_EVERY_S) -> Seen:
    """Raises TimeoutError where a worker outlives its-proxy."""
    async with world(folder, {"equivalence_workers": N_WORKERS}) as (proxy, _):
        await steady_load(proxy.url, 1, 1, lambda _: vote_over_two_spellings(-1))  # has them started
        await until_loaded(proxy.pid, N_WORKERS)
        calm = await steady_load(proxy.url, PER_SECOND, seconds, vote_over_two_spellings)
        first = len(calm)
        async with killing(proxy.pid, every_s) as killed:
            hurt = await steady_load(proxy.url, PER_SECOND, seconds, lambda k: vote_over_two_spellings(first + k))
        at_the_end = workers_of(proxy.pid)
    async with asyncio.timeout(GONE_WITHIN_S):
        while any(Path(f"/proc/{worker}").exists() for worker in at_the_end):
            await asyncio.sleep(0.05)
    return Seen(calm, hurt, len(killed), len(at_the_end))


def figures_of(seen: Seen) -> dict[str, Any]:
    def of(replies: Sequence[Reply]) -> dict[str, Any]:
        times = [1000 * reply.lasted_s for reply in replies]
        united = sum(reply.its is not None and reply.its["agreement"] == 1 for reply in replies)
        return {
            "requests": len(replies),
            "not_200": sum(reply.status != 200 for reply in replies),
            "votes_united": united,
            "p50_ms": round(quantile(times, 0.5), 1),
            "p99_ms": round(quantile(times, 0.99), 1),
        }

    calm, hurt = of(seen.calm), of(seen.killing)
    return {**hurt, "killed": seen.n_killed, "workers_at_the_end": seen.n_at_the_end, "without_kills": calm}


def has_passed(figures: Mapping[str, Any]) -> bool:
    """Every client is answered, and at most the pair that a killed worker held counts as unequal."""
    n_apart = figures["requests"] - figures["votes_united"]
    return figures["not_200"] == 0 and figures["killed"] > 0 and n_apart <= figures["killed"]


@click.command(help=__doc__)
@click.option("--seconds", default=60.0, show_default=True, help="Once without kills, and once more with them.")
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(seconds: float, out: Path) -> None:
    with TemporaryDirectory() as folder:
        figures = figures_of(asyncio.run(measure(seconds, Path(folder))))
    conditions = {
        "votes a second": PER_SECOND,
        "seconds between kills": f"{KILL_EVERY_S:g}, and until both workers are there again",
        "votes": f"{N} candidates in two spellings that only a worker can unite, every vote with two of its own",
    }
    path = save("workers", figures, has_passed(figures), conditions, goal=GOAL, folder=out)
    print(json.dumps(figures), path)


if __name__ == "__main__":
    main()
