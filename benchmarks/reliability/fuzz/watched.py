"""its-proxy's own server with a stop-watch beside its event loop: how long it ever kept everybody waiting.

    python -m benchmarks.reliability.fuzz.watched --port 0 --config its.yaml --stalls stalls.json

On a shared machine a loop also waits for a processor. So a stall counts with the processor time that the loop's
thread used meanwhile, which no other process can make longer; what passed on the clock is told beside it.
"""

import asyncio
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import orjson

from its_proxy.server.context import Context
from its_proxy.server.run import run
from its_proxy.settings import load_settings

EVERY_S, TELL_EVERY_S = 0.005, 1.0
LIMIT_S = 0.1


@dataclass
class Stalls:
    """`busy`: processor time of the loop's thread between two ticks; `clock`: how late a tick was."""

    n_ticks: int = 0
    worst_busy_ms: float = 0.0
    worst_busy_at: float = 0.0
    worst_clock_ms: float = 0.0
    n_busy_over_20_ms: int = 0
    n_busy_over_limit: int = 0


async def watch(path: Path, stalls: Stalls) -> None:
    told_at = 0.0
    while True:
        began, used = time.monotonic(), time.thread_time()
        await asyncio.sleep(EVERY_S)
        now = time.monotonic()
        late_s = now - began - EVERY_S
        # Work done while nothing was late has kept nobody waiting.
        busy_s = min(time.thread_time() - used, late_s)
        stalls.n_ticks += 1
        stalls.worst_clock_ms = max(stalls.worst_clock_ms, round(1000 * late_s, 1))
        stalls.n_busy_over_20_ms += busy_s > 0.02
        stalls.n_busy_over_limit += busy_s > LIMIT_S
        if 1000 * busy_s > stalls.worst_busy_ms:
            stalls.worst_busy_ms, stalls.worst_busy_at = round(1000 * busy_s, 1), time.time()
        if now - told_at > TELL_EVERY_S:
            told_at = now
            path.write_bytes(orjson.dumps(asdict(stalls)))


@click.command(help=__doc__)
@click.option("--port", type=int, required=True)
@click.option("--config", type=click.Path(path_type=Path), required=True)
@click.option("--stalls", "path", type=click.Path(path_type=Path), required=True)
def main(port: int, config: Path, path: Path) -> None:
    watching = []

    def on_ready(url: str, context: Context) -> None:
        watching.append(asyncio.ensure_future(watch(path, Stalls())))
        click.echo(f"its-proxy serves {', '.join(context.catalog.served)} at {url}", err=True)

    run(load_settings(config, os.environ, {"port": port}), on_ready)


if __name__ == "__main__":
    main()
