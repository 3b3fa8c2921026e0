"""Twice and ten times the load that an upstream can carry, with and without votes that shrink, and the recovery.

python -m benchmarks.reliability.overload [--double-s 120] [--tenfold-s 60]

The upstream has 32 slots, a candidate holds one for 0.8 s: so the upstream is what is short, not this machine. Clients
come at a fixed rate whatever they hear (an open loop), and do not come back by themselves. The peak is what
a closed loop of as many clients as fit gets answered.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import aiohttp
import click

from benchmarks.proxy import Proxy, start_proxy
from benchmarks.reliability.clients import Reply, quantile, steady_load
from benchmarks.reliability.limited import Running, start_limited
from benchmarks.reliability.results import FOLDER, save
from tests.serving import manifest, write_checkpoint

GOAL = (
    "2x and 10x overload: goodput at least 95% of the 1x peak, rejects under 50 ms (p99) with the right codes, "
    "recovery under 10 s; the same with n shrinking."
)
SLOTS, SERVICE_S, N = 32, 0.8, 8
LIMITS = {"candidates": 40, "queue": 8, "queue_s": 3}
GOODPUT, REJECT_MS, RECOVERY_S = 0.95, 50.0, 10.0
BODY = {"model": "model", "messages": [{"role": "user", "content": "How many eggs are 3 + 4?"}], "max_tokens": 256}
PAUSE_S = 3.0
GAUGES = ("its_proxy_candidates_inflight", "its_proxy_queued_requests")


@dataclass(frozen=True, slots=True)
class Phase:
    """What one rate of requests came to, its first and last second left out."""

    per_second: float
    answered_per_second: float
    codes: dict[str, int]
    accepted_p50_ms: float
    accepted_p99_ms: float
    reject_p99_ms: float | None
    rejects_without_retry_after: int
    shrunk_share: float
    n_mean: float

    @classmethod
    def of(cls, per_second: float, replies: Sequence[Reply]) -> "Phase":
        last = max(reply.began_s for reply in replies)
        counted = [reply for reply in replies if 1.0 <= reply.began_s <= last - 1.0]
        good = [reply for reply in counted if reply.status == 200]
        bad = [reply for reply in counted if reply.status != 200]
        ended = sorted(reply.ended_s for reply in replies if reply.status == 200 and 1.0 <= reply.ended_s <= last)
        n_of = [reply.its["n"] for reply in good if reply.its]
        return cls(
            per_second=round(per_second, 1),
            answered_per_second=round(len(ended) / (last - 1.0), 2),
            codes=dict(Counter(f"{reply.status} {reply.code or ''}".strip() for reply in counted)),
            accepted_p50_ms=round(1000 * quantile([reply.lasted_s for reply in good], 0.5), 1),
            accepted_p99_ms=round(1000 * quantile([reply.lasted_s for reply in good], 0.99), 1),
            reject_p99_ms=round(1000 * quantile([reply.lasted_s for reply in bad], 0.99), 1) if bad else None,
            rejects_without_retry_after=sum("Retry-After" not in (reply.headers or {}) for reply in bad),
            shrunk_share=round(sum(n < N for n in n_of) / max(1, len(n_of)), 3),
            n_mean=round(sum(n_of) / max(1, len(n_of)), 2),
        )


async def peak(proxy: Proxy, seconds: float) -> float:
    """Answers a second to as many clients as find room, each asking again when it is answered."""
    until, answered = monotonic() + seconds, 0

    async def client(http: aiohttp.ClientSession) -> None:
        nonlocal answered
        while monotonic() < until:
            async with http.post(f"{proxy.url}/chat/completions", json=BODY) as reply:
                await reply.read()
                answered += reply.status == 200 and monotonic() < until

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        await asyncio.gather(*(client(http) for _ in range(LIMITS["candidates"] // N + 4)))
    return answered / seconds


async def load(proxy: Proxy, per_second: float, seconds: float) -> Phase:
    return Phase.of(per_second, await steady_load(proxy.url, per_second, seconds, lambda number: BODY))


async def recovery_s(proxy: Proxy, per_second: float) -> float:
    """After an overload at once half the peak: the seconds until no request was turned away or slow any more."""
    replies = await steady_load(proxy.url, per_second / 2, 2 * RECOVERY_S, lambda number: BODY)
    late = [reply.ended_s for reply in replies if reply.status != 200 or reply.lasted_s > 4 * SERVICE_S]
    return round(max(late, default=0.0), 2)


async def measure(min_n: int | None, peak_s: float, double_s: float, tenfold_s: float) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        async with (
            start_limited(SLOTS, SERVICE_S) as upstream,
            start_proxy(_settings(Path(folder), upstream, min_n), Path(folder)) as proxy,
        ):
            await proxy.until("model", "gpu", "verified", "unverified")
            return await _measured(proxy, upstream, peak_s, double_s, tenfold_s)


async def _measured(
    proxy: Proxy, upstream: Running, peak_s: float, double_s: float, tenfold_s: float
) -> dict[str, Any]:
    await peak(proxy, 2.0)  # warm
    best = await peak(proxy, peak_s)
    single = await load(proxy, 0.8 * best, peak_s)
    began_mib = rss_mib(proxy.pid)
    double = await load(proxy, 2 * best, double_s)
    after_double_s = await recovery_s(proxy, best)
    tenfold = await load(proxy, 10 * best, tenfold_s)
    after_tenfold_s = await recovery_s(proxy, best)
    await asyncio.sleep(PAUSE_S)
    left = {
        name: (await proxy.samples(name))[0][1]
        for name in ("its_proxy_candidates_inflight", "its_proxy_queued_requests")
    }
    return {
        "peak_per_second": round(best, 2),
        "below_peak": _row(single, best),
        "double": _row(double, best),
        "tenfold": _row(tenfold, best),
        "recovery_after_double_s": after_double_s,
        "recovery_after_tenfold_s": after_tenfold_s,
        "rss_before_mib": began_mib,
        "rss_after_mib": rss_mib(proxy.pid),
        "left_in_gauges": left,
        "upstream_most_waiting": (await upstream.counters())["n_most_waiting"],
    }


def _row(phase: Phase, best: float) -> dict[str, Any]:
    fields = {name: getattr(phase, name) for name in phase.__slots__}
    return {**fields, "goodput_of_peak": round(phase.answered_per_second / best, 3)}


def has_passed(found: dict[str, Any]) -> bool:
    overloads = (found["double"], found["tenfold"])
    return (
        all(row["goodput_of_peak"] >= GOODPUT for row in overloads)
        and all(row["reject_p99_ms"] is None or row["reject_p99_ms"] < REJECT_MS for row in overloads)
        and all(set(row["codes"]) <= {"200", "503 server_full"} for row in overloads)
        and all(row["rejects_without_retry_after"] == 0 for row in overloads)
        and max(found["recovery_after_double_s"], found["recovery_after_tenfold_s"]) < RECOVERY_S
        and not any(found["left_in_gauges"].values())
    )


def rss_mib(pid: int) -> float:
    """Resident, of one process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024, 1)


def _settings(folder: Path, upstream: Running, min_n: int | None) -> dict[str, Any]:
    checkpoint = write_checkpoint(folder / "checkpoint", manifest("random"))
    return {
        "upstreams": {"gpu": {"url": upstream.url}},
        "models": {"model": {"upstream": "gpu", "checkpoint": str(checkpoint)}},
        "limits": LIMITS,
        "vote": {"n": N, **({"min_n": min_n} if min_n else {})},
        "log_level": "error",
    }


@click.command(help=__doc__)
@click.option("--peak-s", default=20.0, show_default=True)
@click.option("--double-s", default=120.0, show_default=True)
@click.option("--tenfold-s", default=60.0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER)
def main(peak_s: float, double_s: float, tenfold_s: float, folder: Path) -> None:
    whole = asyncio.run(measure(None, peak_s, double_s, tenfold_s))
    shrinking = asyncio.run(measure(3, peak_s, double_s, tenfold_s))
    passed = has_passed(whole) and has_passed(shrinking)
    conditions = {
        "upstream": f"{SLOTS} slots of {SERVICE_S} s +-20%", "n": N, "limits": LIMITS, "min_n": 3,
        "double_s": double_s, "tenfold_s": tenfold_s, "load_average_after": os.getloadavg(),
    }  # fmt: skip
    print(save("overload", {"n fixed": whole, "n shrinking": shrinking}, passed, conditions, goal=GOAL, folder=folder))
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
