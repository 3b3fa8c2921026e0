"""An upstream with so many slots, as a process of its own: what comes beyond them waits in its queue, as in an engine.

    async with start_limited(slots=64, seconds=0.4) as upstream:
        await upstream.become("busy")          # well, busy (503), broken (hangs up) or gone (refuses connections)
        (await upstream.counters())["n_calls"]

A candidate holds its slot for `seconds`, give or take a fifth, and gives it back when it is hung up on.
"""

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import aiohttp
import click
import uvloop
from aiohttp import web

from tests.real_vllm.server import LAUNCH
from tests.serving import tokens_of

State: TypeAlias = Literal["well", "busy", "broken", "gone"]
SLOW = "##slow##"
"""A query that holds this has one candidate, the first, that takes ten times as long."""


class Limited:
    """The server inside its process."""

    def __init__(self, slots: int, seconds: float, say: Callable[[str], None]) -> None:
        self.state: State = "well"
        self.counts = {"n_calls": 0, "n_finished": 0, "n_aborted": 0, "n_most_waiting": 0}
        self._n_waiting = 0
        self._slots = asyncio.Semaphore(slots)
        self._seconds = seconds
        self._say = say
        self._random = random.Random(7)

    async def run(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        control = web.Application()
        control.router.add_post("/{state}", self._become)
        control.router.add_get("/", self._told)
        runners = [web.AppRunner(a, handler_cancellation=True, access_log=None) for a in (app, control)]
        for runner in runners:
            await runner.setup()
        self._site = web.TCPSite(runners[0], "127.0.0.1", 0, backlog=4096)
        await self._site.start()
        await web.TCPSite(runners[1], "127.0.0.1", 0).start()
        self._runner, self._port = runners[0], runners[0].addresses[0][1]
        self._say(json.dumps([self._port, runners[1].addresses[0][1]]))
        await asyncio.Event().wait()

    async def _become(self, request: web.Request) -> web.Response:
        was, self.state = self.state, request.match_info["state"]  # type: ignore[assignment]
        if self.state == "gone" and was != "gone":
            await self._site.stop()
        elif was == "gone" and self.state != "gone":
            self._site = web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=4096, reuse_address=True)
            await self._site.start()
        return web.json_response(self.counts)

    async def _told(self, request: web.Request) -> web.Response:
        return web.json_response(self.counts)

    async def _models(self, request: web.Request) -> web.Response:
        self._hang_up(request)
        return web.json_response({"object": "list", "data": [{"id": "model", "object": "model"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self._hang_up(request)
        is_handshake = bool(body.get("return_token_ids"))
        self.counts["n_calls"] += not is_handshake
        if self.state == "busy":
            return web.Response(status=503)
        if not is_handshake:
            await self._generate(body)
        choice = {"index": 0, "message": {"role": "assistant", "content": "\\boxed{7}"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
        told = {"id": "c", "object": "chat.completion", "created": 1, "model": "model", "choices": [choice]}
        tokens = {"prompt_token_ids": tokens_of(body["messages"])} if is_handshake else {}
        return web.json_response({**told, "usage": usage, **tokens})

    def _hang_up(self, request: web.Request) -> None:
        """Where it is gone, too: connections that are open still carry requests."""
        if self.state in ("gone", "broken") and request.transport is not None:
            request.transport.abort()

    async def _generate(self, body: dict[str, Any]) -> None:
        is_slow = SLOW in str(body["messages"]) and body.get("seed") == 0
        self._n_waiting += 1
        self.counts["n_most_waiting"] = max(self.counts["n_most_waiting"], self._n_waiting)
        try:
            async with self._slots:
                self._n_waiting -= 1
                await asyncio.sleep(self._seconds * self._random.uniform(0.8, 1.2) * (10 if is_slow else 1))
        except asyncio.CancelledError:
            self.counts["n_aborted"] += 1
            raise
        self.counts["n_finished"] += 1


@dataclass(frozen=True, slots=True)
class Running:
    """The process as others see it. `url` ends in /v1."""

    url: str
    pid: int
    control: str
    http: aiohttp.ClientSession

    async def become(self, state: State) -> None:
        async with self.http.post(f"{self.control}/{state}") as reply:
            reply.raise_for_status()

    async def counters(self) -> dict[str, int]:
        async with self.http.get(self.control) as reply:
            counts: dict[str, int] = await reply.json()
        return counts


@asynccontextmanager
async def start_limited(slots: int, seconds: float) -> AsyncIterator[Running]:
    """On a free loopback port; it ends with the block, and with whoever started it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", LAUNCH, str(os.getpid())),
        *(sys.executable, "-m", "benchmarks.reliability.limited", "--slots", str(slots), "--seconds", str(seconds)),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        said = await process.stdout.readline()
        if not said:
            raise RuntimeError("the upstream ended before it served")
        port, control = json.loads(said)
        async with aiohttp.ClientSession() as http:
            yield Running(f"http://127.0.0.1:{port}/v1", process.pid, f"http://127.0.0.1:{control}", http)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@click.command(help=__doc__)
@click.option("--slots", type=int, required=True)
@click.option("--seconds", type=float, required=True)
def main(slots: int, seconds: float) -> None:
    async def serve() -> None:
        await Limited(slots, seconds, lambda line: print(line, flush=True)).run()

    with suppress(KeyboardInterrupt):
        uvloop.run(serve())


if __name__ == "__main__":
    main()
