"""Processes of a measurement: built, pinned to a core, their CPU counted with that of all their children."""

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TARGET_CORE, OTHER_CORE = 0, 1
_TICKS = os.sysconf("SC_CLK_TCK")


def build(folder: Path) -> None:
    """Compiles the upstream and the load generator into `folder`."""
    for name in ("upstream", "load"):
        subprocess.run(["cc", "-O2", "-o", str(folder / name), str(HERE / f"{name}.c")], check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def running(command: Sequence[str], log: Path, core: int, port: int, **environ: str) -> AsyncIterator[int]:
    """A server from when it listens; yields its pid, and ends it with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | environ,
        )  # fmt: skip
    try:
        await until_listening(process, port, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def until_listening(process: "subprocess.Popen[bytes]", port: int, log: Path, timeout_s: float = 120.0) -> None:
    """Raises RuntimeError where it ends before."""
    async with asyncio.timeout(timeout_s):
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args} ended with {process.returncode}: {log.read_text()[-2000:]}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def cpu_s(pid: int) -> float:
    """User and system time of a process and of all below it, those that have ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / _TICKS
    return own + sum(map(cpu_s, _children(pid)))


def rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(map(rss_mib, _children(pid)))


def _children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What one measurement saw: the load generator's figures, and the target's CPU a request that was answered."""

    cpu_ms: float
    told: dict[str, Any]


async def load(programs: Path, port: int, pid: int | None, connections: int, seconds: float, request: bytes) -> Loaded:
    """`pid`: whose CPU counts; None for nobody's."""
    before = cpu_s(pid) if pid is not None else 0.0
    process = await asyncio.create_subprocess_exec(
        "taskset", "-c", str(OTHER_CORE), str(programs / "load"), str(port), str(connections), str(seconds),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told = json.loads((await process.communicate(request))[0])
    spent = (cpu_s(pid) if pid is not None else 0.0) - before
    return Loaded(1000 * spent / max(1, told["ok"]), told)
