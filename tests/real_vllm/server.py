"""Runs real `vllm serve` processes on loopback, for tests and benchmarks, and leaves none behind.

    async with start_vllm(checkpoint, "demo-random@3837bb5f", "--dtype", "float32", log=Path("vllm.log")) as vllm:
        await vllm.until_idle()
        print(vllm.url, await vllm.metrics(), vllm.memory())

The environment variable ITS_VLLM names the environment that holds vLLM; `make test-vllm` sets it.
"""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

# Enough for the demo checkpoints, and no call home; dynamo off: the first log-probability request would take 20 s.
VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TORCHDYNAMO_DISABLE": "1",
}
FLAGS = ("--host", "127.0.0.1", "--enforce-eager", "--enable-prompt-tokens-details")
PORTS = range(20_000, 32_000)  # below those that the kernel hands to outgoing connections while vLLM still loads
GRACE_S = 15.0
SAY_EVERY_S = 10.0

# Becomes vLLM, and has the kernel end it when its starter dies, even by SIGKILL; by then the starter may be gone.
LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
os.getppid() == int(sys.argv[1]) or sys.exit("its starter has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""

Progress = Callable[[str], None]
"""Told one line at the start of a server, every 10 s while it loads, and when it answers."""


class VllmError(RuntimeError):
    """A server that did not start; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of all processes of one server: its own alone (USS), resident (RSS), and the highest RSS so far.

    RSS counts pages that processes share once for each of them; `uss_bytes` is what ending the server frees.
    """

    n_processes: int
    uss_bytes: int
    rss_bytes: int
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class VllmServer:
    """One running server; holds nothing of the event loop that started it, so any test may use it."""

    name: str
    port: int
    pid: int
    log: Path
    process: "subprocess.Popen[bytes]"

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """What `its-proxy serve --upstream` takes."""
        return f"{self.root}/v1"

    async def metrics(self, **labels: str) -> dict[str, float]:
        """/metrics: each sample's name and its value, summed over those that carry `labels`."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.root}/metrics") as reply:
            reply.raise_for_status()
            return sum_samples(await reply.text(), labels)

    async def n_running(self) -> int:
        """Requests in the engine, waiting ones included."""
        values = await self.metrics()
        return int(values["vllm:num_requests_running"] + values["vllm:num_requests_waiting"])

    async def until_running(self, n: int, timeout_s: float = 30.0) -> None:
        """Returns when the engine holds `n` requests; TimeoutError when it does not come to that in time."""
        async with asyncio.timeout(timeout_s):
            while await self.n_running() != n:
                await asyncio.sleep(0.005)

    async def until_idle(self, timeout_s: float = 10.0) -> float:
        """Seconds until the engine held no request; TimeoutError when one is left after `timeout_s`."""
        began = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while await self.n_running():
                await asyncio.sleep(0.005)
        return time.monotonic() - began

    def memory(self) -> Memory:
        """Of all its processes, now; since `forget_peak` for the peak."""
        folders = [Path(f"/proc/{pid}") for pid in pids_of_group(self.pid)]
        uss = rss = peak = n_read = 0
        for folder in folders:
            with suppress(FileNotFoundError, ProcessLookupError):  # one that has ended meanwhile
                rollup = kibibytes(folder / "smaps_rollup")
                peak += kibibytes(folder / "status").get("VmHWM", 0)
                uss += rollup.get("Private_Clean", 0) + rollup.get("Private_Dirty", 0)
                rss += rollup.get("Rss", 0)
                n_read += 1
        return Memory(n_read, uss * 1024, rss * 1024, peak * 1024)

    def forget_peak(self) -> None:
        """Begins the peak of every process anew, at what it holds now."""
        for pid in pids_of_group(self.pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def tail(self, n_lines: int = 30) -> str:
        """The last lines of its log."""
        return tail_of(self.log, n_lines)

    def kill(self) -> None:
        """SIGKILL to all its processes at once, as a machine that fails; for tests of a lost server."""
        kill_group(self.pid)
        self.process.wait()


@asynccontextmanager
async def start_vllm(
    checkpoint: Path,
    served_name: str,
    *flags: str,
    log: Path,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
    timeout_s: float = 600.0,
    say: Progress | None = None,
) -> AsyncIterator[VllmServer]:
    """A server that answers /health; `flags` come last, so they overrule ours. Its whole output goes to `log`.

    Raises VllmError when it ends or has not answered within `timeout_s`. At the end of the block every process
    of it is gone: SIGTERM, after 15 s SIGKILL.
    """
    server = launch(checkpoint, served_name, flags, log, env or {}, port or free_port())
    try:
        await _until_healthy(server, timeout_s, say or _to_stderr)
        yield server
    finally:
        # In a thread, so that a stopping server does not stop the loop; shielded, so that cancelling never leaks one.
        await asyncio.shield(asyncio.to_thread(stop, server))


def launch(
    checkpoint: Path, served_name: str, flags: tuple[str, ...], log: Path, env: Mapping[str, str], port: int
) -> VllmServer:
    """Starts the processes, in a group of their own, with a new log, and does not wait; the caller must `stop` it."""
    vllm = vllm_command()
    serve = [str(vllm), "serve", str(checkpoint.resolve()), "--served-model-name", served_name]
    command = [*serve, *FLAGS, "--port", str(port), *flags]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(vllm.with_name("python")), "-I", "-c", LAUNCH, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_variables() | VARIABLES | dict(env),
            # Not a session: the kernel would schedule it as a whole against ours, and vLLM's processes, which spin
            # between two tokens and yield to their own kind only, would keep its clients off the cores for seconds.
            process_group=0,
        )
    return VllmServer(served_name, port, process.pid, log, process)


def stop(server: VllmServer, grace_s: float = GRACE_S) -> None:
    """Ends every process of the server; one that was ended before is no error."""
    if server.process.poll() is None:
        # To its first process alone: that one ends its workers in order, and complains if they die before it.
        server.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(grace_s)
    kill_group(server.pid)
    server.process.wait()


def vllm_command() -> Path:
    """`bin/vllm` of the environment that ITS_VLLM names."""
    named = os.environ.get("ITS_VLLM")
    if not named:
        raise VllmError("ITS_VLLM is not set: it names the environment that `make test-vllm` prepares")
    command = Path(named) / "bin/vllm"
    if not command.exists():
        raise VllmError(f"ITS_VLLM names {named}, which holds no bin/vllm")
    return command


def free_port() -> int:
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise VllmError(f"no free port among {PORTS.start} to {PORTS.stop}")


def sum_samples(text: str, labels: Mapping[str, str]) -> dict[str, float]:
    """Sample name -> sum over the samples that carry `labels`; buckets of histograms and dates are left out."""
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith(("_bucket", "_created")) and labels.items() <= sample.labels.items():
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return values


def pids_of_group(group: int) -> list[int]:
    """Its processes, also those whose parent has died; zombies do not count."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                pids.append(int(stat.parent.name))
    return pids


def kill_group(group: int) -> None:
    """SIGKILL to every process of the group, and waits until none is left."""
    while pids_of_group(group):
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        time.sleep(0.01)


def kibibytes(file: Path) -> dict[str, int]:
    """The lines `Name: 12 kB` of a file of /proc."""
    fields = (line.split() for line in file.read_text().splitlines())
    return {field[0].removesuffix(":"): int(field[1]) for field in fields if field[-1:] == ["kB"]}


def tail_of(log: Path, n_lines: int = 30) -> str:
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return "\n".join(lines[-n_lines:])


async def _until_healthy(server: VllmServer, timeout_s: float, say: Progress) -> None:
    began = said = time.monotonic()
    say(f"vLLM {server.name}: starting on port {server.port}, about a minute; its log: {server.log}")
    async with aiohttp.ClientSession() as http:
        while not await _is_healthy(http, server):
            now = time.monotonic()
            if server.process.poll() is not None:
                reason = f"ended with code {server.process.returncode} before it answered"
                raise VllmError(f"vLLM {server.name} {reason}; the end of {server.log}:\n{server.tail()}")
            if now - began > timeout_s:
                reason = f"has not answered within {timeout_s:.0f} s"
                raise VllmError(f"vLLM {server.name} {reason}; the end of {server.log}:\n{server.tail()}")
            if now - said > SAY_EVERY_S:
                said = now
                say(f"vLLM {server.name}: {now - began:.0f} s, its log: {server.tail(1)[:90] or 'empty'}")
            await asyncio.sleep(0.2)
    say(f"vLLM {server.name}: answers after {time.monotonic() - began:.0f} s")


async def _is_healthy(http: aiohttp.ClientSession, server: VllmServer) -> bool:
    try:
        async with http.get(f"{server.root}/health", timeout=aiohttp.ClientTimeout(5)) as reply:
            return reply.status == 200 and server.process.poll() is None
    except (aiohttp.ClientError, TimeoutError):
        return False


def _variables() -> dict[str, str]:
    """Ours without what would reach into vLLM's own environment: the checkout's PYTHONPATH, VLLM_* of the user."""
    unwanted = ("PYTHON", "ITS_", "VLLM_")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
