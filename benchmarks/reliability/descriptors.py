"""1,000 clients of an its-proxy that may open 256 files: what it does meanwhile, and how soon it is well again.

python -m benchmarks.reliability.descriptors [--rounds 5]
"""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import aiohttp
import click

from benchmarks.reliability.crowd import crowd
from benchmarks.reliability.results import FOLDER, save
from benchmarks.reliability.upstream import start_upstream
from tests.command import serve_command

GOAL = "256 files, 1,000 connections: no spin, /livez answers, and 5 s after they have gone all is as before."
N_FILES, N_CLIENTS, RECOVERED_S, HELD_S = 256, 1000, 5.0, 8.0


async def measure(rounds: int) -> dict[str, Any]:
    recovered, cores, alive = [], [], []
    n_opened = 0
    async with start_upstream() as upstream:
        arguments = ("--upstream", upstream.url, "--model", "model", "--log-level", "error")
        async with serve_command(*arguments, n_files=N_FILES) as server:
            pid = server.process.pid
            for _ in range(rounds):
                async with crowd(server.url, "idle", N_CLIENTS, HELD_S) as clients:
                    n_opened = await clients.opened()
                    alive.append(await until_well(server.url, is_chat=False))
                    used = seconds_used(pid)
                    await asyncio.sleep(2.0)
                    cores.append((seconds_used(pid) - used) / 2.0)
                recovered.append(await until_well(server.url, is_chat=True))
            has_ended = server.process.returncode is not None
    return {
        "clients that connected": n_opened,
        "/livez answered after, s at most": round(max(alive), 3),
        "share of a core meanwhile, at most": round(max(cores), 3),
        "well again after, s at most": round(max(recovered), 3),
        "ended": has_ended,
    }


async def until_well(url: str, *, is_chat: bool) -> float:
    """Seconds until one request was answered, each try on a connection of its own."""
    began = time.monotonic()
    body = {"model": "model", "messages": [{"role": "user", "content": "Hi"}]}
    while time.monotonic() - began < 60.0:
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1.0)) as http:
                asking = http.post(f"{url}/chat/completions", json=body) if is_chat else http.get(url[:-3] + "/livez")
                async with asking as reply:
                    if reply.status == 200:
                        break
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def seconds_used(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(rounds: int, out: Path) -> None:
    figures = asyncio.run(measure(rounds))
    is_passed = figures["well again after, s at most"] <= RECOVERED_S and not figures["ended"]
    is_passed = is_passed and figures["/livez answered after, s at most"] <= RECOVERED_S
    is_passed = is_passed and figures["share of a core meanwhile, at most"] <= 0.5
    conditions = {"files": N_FILES, "clients": N_CLIENTS, "rounds": rounds}
    path = save("descriptors", figures, is_passed, conditions, goal=GOAL, folder=out)
    print(json.dumps(figures, indent=1), path)


if __name__ == "__main__":
    main()
