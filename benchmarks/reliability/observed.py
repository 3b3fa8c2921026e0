"""its-proxy's own server with a window in its side: how many tasks it has is told to whoever connects there.

    python -m benchmarks.reliability.observed --port 0 --config its.yaml --window window.sock

Nothing of it is in its-proxy: the window is opened by this process, in the same event loop.
"""

import asyncio
import gc
import os
from pathlib import Path

import click
import orjson

from its_proxy.server.context import Context
from its_proxy.server.run import run
from its_proxy.settings import load_settings


async def look(window: Path) -> dict[str, int]:
    """What can be seen through it now."""
    reader, writer = await asyncio.open_unix_connection(window)
    try:
        seen: dict[str, int] = orjson.loads(await reader.read())
    finally:
        writer.close()
    return seen


async def _tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # Without the one that tells. An equivalence worker that is ready waits for a pair from its queue, and nobody else
    # here waits for one in a task of its own.
    tasks = [task.get_coro() for task in asyncio.all_tasks()]
    n_ready = sum(getattr(coroutine, "__qualname__", "") == "Queue.get" for coroutine in tasks)
    seen = {"tasks": len(tasks) - 1, "ready_workers": n_ready, "objects": sum(gc.get_count())}
    writer.write(orjson.dumps(seen))
    await writer.drain()
    writer.close()


@click.command(help=__doc__)
@click.option("--port", type=int, required=True)
@click.option("--config", type=click.Path(path_type=Path), required=True)
@click.option("--window", type=click.Path(path_type=Path), required=True)
def main(port: int, config: Path, window: Path) -> None:
    opened = []

    def on_ready(url: str, context: Context) -> None:
        opened.append(asyncio.ensure_future(asyncio.start_unix_server(_tell, window)))
        click.echo(f"its-proxy serves {', '.join(context.catalog.served)} at {url}", err=True)

    run(load_settings(config, os.environ, {"port": port}), on_ready)


if __name__ == "__main__":
    main()
