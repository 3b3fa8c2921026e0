"""The bench: the upstream and every target, started once, each on the core of its kind."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from benchmarks.speed.processes import allow_many_files, build, cpu_s, rss_mib
from benchmarks.speed.targets import Kind, Process, Target, Unavailable
from benchmarks.speed.upstream import Behaviour, Upstream, running_upstream

_SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class Running:
    """A target that answers. `ready_s`: from its start to an answered completion, its-proxy's of both its models, and
    `ready_cpu_s` the CPU till then; `idle_mib`: what it holds soon after."""

    target: Target
    process: Process
    ready_s: float = 0.0
    ready_cpu_s: float = 0.0
    idle_mib: float = 0.0

    def request(self, kind: Kind, fields: Mapping[str, Any]) -> bytes:
        return self.target.request(self.process.port, kind, fields)


@dataclass(frozen=True, slots=True)
class Bench:
    """`missing`: the targets that could not be started, with the reason."""

    programs: Path
    upstream: Upstream
    running: Sequence[Running]
    missing: Mapping[str, str] = field(default_factory=dict)

    def named(self, name: str) -> Running | None:
        return next((running for running in self.running if running.target.name == name), None)


@asynccontextmanager
async def benched(targets: Sequence[Target]) -> AsyncIterator[Bench]:
    """A target that is not to be had or does not start is missing; the others are measured all the same."""
    allow_many_files()
    missing: dict[str, str] = {}
    running: list[Running] = []
    async with AsyncExitStack() as stack:
        programs = Path(stack.enter_context(TemporaryDirectory()))
        build(programs)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        upstream = await stack.enter_async_context(running_upstream(programs, http))
        for target in targets:
            folder = programs / target.name
            folder.mkdir()
            try:
                if target.prepare is not None:
                    await asyncio.to_thread(target.prepare)
                running.append(await stack.enter_async_context(ready(target, folder, upstream)))
            except (Unavailable, RuntimeError, TimeoutError) as error:
                missing[target.name] = _reason(error)
        yield Bench(programs, upstream, running, missing)


@asynccontextmanager
async def ready(target: Target, folder: Path, upstream: Upstream) -> AsyncIterator[Running]:
    """One target from when it answers."""
    await upstream.behave(Behaviour())
    began = time.monotonic()
    async with target.start(folder, upstream.port) as process:
        for kind in target.asks.keys() - {"vote"}:
            await _until_answered(target, process, kind)
        ready_s, pid = time.monotonic() - began, process.pid
        ready_cpu_s = cpu_s(pid) if pid is not None else 0.0
        await asyncio.sleep(_SETTLE_S)
        idle_mib = rss_mib(pid) if pid is not None else 0.0
        yield Running(target, process, round(ready_s, 3), round(ready_cpu_s, 3), round(idle_mib, 1))


async def _until_answered(target: Target, process: Process, kind: Kind, timeout_s: float = 60.0) -> None:
    request = target.request(process.port, kind, {"messages": [{"role": "user", "content": "Are you there?"}]})
    status = 0
    try:
        async with asyncio.timeout(timeout_s):
            while status != 200:
                status, _ = await ask(process.port, request)
                await asyncio.sleep(0 if status == 200 else 0.005)
    except TimeoutError:
        raise RuntimeError(f"it answers {status}, after {timeout_s:g} s still") from None


async def ask(port: int, request: bytes) -> tuple[int, bytes]:
    """Status and body of one reply, on a connection of its own; 0 where there is none. Chunks are put together."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0, b""
    try:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        return int(head.split(b" ", 2)[1]), await _body(reader, head)
    except (OSError, asyncio.IncompleteReadError):
        return 0, b""
    finally:
        writer.close()


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if (length := re.search(rb"content-length: *(\d+)", head)) is not None:
        return await reader.readexactly(int(length[1]))
    if b"transfer-encoding: chunked" not in head:
        return await reader.read()
    parts = []
    while n := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(n))
        await reader.readline()
    return b"".join(parts)


def _reason(error: BaseException) -> str:
    """One line of it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
