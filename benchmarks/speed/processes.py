"""Processes of a measurement: built, pinned to a core, their CPU and memory counted with that of all their children."""

import asyncio
import os
import resource
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).parent
TARGET_CORE, OTHER_CORE = 0, 1
_TICKS = os.sysconf("SC_CLK_TCK")
T = TypeVar("T")


def build(folder: Path) -> None:
    """Compiles the upstream and the load generator into `folder`."""
    for name in ("upstream", "load"):
        subprocess.run(["cc", "-O2", "-o", str(folder / name), str(HERE / f"{name}.c")], check=True)


def allow_many_files() -> None:
    """As many descriptors as may be had, for thousands of connections here and in what is started."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def on_core(core: int, command: Sequence[str]) -> list[str]:
    """On a machine with one core there is nothing to choose."""
    return ["taskset", "-c", str(core % (os.cpu_count() or 1)), *command]


@asynccontextmanager
async def started(command: Sequence[str], log: Path, core: int, **environ: str) -> AsyncIterator[int]:
    """A process, ended with the block; yields its pid."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            on_core(core, command),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | environ,
        )  # fmt: skip
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@asynccontextmanager
async def listening(command: Sequence[str], log: Path, core: int, port: int, **environ: str) -> AsyncIterator[int]:
    """A server from when it listens."""
    async with started(command, log, core, **environ) as pid:
        await until_listening(pid, port, log)
        yield pid


async def until_listening(pid: int, port: int, log: Path, timeout_s: float = 120.0) -> None:
    """Raises RuntimeError with its last words where it ends before."""
    async with asyncio.timeout(timeout_s):
        while True:
            fail_if_ended(pid, log)
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return


def fail_if_ended(pid: int, log: Path) -> None:
    if _state_of(pid) == "Z":
        raise RuntimeError(f"it ended: {log.read_text('utf-8', 'replace')[-2000:]}")


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def cpu_s(pid: int) -> float:
    """User and system time of a process and of all below it, those that have ended included."""
    return sum(_over_tree(pid, _own_cpu_s))


def _own_cpu_s(pid: int) -> float:
    """The kernel's clock of this process counts in nanoseconds; that of ended children is told in ticks only."""
    ended = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
    return time.clock_gettime((~pid << 3) | 2) + sum(map(int, ended)) / _TICKS


def rss_mib(pid: int) -> float:
    """What the whole tree holds; pages that its processes share count once for each."""
    return sum(_over_tree(pid, lambda each: _status_mib(each, "VmRSS")))


def peak_rss_mib(pid: int) -> float:
    """The most that each process of the tree has held, added up."""
    return sum(_over_tree(pid, lambda each: _status_mib(each, "VmHWM")))


def _status_mib(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), 0.0)


def _over_tree(pid: int, read: Callable[[int], T]) -> list[T]:
    """A process that ends meanwhile is left out: its parent's account has it then."""
    try:
        found = [read(pid)]
        tasks = [*Path(f"/proc/{pid}/task").iterdir()]
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError, OSError):
        return []
    return found + [each for child in children for each in _over_tree(child, read)]
