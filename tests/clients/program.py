"""Runs a client as a process of its own, by the Python or Node that it was installed for."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.clients.world import KEY, QUERY, World

FOLDER = Path(__file__).parent / "programs"
ASK_S = 240
# What they would ask the network for: prices, news of their own, statistics.
ALONE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "ANONYMIZED_TELEMETRY": "False",
    "PYTHONWARNINGS": "ignore",
}


@dataclass
class Program:
    """One of the folder's programs while it runs; each ask is told what came of it. `folder`: where it may write."""

    process: asyncio.subprocess.Process
    world: World
    folder: str

    async def ask(self, kind: str, model: str, query: str = QUERY, **fields: Any) -> dict[str, Any]:
        """What the client made of its answer; an error that it raised fails the test."""
        told = await self.try_to_ask(kind, model, query, **fields)
        assert "raised" not in told, f"{told['raised']}: {told['message']}"
        return told

    async def try_to_ask(self, kind: str, model: str, query: str = QUERY, **fields: Any) -> dict[str, Any]:
        """The same; `raised` and `message` tell of an error."""
        place = {"url": self.world.url, "key": KEY, "folder": self.folder}
        ask = {"kind": kind, "model": model, "query": query, **place, **fields}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(ask).encode() + b"\n")
        async with asyncio.timeout(ASK_S):
            line = await self.process.stdout.readline()
        assert line, f"the program has ended with code {await self.process.wait()}"
        told: dict[str, Any] = json.loads(line)
        return told


@asynccontextmanager
async def running(world: World, *command: object, **variables: str) -> AsyncIterator[Program]:
    """What it says on stderr goes where pytest's own goes."""
    with TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            env=environment({"HOME": folder, "HF_HOME": folder, **variables}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**20,
        )
        try:
            yield Program(process, world, folder)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@dataclass(frozen=True)
class Said:
    """What a command said, after it ended well."""

    out: str
    err: str


async def run(*command: object, cwd: Path | None = None, stdin: str = "", **variables: str) -> Said:
    """A client that is a command: once, to its end."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=cwd,
        env=environment(variables),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(ASK_S):
            out, err = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"code {process.returncode}\n{out.decode()[-3000:]}\n{err.decode()[-3000:]}"
    return Said(out.decode(), err.decode())


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Nothing of this checkout's own reaches the client."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("ITS_")}
    return own | ALONE | variables
