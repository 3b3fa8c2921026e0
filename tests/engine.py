"""Runs `its-proxy serve CHECKPOINT --engine vllm` as a process, and sees to it that nothing of it is left."""

import asyncio
import os
import re
import shlex
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.command import Ended, ended, start
from tests.processes import command_line, marked, of_groups

STAND_IN = shlex.join([sys.executable, str(Path(__file__).parent / "engine_process.py")])
"""A command in vLLM's place: a real process that does what its flags say."""


def arguments_of(
    folder: Path, flags: tuple[object, ...] = (), options: tuple[object, ...] = (), vllm: str = STAND_IN
) -> tuple[object, ...]:
    """The command line behind `its-proxy serve` or `its-proxy config`; `flags` go to vLLM."""
    return (folder, "--engine", "vllm", "--engine-command", vllm, *options, "--", *flags)


@dataclass
class Starting:
    """`its-proxy serve` whose port is open; `heard` is all that it has said."""

    url: str
    process: asyncio.subprocess.Process
    mark: str
    heard: str = ""
    groups: set[int] = field(default_factory=set)

    async def hear(self, words: str, timeout_s: float = 30.0) -> str:
        """Reads on until `words` have come; returns all that was said until then."""
        assert self.process.stderr is not None
        async with asyncio.timeout(timeout_s):
            while words not in self.heard:
                line = await self.process.stderr.readline()
                assert line, self.heard
                self.heard += line.decode()
        self.engines()
        return self.heard

    async def end(self, *numbers: int, timeout_s: float = 30.0) -> Ended:
        """Sends the signals, one after the other, and waits until it has ended."""
        for number in numbers:
            self.process.send_signal(number)
            await asyncio.sleep(0.1)
        return await ended(self.process, timeout_s)

    def engines(self) -> list[int]:
        """All its processes but the proxy."""
        found = set(marked(self.mark)) - {self.process.pid}
        for pid in found:
            with suppress(ProcessLookupError):
                # A guard that has only just begun is still in the group of the tests.
                self.groups |= {os.getpgid(pid)} - {os.getpgrp()}
        return sorted(found | set(of_groups(self.groups)))

    async def until_nobody_is_left(self) -> None:
        """For at most 10 s; AssertionError names those that stay, and kills them."""
        for _ in range(200):
            if not (left := self.engines()):
                return
            await asyncio.sleep(0.05)
        said = [command_line(pid) for pid in left]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"left behind: {said}")


@asynccontextmanager
async def starting(
    folder: Path, *flags: object, options: tuple[object, ...] = (), vllm: str = STAND_IN, **variables: str
) -> AsyncIterator[Starting]:
    """`its-proxy serve --engine vllm`, from when its port is open; at the end, whatever ended it, nothing is left."""
    mark = uuid.uuid4().hex
    process = await start("serve", "--port", 0, *arguments_of(folder, flags, options, vllm), MARK=mark, **variables)
    server = Starting("", process, mark)
    try:
        heard = await server.hear("its-proxy listens at ")
        server.url = re.findall(r"its-proxy listens at (http\S+),", heard)[0]
        yield server
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        await server.until_nobody_is_left()


def error_line(done: Ended) -> str:
    """The one line that a failing command ends with."""
    assert done.code == 1, done
    lines = done.err.splitlines()
    assert not any(line.startswith("Traceback") for line in lines), done.err
    [told] = [line for line in lines if line.startswith("Error: ")]
    assert lines[-1] == told
    return told
