"""An upstream that answers 503 to everything, under a steady load: how many calls reach it for each request.

python -m benchmarks.reliability.retry_budget [--seconds 60]

With one target, and with two that fail together; one candidate a request, and votes of 8. Clients do not come
back by themselves.
"""

import asyncio
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.proxy import start_proxy
from benchmarks.reliability.clients import quantile, steady_load
from benchmarks.reliability.limited import start_limited
from benchmarks.reliability.results import FOLDER, save
from tests.serving import manifest, write_checkpoint

GOAL = "60 s of 503 at 50 requests/s: at most 1.25 calls for each candidate that was to be asked."
MOST, RATE = 1.25, 50.0


async def measure(seconds: float, n_targets: int, n: int) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        async with start_limited(512, 0.01) as one, start_limited(512, 0.01) as two:
            upstreams = [one, two][:n_targets]
            async with start_proxy(_settings(Path(folder), [u.url for u in upstreams]), Path(folder)) as proxy:
                for k in range(n_targets):
                    await proxy.until("model", f"gpu{k}", "verified", "unverified")
                for upstream in upstreams:
                    await upstream.become("busy")
                body = {"model": "model", "messages": [{"role": "user", "content": "How many are 3 + 4?"}]}
                body["its"] = {"n": n} if n > 1 else {"vote": "off"}
                replies = await steady_load(proxy.url, RATE / n, seconds, lambda number: body)
                calls = sum([(await upstream.counters())["n_calls"] for upstream in upstreams])
    wanted = n * len(replies)
    return {
        "targets": n_targets,
        "n": n,
        "candidates_wanted": wanted,
        "calls": calls,
        "calls_per_candidate": round(calls / wanted, 3),
        "codes": dict(Counter(f"{reply.status} {reply.code or ''}".strip() for reply in replies)),
        "p99_ms": round(1000 * quantile([reply.lasted_s for reply in replies], 0.99), 1),
    }


def _settings(folder: Path, urls: list[str]) -> dict[str, Any]:
    checkpoint = write_checkpoint(folder / "checkpoint", manifest("random"))
    upstreams = {f"gpu{k}": {"url": url} for k, url in enumerate(urls)}
    model = {"upstream": list(upstreams), "served_name": "model", "checkpoint": str(checkpoint)}
    return {"upstreams": upstreams, "models": {"model": model}, "log_level": "error"}


@click.command(help=__doc__)
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER)
def main(seconds: float, folder: Path) -> None:
    async def all_of_them() -> list[dict[str, Any]]:
        return [await measure(seconds, targets, n) for targets, n in ((1, 1), (2, 1), (2, 8))]

    rows = asyncio.run(all_of_them())
    passed = all(row["calls_per_candidate"] <= MOST for row in rows)
    figures = {f"targets: {row['targets']}, n: {row['n']}": row for row in rows}
    conditions = {"seconds": seconds, "candidates_per_second": RATE}
    print(save("retry_budget", figures, passed, conditions, goal=GOAL, folder=folder))
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
