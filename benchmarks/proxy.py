"""its-proxy as a process of its own, with a configuration file that is written anew and read again on SIGHUP."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.real_vllm.server import LAUNCH, tail_of

Settings = Mapping[str, Any]
_ANNOUNCED = re.compile(rb"^its-proxy serves .* at (http\S+)$", re.MULTILINE)
_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Proxy:
    """One running its-proxy. `url` ends in /v1."""

    url: str
    pid: int
    config: Path
    log: Path

    async def reload(self, settings: Settings) -> None:
        """Puts other settings into force. Raises RuntimeError with the reason when they are refused."""
        said = len(self.log.read_bytes())
        _write(self.config, settings)
        os.kill(self.pid, signal.SIGHUP)
        async with asyncio.timeout(_WAIT_S):
            while b'"event": "reloaded"' not in (news := self.log.read_bytes()[said:]):
                if b'"event": "reload refused' in news:
                    raise RuntimeError(f"its-proxy refused the settings: {news.decode()}")
                await asyncio.sleep(0.05)

    async def until(self, model: str, target: str, *states: str, timeout_s: float = 120.0) -> float:
        """Seconds until the handshake of a model at a target was in one of these states."""
        began = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while await self.state(model, target) not in states:
                await asyncio.sleep(0.1)
        return time.monotonic() - began

    async def state(self, model: str, target: str) -> str | None:
        for labels, value in await self.samples("its_proxy_handshake_state"):
            if value and (labels["model"], labels["target"]) == (model, target):
                return labels["state"]
        return None

    async def until_drained(self, target: str, quiet_s: float = 2.0, timeout_s: float = 120.0) -> float:
        """Seconds until no candidate has been in flight there for a while."""
        began = busy_at = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while (now := time.monotonic()) - busy_at < quiet_s:
                if await self._in_flight(target):
                    busy_at = now
                await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def until_busy(self, target: str, timeout_s: float = 120.0) -> None:
        """Returns when candidates are in flight there."""
        async with asyncio.timeout(timeout_s):
            while not await self._in_flight(target):
                await asyncio.sleep(0.02)

    async def _in_flight(self, target: str) -> float:
        samples = await self.samples("its_proxy_target_inflight")
        return sum(value for labels, value in samples if labels["target"] == target)

    async def samples(self, *wanted: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each, of some families of its metrics, read at once."""
        url = self.url.removesuffix("/v1") + "/metrics"
        async with aiohttp.ClientSession() as http, http.get(url) as reply:
            text = await reply.text()
        families = text_string_to_metric_families(text)
        return [(sample.labels, sample.value) for found in families if found.name in wanted for sample in found.samples]


@asynccontextmanager
async def start_proxy(
    settings: Settings,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    program: Sequence[str] = ("its_proxy", "serve"),
) -> AsyncIterator[Proxy]:
    """its-proxy on a free port, its log in `folder`; ended at the end of the block. `environ`: variables more.

    `program`: a module and arguments that serve as `its-proxy serve` does, where more is to be seen of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "its.yaml", folder / "its-proxy.log"
    _write(config, settings)
    command = [sys.executable, "-m", *program, "--port", "0", "--config", str(config)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", LAUNCH, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env=os.environ | {"ITS_PROXY_LAME_DUCK_S": "0"} | dict(environ or {}),
        )  # fmt: skip
    try:
        async with asyncio.timeout(_WAIT_S):
            while (announced := _ANNOUNCED.search(log.read_bytes())) is None:
                if process.poll() is not None:
                    raise RuntimeError(f"its-proxy ended before it served:\n{tail_of(log)}")
                await asyncio.sleep(0.05)
        yield Proxy(announced[1].decode(), process.pid, config, log)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _write(path: Path, settings: Settings) -> None:
    """At once: a reload must never meet half a file."""
    draft = path.with_suffix(".new")
    draft.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    draft.replace(path)
