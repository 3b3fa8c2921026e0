"""its-proxy as a process that is started and ended in the middle of things."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.real_vllm.server import LAUNCH

START_S = 60.0


@dataclass(frozen=True, slots=True)
class Instance:
    """One its-proxy that serves."""

    url: str
    process: asyncio.subprocess.Process
    is_read: bool = True

    @property
    def place(self) -> tuple[str, int]:
        host, port = self.url.removesuffix("/v1").removeprefix("http://").split(":")
        return host, int(port)

    async def end(self) -> tuple[float, int]:
        """Seconds that it took to leave after SIGTERM, and its exit code."""
        began = monotonic()
        self.process.send_signal(signal.SIGTERM)
        if not self.is_read and self.process.stderr is not None:
            asyncio.ensure_future(_drop(self.process.stderr))  # noqa: RUF006  # asyncio waits for its end, too
        code = await self.process.wait()
        return monotonic() - began, code


async def start(
    config: Path, folder: Path, environ: Mapping[str, str] | None = None, *, is_read: bool = True
) -> Instance:
    """Returns when it has announced itself; it ends with this process at the latest. `environ`: variables more.

    `is_read`: whether anybody goes on to read its stderr.
    """
    with (folder / "its-proxy.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", LAUNCH, str(os.getpid())),
            *(sys.executable, "-m", "its_proxy", "serve", "--config", str(config)),
            stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=asyncio.subprocess.PIPE,
            env=os.environ | dict(environ or {}),
        )  # fmt: skip
    assert process.stderr is not None
    said = b""
    async with asyncio.timeout(START_S):
        while line := await process.stderr.readline():
            if line.startswith(b"its-proxy serves "):
                if is_read:
                    asyncio.ensure_future(_drop(process.stderr))  # noqa: RUF006  # ends with the process
                return Instance(line.split()[-1].decode(), process, is_read)
            said += line
    raise RuntimeError(f"its-proxy ended before it served: {said.decode()}")


async def _drop(stderr: asyncio.StreamReader) -> None:
    while await stderr.read(65536):
        pass
