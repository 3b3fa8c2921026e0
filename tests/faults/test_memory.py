"""Upstreams that never stop talking: what is handed on is not kept."""

import asyncio
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import faults
from tests.faults.upstream import faulty_upstream
from tests.serving import model_settings, serving

N_STREAMS = 32
MAX_GROWTH = 50 * 2**20


def resident() -> int:
    """Bytes of this process: server, upstream and clients together."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def highest_meanwhile(work: Awaitable[Any]) -> int:
    """The most that was resident while it went on."""
    task, highest = asyncio.ensure_future(work), 0
    while not task.done():
        highest = max(highest, resident())
        await asyncio.wait({task}, timeout=0.005)
    await task
    return highest


@pytest.mark.parametrize("fault", [faults.endless, faults.long_line])
async def test_streams_without_an_end_leave_memory_as_it_is(fault):
    async with (
        faulty_upstream() as upstream,
        serving(model_settings(upstream.url, None) | {"vote": {"deadline_s": 1.0}}) as server,
    ):
        upstream.cue = {7: fault}

        async def read(seed: int) -> None:
            body = {"model": "model", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "seed": seed}
            async with server.http.post(server.url + "/chat/completions", json=body) as reply:
                async for _ in reply.content.iter_any():
                    pass

        await read(0)
        before = resident()
        async with asyncio.timeout(10):
            highest = await highest_meanwhile(asyncio.gather(*(read(7) for _ in range(N_STREAMS))))
        assert highest - before < MAX_GROWTH
