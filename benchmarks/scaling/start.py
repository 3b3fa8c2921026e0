"""What a server takes until it can answer, and what it holds then: `its-proxy serve --upstream URL --model NAME
--checkpoint DIR`, as a person starts it, until /readyz says 200."""

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.process import held_by
from benchmarks.scaling.axes import answer
from benchmarks.scaling.cost import ROOT, cpu_s
from tests.scripted import scripted_upstream
from tests.serving import manifest, tokens_of, write_checkpoint

LOOK_S = 0.005
# Idle: what the handshake needed has been given back, what is to be freed has been.
IDLE_S = 1.0


async def start(n: int = 7) -> dict[str, Any]:
    """Medians of n starts; the first one, which also fills the system's file cache, is left out."""
    with TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "model", manifest("random"))
        async with scripted_upstream(answer) as upstream:
            upstream.tokens = lambda body: tokens_of(body["messages"])
            flags = ("--upstream", upstream.url, "--model", "model", "--checkpoint", str(checkpoint))
            starts = [await _start(flags) for _ in range(1 + n)][1:]
    return {"starts": n, **{name: round(median(one[name] for one in starts), 3) for name in starts[0]}}


async def _start(flags: tuple[str, ...]) -> dict[str, float]:
    port = _free_port()
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "its_proxy", "serve", "--port", str(port), *flags),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        while not await _is_ready(port):
            assert process.returncode is None, "the server did not start"
            await asyncio.sleep(LOOK_S)
        ready_s, spent_s = time.perf_counter() - began, cpu_s(process.pid)
        await asyncio.sleep(IDLE_S)
        return {"ready_s": ready_s, "cpu_s": spent_s, "rss_mib": held_by(process.pid).rss_bytes / 2**20}
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _is_ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return (await reader.read(-1)).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
    finally:
        writer.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
