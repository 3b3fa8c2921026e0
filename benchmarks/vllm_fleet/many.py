"""64 voted clients for two minutes: no error, nothing left open, and memory that does not grow."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from math import fsum, sqrt

from benchmarks.process import Held, held_by
from benchmarks.proxy import start_proxy
from benchmarks.vllm_fleet.clients import Reply, clients, write_replies
from benchmarks.vllm_fleet.fleet import ALIAS, OLD, SERVED, settings
from benchmarks.vllm_fleet.part import Part
from benchmarks.vllm_fleet.servers import PLACES, places
from its_proxy.statistics import Estimate

N_CLIENTS = 64
WARM_UP_S = 30.0
BLOCK_S = 10
POLL_S = 10.0  # longer than pooled connections live, so that at rest there is none
MIB = 2**20
SAMPLES = "samples.json"
FLAT_MIB_A_MINUTE = 1.0
# Student's t for 95%, by degrees of freedom; beyond the table the normal value is near enough.
_T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 10: 2.23, 12: 2.18,
        15: 2.13, 20: 2.09, 30: 2.04}  # fmt: skip


async def many(part: Part, queries: list[str], *, n_servers: int, seconds: float) -> None:
    """A sample of what its-proxy holds every second, before, during and after the load."""
    part.conditions = f"{N_CLIENTS} clients, each the next query at once, for {seconds:g} s; {n_servers} server(s)."
    samples: list[tuple[float, Held]] = []
    async with places(part.folder, PLACES[:n_servers], part.progress) as fleet:
        await asyncio.gather(*(place.start(OLD) for place in fleet.values()))
        async with start_proxy(settings(fleet, {OLD: 1}, poll_s=POLL_S), part.folder) as proxy:
            await asyncio.gather(*(proxy.until(OLD, name, *SERVED) for name in fleet))
            before = await _at_rest(proxy.pid)
            part.event(f"{N_CLIENTS} clients begin; its-proxy at rest: {_said(before)}")
            async with clients(N_CLIENTS, proxy.url, ALIAS, queries) as load:
                while load.now() < seconds:
                    samples.append((load.now(), held_by(proxy.pid)))
                    await asyncio.sleep(1 - time.monotonic() % 1)
                    if len(samples) % 20 == 0:
                        part.progress(f"{len(load.replies)} replies, {_said(samples[-1][1])}")
            after = await _at_rest(proxy.pid)
            part.event(f"the clients have ended; its-proxy at rest: {_said(after)}")
    write_replies(load.replies, part.folder / "replies.jsonl")
    _judge(part, load.replies, seconds, before, after, samples)


def _judge(
    part: Part,
    replies: Sequence[Reply],
    seconds: float,
    before: Held,
    after: Held,
    samples: Sequence[tuple[float, Held]],
) -> None:
    statuses = Counter(reply.status for reply in replies)
    degraded = sum(reply.degraded is not None for reply in replies)
    part.check(set(statuses) == {200} and not degraded, "replies by status", f"{dict(statuses)}, {degraded} degraded")
    part.check(after.connections <= before.connections, "established connections at rest, before and after",
               f"{before.connections} and {after.connections}")  # fmt: skip
    part.check(after.descriptors <= before.descriptors, "open descriptors at rest, before and after",
               f"{before.descriptors} and {after.descriptors}")  # fmt: skip
    warm = [(at, held.rss_bytes) for at, held in samples if WARM_UP_S <= at < seconds]
    growth = slope(warm)
    found = f"{growth.value:+.2f} [{growth.low:+.2f}, {growth.high:+.2f}] MiB a minute"
    asked = f"growth of RSS after {WARM_UP_S:g} s, certainly below {FLAT_MIB_A_MINUTE:g} MiB a minute"
    part.check(growth.high < FLAT_MIB_A_MINUTE, asked, found)
    waits = sorted(reply.ended_s - reply.began_s for reply in replies)
    n_in_time = sum(reply.ended_s <= seconds for reply in replies)
    peak = max(held.connections for _, held in samples)
    part.add_rows([{
        "what": part.name, "queries": len(replies), "queries a second": f"{n_in_time / seconds:.1f}",
        "p50 s": f"{waits[len(waits) // 2]:.1f}", "p99 s": f"{waits[int(0.99 * len(waits))]:.1f}",
        "most connections": peak, "RSS MiB before": f"{before.rss_bytes / MIB:.1f}",
        f"at {WARM_UP_S:g} s": f"{warm[0][1] / MIB:.1f}", "at the end": f"{warm[-1][1] / MIB:.1f}",
        "after": f"{after.rss_bytes / MIB:.1f}", "growth after warm-up": found,
    }])  # fmt: skip
    (part.folder / SAMPLES).write_text(json.dumps([(at, asdict(held)) for at, held in samples]))


def slope(samples: Sequence[tuple[float, int]]) -> Estimate:
    """MiB a minute with its 95% interval, by least squares over the means of blocks of 10 s.

    Neighbouring seconds are hardly independent; blocks are nearer to it.
    """
    blocks: dict[int, list[int]] = {}
    for at, rss in samples:
        blocks.setdefault(int(at // BLOCK_S), []).append(rss)
    xs = [(number + 0.5) * BLOCK_S / 60 for number in blocks]
    ys = [fsum(values) / len(values) / MIB for values in blocks.values()]
    n, x_mean, y_mean = len(xs), fsum(xs) / len(xs), fsum(ys) / len(ys)
    spread = fsum((x - x_mean) ** 2 for x in xs)
    value = fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
    rest = fsum((y - y_mean - value * (x - x_mean)) ** 2 for x, y in zip(xs, ys, strict=True))
    half = _t95(n - 2) * sqrt(rest / (n - 2) / spread)
    return Estimate(value, value - half, value + half)


def _t95(freedom: int) -> float:
    known = [degrees for degrees in _T95 if degrees <= freedom]
    return _T95[max(known)] if known and freedom <= 30 else 2.04


async def _at_rest(pid: int) -> Held:
    """After pooled connections have run out; the least of some seconds, for a look at a model list comes and goes."""
    await asyncio.sleep(8)
    held = []
    for _ in range(40):
        held.append(held_by(pid))
        await asyncio.sleep(0.2)
    return Held(held[-1].rss_bytes, min(h.descriptors for h in held), min(h.connections for h in held))


def _said(held: Held) -> str:
    return f"{held.rss_bytes / MIB:.1f} MiB, {held.descriptors} descriptors, {held.connections} connections"
