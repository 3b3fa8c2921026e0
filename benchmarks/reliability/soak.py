"""A long time under mixed load: half streams, clients that leave, upstreams that fail, answers that are bombs.

    python -m benchmarks.reliability.soak [--requests 300000] [--per-second 100] [--folder soak-run]

What its-proxy holds is sampled every five seconds; `--folder` keeps the samples as they come.
"""

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from itertools import count, islice
from math import inf
from pathlib import Path
from statistics import median, median_low
from time import monotonic
from typing import Any

import aiohttp
import click

from benchmarks.process import held_by
from benchmarks.proxy import Proxy
from benchmarks.reliability.clients import Bare, quantile
from benchmarks.reliability.observed import look
from benchmarks.reliability.results import FOLDER, save
from benchmarks.reliability.wishes import Wish
from benchmarks.reliability.workers import N_WORKERS, START_WITHIN_S
from benchmarks.reliability.world import world
from benchmarks.vllm_fleet.many import slope
from tests.faults.faults import FAULTS

GOAL = (
    "300,000 requests or 60 minutes, half of them streams, 10% disconnects, 5% faults, 1% expression bombs: memory at "
    "the end at most 3% over that after 5 minutes, descriptors and tasks back to where they began."
)
SHARES = {"leaves": 0.10, "fault": 0.05, "bomb": 0.01}
KINDS = ("sound", *SHARES)
# A server that asks for a pause of seconds would be left alone, and no fault be suffered any more.
SUFFERED = sorted(FAULTS.keys() - {"429-with-RA"})
QUERY = "How many eggs are 3 eggs and 4 eggs?"
DEADLINE_S, TIMERS = 8.0, {"first_byte_timeout_s": 3.0, "idle_timeout_s": 3.0}
HANGS_AFTER_S = DEADLINE_S + 5.0
EVERY_S, WARM_S, WINDOW_S, MAX_GROWTH = 5.0, 300.0, 300.0, 0.03
MAX_IN_FLIGHT = 96
N_REQUESTS, MINUTES = 300_000, 60.0
MIB = 2**20
BOMBS = (
    "\\boxed{9^{9^{9^{9}}}}",
    "\\boxed{9**9**9**9}",
    "\\boxed{" + "(" * 200 + "1" + ")" * 200 + "}",
    "\\boxed{\\sqrt{\\sqrt{10^{10^{10}}}}}",
    "\\boxed{((((10^9)!)!)!)!}",
    "\\boxed{" + "+".join(f"x_{{{k}}}^{{{k}}}" for k in range(60)) + "}",
    "\\boxed{" + "9" * 5000 + "}",
    "\\boxed{(1+\\sqrt{2})^{60}}",
    "\\boxed{(\\sqrt{2}+1)^{61}-\\sqrt{7}}",
    "\\boxed{\\frac{1}{" * 60 + "2" + "}}" * 60,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What its-proxy held so many seconds after the load began, and how many requests it had answered."""

    at: float
    rss_bytes: int
    descriptors: int
    tasks: int
    requests: int


@dataclass(slots=True)
class Seen:
    """What clients saw: by kind of request, how each ended."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    n_streams: int = 0
    unexpected: Counter[str] = field(default_factory=Counter)
    lasted_s: list[float] = field(default_factory=list)

    @property
    def n(self) -> int:
        return self.ends.total()

    def count(self, kind: str, end: str, lasted_s: float = 0.0) -> None:
        self.ends[kind, end] += 1
        if lasted_s > HANGS_AFTER_S:
            self.unexpected[f"{kind}: answered after more than {HANGS_AFTER_S:g} s"] += 1
        if kind in ("sound", "bomb", "client") and end != "200":
            self.unexpected[f"{kind}: {end}"] += 1
        if kind == "sound":
            self.lasted_s.append(lasted_s)


def request(number: int) -> tuple[str, dict[str, Any]]:
    """The kind and the body of one request: the same in every run."""
    draw = random.Random(number)
    kind, share = "sound", draw.random()
    for name, part in SHARES.items():
        kind, share = (name if 0 <= share < part else kind), share - part
    model = draw.choice(["passed", "passed", "voted", "counted"])
    wish = Wish(delay_s=draw.uniform(0, 0.02), n_chunks=3)
    if kind == "fault":
        # The others must not suffer for it, as they would if their server failed or rested.
        model, fault = f"{model}-2", draw.choice(SUFFERED)
        wish = Wish(faults={"all" if draw.random() < 0.5 else str(draw.randrange(4)): fault})
    elif kind == "bomb":
        model, wish = draw.choice(["voted", "counted"]), Wish(texts=tuple(draw.sample(BOMBS, 4)))
    elif kind == "leaves":
        wish = Wish(n_answering=draw.choice([0, 1, 2, 4]), n_chunks=200, chunk_delay_s=0.01)
    vote = {} if model.startswith("passed") else {"its": {"vote": "always"}}
    messages = [{"role": "user", "content": wish.written(f"{QUERY} ({number % 5000})")}]
    return kind, {"model": model, "messages": messages, "seed": 0, "stream": draw.random() < 0.5, **vote}


def numbers_of(kind: str, n: int) -> list[int]:
    """The first so many requests of a kind."""
    return list(islice((number for number in count() if request(number)[0] == kind), n))


async def ask(http: aiohttp.ClientSession, url: str, number: int, seen: Seen) -> None:
    kind, body = request(number)
    seen.n_streams += body["stream"]
    began = monotonic()
    if kind == "leaves":
        draw = random.Random(-number - 1)
        client = await Bare.asking(url, body, share=draw.choice([0.5, 1, 1, 1, 1]))
        await asyncio.sleep(draw.uniform(0, 0.05))
        client.leave(how := draw.choice(["fin", "rst", "half-close"]))
        await client.is_let_go(1.0)
        client.close()
        seen.count(kind, how)
        return
    try:
        async with http.post(f"{url}/chat/completions", json=body) as reply:
            end = str(reply.status)
            async for chunk in reply.content.iter_any():
                end = "200 broken off" if end == "200" and body["stream"] and b'"error":' in chunk else end
    except (aiohttp.ClientError, TimeoutError) as error:
        end = type(error).__name__
    seen.count(kind, end, monotonic() - began)


async def load(url: str, numbers: Sequence[int], per_second: float, seconds: float, seen: Seen) -> None:
    """A steady rate, as long as no more than 96 requests are under way: else the machine sets the pace."""
    places, began = asyncio.Semaphore(MAX_IN_FLIGHT), monotonic()
    timeout = aiohttp.ClientTimeout(total=60)

    async def one(http: aiohttp.ClientSession, number: int) -> None:
        try:
            await ask(http, url, number, seen)
        except OSError as error:
            seen.count("client", type(error).__name__)
        finally:
            places.release()

    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=1.0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http, asyncio.TaskGroup() as group:
        for turn, number in enumerate(numbers):
            await asyncio.sleep(max(0.0, began + turn / per_second - monotonic()))
            if monotonic() - began > seconds:
                break
            await places.acquire()
            group.create_task(one(http, number))


async def sample(proxy: Proxy, window: Path, began: float, n: int) -> Sample:
    held, inside = held_by(proxy.pid), await look(window)
    return Sample(round(monotonic() - began, 1), held.rss_bytes, held.descriptors, inside["tasks"], n)


async def watch(proxy: Proxy, window: Path, began: float, seen: Seen, log: Path, samples: list[Sample]) -> None:
    while True:
        samples.append(await sample(proxy, window, began, seen.n))
        with log.open("a") as lines:
            lines.write(json.dumps(asdict(samples[-1])) + "\n")
        await asyncio.sleep(EVERY_S)


async def at_rest(proxy: Proxy, window: Path, seconds: float) -> Sample:
    """What is usual for a while; a look at a model list comes and goes."""
    began, samples = monotonic(), list[Sample]()
    while monotonic() - began < seconds:
        samples.append(await sample(proxy, window, began, 0))
        await asyncio.sleep(0.2)
    descriptors, tasks = (
        median_low(sorted(held)) for held in zip(*((s.descriptors, s.tasks) for s in samples), strict=True)
    )
    return Sample(0, samples[-1].rss_bytes, descriptors, tasks, 0)


async def until_ready(window: Path, n_workers: int) -> None:
    """Until so many equivalence workers wait for a pair; one that is just starting holds less."""
    async with asyncio.timeout(START_WITHIN_S):
        while (await look(window))["ready_workers"] < n_workers:
            await asyncio.sleep(0.1)


async def until_at_rest(proxy: Proxy, window: Path, wanted: Sample, timeout_s: float = 60.0) -> Sample:
    """Returns when no more is held than `wanted`; else the last word after a while."""
    began = monotonic()
    while True:
        now = await sample(proxy, window, began, 0)
        is_settled = now.descriptors <= wanted.descriptors and now.tasks <= wanted.tasks
        if is_settled or now.at > timeout_s:
            return now
        await asyncio.sleep(0.5)


@dataclass(frozen=True, slots=True)
class Soaked:
    """The whole run: at rest before and after, and all between."""

    before: Sample
    after: Sample
    samples: Sequence[Sample]
    seen: Seen
    n_upstream_running: int


async def soak(n_requests: int, per_second: float, seconds: float, folder: Path, rest_s: float = 10.0) -> Soaked:
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()  # its settings name it, too
    window, log = folder / "window.sock", folder / "samples.jsonl"
    window.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    settings = {"max_n": 4, "vote": {"deadline_s": DEADLINE_S}, "gpu": TIMERS}
    program = ("benchmarks.reliability.observed", "--window", str(window))
    seen, samples = Seen(), list[Sample]()
    async with world(folder, settings, program=program) as (proxy, upstream):
        # What is opened, started or imported on first use is no leak.
        first = [number for kind in KINDS for number in numbers_of(kind, 20)]
        await load(proxy.url, first, 100, inf, Seen())
        if find_spec("sympy") is not None:
            await until_ready(window, N_WORKERS)
        before = await at_rest(proxy, window, rest_s)
        watching = asyncio.ensure_future(watch(proxy, window, monotonic(), seen, log, samples))
        try:
            await load(proxy.url, range(n_requests), per_second, seconds, seen)
        finally:
            watching.cancel()
            await asyncio.wait({watching})
        after = await until_at_rest(proxy, window, before)
        running = (await upstream.counters()).n_running
    return Soaked(before, after, samples, seen, running)


def rss_mib(samples: Sequence[Sample], begin_s: float, end_s: float) -> float:
    """The middle one of a while."""
    return median(sample.rss_bytes for sample in samples if begin_s <= sample.at <= end_s) / MIB


def figures_of(run: Soaked, warm_s: float = WARM_S) -> dict[str, Any]:
    end = run.samples[-1].at
    warm = rss_mib(run.samples, warm_s, warm_s + WINDOW_S)
    late = rss_mib(run.samples, end - WINDOW_S, end)
    growth = slope([(sample.at, sample.rss_bytes) for sample in run.samples if sample.at >= warm_s])
    kinds = Counter[str]()
    for (kind, _), n in run.seen.ends.items():
        kinds[kind] += n
    return {
        "requests": run.seen.n,
        "minutes": round(end / 60, 1),
        "streams_percent": round(100 * run.seen.n_streams / run.seen.n, 1),
        **{f"{kind}_percent": round(100 * kinds[kind] / run.seen.n, 1) for kind in SHARES},
        "rss_mib_at_rest_before": round(run.before.rss_bytes / MIB, 1),
        "rss_mib_after_warm_up": round(warm, 1),
        "rss_mib_at_the_end": round(late, 1),
        "rss_growth_percent": round(100 * (late / warm - 1), 2),
        "rss_mib_a_minute": [round(value, 3) for value in (growth.value, growth.low, growth.high)],
        "descriptors_before_after": [run.before.descriptors, run.after.descriptors],
        "tasks_before_after": [run.before.tasks, run.after.tasks],
        "candidates_left_running": run.n_upstream_running,
        "requests_without_a_fault_not_answered_200": sum(run.seen.unexpected.values()),
        "sound_p50_ms": round(1000 * quantile(run.seen.lasted_s, 0.5), 1),
        "sound_p99_ms": round(1000 * quantile(run.seen.lasted_s, 0.99), 1),
    }


def has_passed(figures: Mapping[str, Any]) -> bool:
    is_long = figures["requests"] >= N_REQUESTS or figures["minutes"] >= MINUTES
    return (
        is_long
        and figures["rss_growth_percent"] <= 100 * MAX_GROWTH
        and figures["descriptors_before_after"][1] <= figures["descriptors_before_after"][0]
        and figures["tasks_before_after"][1] <= figures["tasks_before_after"][0]
        and figures["candidates_left_running"] == figures["requests_without_a_fault_not_answered_200"] == 0
    )


@click.command(help=__doc__)
@click.option("--requests", default=N_REQUESTS, show_default=True)
@click.option("--per-second", default=100.0, show_default=True)
@click.option("--minutes", default=MINUTES, show_default=True, help="Ends then, whatever is left of the requests.")
@click.option("--warm-s", default=WARM_S, show_default=True, help="Memory is compared with what it is then.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("soak-run"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(requests: int, per_second: float, minutes: float, warm_s: float, folder: Path, out: Path) -> None:
    load_before = os.getloadavg()[1]
    run = asyncio.run(soak(requests, per_second, 60 * minutes, folder))
    figures = figures_of(run, warm_s)
    conditions = {
        "requests a second, at most": per_second,
        "models": "half passed through, a quarter voted by 4, a quarter voted by 4 streamed candidates",
        "memory": f"the median of five minutes of samples, from {warm_s:g} s on and at the end",
        "load average before": round(load_before, 1),
    }
    command = f"python -m benchmarks.reliability.soak --requests {requests} --per-second {per_second:g}"
    ends = {f"{kind}: {end}": count for (kind, end), count in sorted(run.seen.ends.items())}
    path = save("soak", figures, has_passed(figures), conditions, goal=GOAL, command=command, folder=out, ends=ends,
                unexpected=dict(run.seen.unexpected),
                rss_mib=[(sample.at, round(sample.rss_bytes / MIB, 1)) for sample in run.samples])  # fmt: skip
    print(json.dumps(figures, indent=1), dict(run.seen.unexpected), path)


if __name__ == "__main__":
    main()
