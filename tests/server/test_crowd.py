"""More clients than a process may have descriptors: it neither spins nor ends, its open routes answer, it recovers."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.command import Serving, serve_command
from tests.scripted import Say, scripted_upstream
from tests.wire import connected, post

QUESTION = {"model": "model", "messages": [{"role": "user", "content": "Hi"}]}
LIVE = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"


async def test_a_thousand_clients_of_a_process_with_256_files():
    async with serving(n_files=256) as server:
        async with crowd(server.url, 1000):
            async with asyncio.timeout(5):
                await answered(server.url, LIVE)
            assert await share_of_a_core(server.process.pid) < 0.5, "it waits, and does not spin"
        async with asyncio.timeout(5):
            await answered(server.url, post(QUESTION))
        assert server.process.returncode is None


async def test_a_process_whose_files_run_out_all_the_same():
    """As where others on its machine take them: nothing can be accepted for a while."""
    async with serving() as server:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (64, 64))
        async with crowd(server.url, 200):
            assert await share_of_a_core(server.process.pid) < 0.5, "it waits, and does not spin"
        async with asyncio.timeout(5):
            await answered(server.url, post(QUESTION))
        assert server.process.returncode is None


@asynccontextmanager
async def serving(n_files: int | None = None) -> AsyncIterator[Serving]:
    async with (
        scripted_upstream(lambda body, number: Say()) as upstream,
        serve_command("--upstream", upstream.url, "--model", "model", n_files=n_files) as server,
    ):
        yield server


@asynccontextmanager
async def crowd(url: str, n: int) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for _ in range(n):
            await stack.enter_async_context(connected(url))
        yield


async def share_of_a_core(pid: int) -> float:
    """Over a second."""
    before = seconds_used(pid)
    await asyncio.sleep(1)
    return seconds_used(pid) - before


def seconds_used(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def answered(url: str, request: bytes) -> None:
    """Asks until it is answered well, on a new connection each time."""
    while True:
        try:
            async with connected(url) as wire:
                wire.send(request)
                if (await wire.reply(1.0)).status == 200:
                    return
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            await asyncio.sleep(0.05)
