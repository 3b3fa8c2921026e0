"""Runs the its-proxy command as a process of its own, as a person would."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 60


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code and what it said."""

    code: int
    out: str
    err: str


@dataclass
class Serving:
    """`its-proxy serve` that has said its address, and what else it `said` until then."""

    url: str
    said: bytes
    process: asyncio.subprocess.Process

    async def end(self, signal_number: int) -> Ended:
        self.process.send_signal(signal_number)
        return await ended(self.process)


async def command(*arguments: object, **variables: str) -> Ended:
    return await ended(await start(*arguments, **variables))


@asynccontextmanager
async def serve_command(
    *arguments: object, timeout_s: float = TIMEOUT_S, n_files: int | None = None, **variables: str
) -> AsyncIterator[Serving]:
    """`its-proxy serve` on a free port; killed at the end if it is still there."""
    process = await start("serve", "--port", 0, *arguments, n_files=n_files, **variables)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(timeout_s):
            said = b""
            while (announced := re.search(rb"^its-proxy serves .* at (http\S+)$", said, re.MULTILINE)) is None:
                line = await process.stderr.readline()
                assert line, f"its-proxy ended before it served: {said.decode()}"
                said += line
        yield Serving(announced[1].decode(), said, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def start(*arguments: object, n_files: int | None = None, **variables: str) -> asyncio.subprocess.Process:
    """`n_files`: how many files it may open."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ITS_")}
    limited = [] if n_files is None else ["sh", "-c", f'ulimit -n {n_files}; exec "$@"', "sh"]
    return await asyncio.create_subprocess_exec(
        *limited,
        sys.executable,
        *("-m", "its_proxy", *map(str, arguments)),
        env=environment | {"PYTHONPATH": str(ROOT), "ITS_PROXY_LAME_DUCK_S": "0"} | variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process, timeout_s: float = TIMEOUT_S) -> Ended:
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())
