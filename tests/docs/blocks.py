"""The code blocks of a page, and its commands run in their order, as a reader would."""

import asyncio
import re
import shlex
import signal
import textwrap
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import aiohttp

from tests.command import ROOT, Ended, Serving, command, serve_command


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def fenced(text: str) -> list[tuple[str, str]]:
    """(language, lines) of every code block, in a list's items, too."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [(language, textwrap.dedent(lines)) for _, language, lines in found]


def blocks(name: str, language: str) -> list[str]:
    return [lines for its, lines in fenced(page(name)) if its == language]


def commands(name: str) -> list[list[str]]:
    """The words of every its-proxy command on the page; `make serve` is one."""
    lines = [line for block in blocks(name, "sh") for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    called = [["its-proxy", "serve"] if each == ["make", "serve"] else each for each in words if each]
    return [[*each[1:]] for each in called if each[0].removeprefix(".venv/bin/") == "its-proxy"]


@dataclass
class Reader:
    """Runs commands here, in the working folder: `serve` until the next one, the others to their end.

    `addresses` has what stands for those on the page, `variables` what the commands find set.
    """

    addresses: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    serving: Serving | None = None
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def run(self, words: list[str]) -> Ended | None:
        name, *options = [self.addresses.get(word, word) for word in words]
        if name == "serve":
            await self.leave()
            self.serving = await self.stack.enter_async_context(serve_command(*options, **self.variables))
            await _ready(self.serving.url.removesuffix("/v1"))
            return None
        if name in ("ask", "evaluate", "explain", "models"):
            assert self.serving is not None
            options += ["--url", self.serving.url]
        return await command(name, *options, **self.variables)

    async def leave(self) -> None:
        if self.serving is not None:
            assert (await self.serving.end(signal.SIGTERM)).code == 0
            self.serving = None
        await self.stack.aclose()


async def _ready(url: str, timeout_s: float = 60.0) -> None:
    """As a reader waits: until something is served."""
    async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{url}/readyz") as reply:
                if reply.status == 200:
                    return
            await asyncio.sleep(0.05)


async def run_python(code: str) -> None:
    await asyncio.to_thread(exec, compile(code, "page", "exec"), {})
