"""Two targets, of which one comes and goes every 5 s: how many requests are answered all the same.

python -m benchmarks.reliability.flapping [--seconds 120]

In three manners: it refuses connections, it answers 503, it hangs up without a word. What is asked has a manifest and
is voted on (n = 4), or is passed through.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.proxy import start_proxy
from benchmarks.reliability.clients import quantile, steady_load
from benchmarks.reliability.limited import Running, State, start_limited
from benchmarks.reliability.results import FOLDER, save
from tests.serving import manifest, write_checkpoint

GOAL = "5 s up, 5 s down, 2 minutes, two targets: at least 99% answered."
LEAST, RATE, EVERY_S, N = 0.99, 50.0, 5.0, 4
MANNERS: dict[str, State] = {"refuses connections": "gone", "answers 503": "busy", "hangs up": "broken"}


@asynccontextmanager
async def flapping(upstream: Running, state: State) -> AsyncIterator[None]:
    async def come_and_go() -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await upstream.become(state)
            await asyncio.sleep(EVERY_S)
            await upstream.become("well")

    task = asyncio.ensure_future(come_and_go())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def measure(seconds: float, state: State, model: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        async with (
            start_limited(512, 0.1) as one,
            start_limited(512, 0.1) as two,
            start_proxy(_settings(Path(folder), one, two), Path(folder)) as proxy,
            flapping(one, state),
        ):
            for name in ("one", "two"):
                await proxy.until("voted", name, "verified", "unverified")
            body = {"model": model, "messages": [{"role": "user", "content": "How many are 3 + 4?"}]}
            replies = await steady_load(proxy.url, RATE, seconds, lambda number: body)
    answered = sum(reply.status == 200 for reply in replies)
    return {
        "requests": len(replies),
        "answered_share": round(answered / len(replies), 4),
        "codes": dict(Counter(f"{reply.status} {reply.code or ''}".strip() for reply in replies)),
        "p99_ms": round(1000 * quantile([reply.lasted_s for reply in replies], 0.99), 1),
    }


def _settings(folder: Path, one: Running, two: Running) -> dict[str, Any]:
    checkpoint = write_checkpoint(folder / "checkpoint", manifest("random"))
    both = {"upstream": ["one", "two"], "served_name": "model"}
    return {
        "upstreams": {"one": {"url": one.url}, "two": {"url": two.url}},
        "models": {"voted": {**both, "checkpoint": str(checkpoint)}, "passed": both},
        "vote": {"n": N},
        "log_level": "error",
    }


@click.command(help=__doc__)
@click.option("--seconds", default=120.0, show_default=True, help="of each manner")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER)
def main(seconds: float, folder: Path) -> None:
    async def all_of_them() -> dict[str, dict[str, Any]]:
        figures = {}
        for manner, state in MANNERS.items():
            both = await asyncio.gather(*(measure(seconds, state, model) for model in ("voted", "passed")))
            figures |= {f"voted, one {manner}": both[0], f"passed, one {manner}": both[1]}
        return figures

    figures = asyncio.run(all_of_them())
    passed = all(row["answered_share"] >= LEAST for row in figures.values())
    conditions = {"seconds": seconds, "up_and_down_s": EVERY_S, "requests_per_second": RATE, "n": N}
    print(save("flapping", figures, passed, conditions, goal=GOAL, folder=folder))
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
