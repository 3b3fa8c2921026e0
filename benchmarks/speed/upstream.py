"""The cheap upstream of a measurement (upstream.c): started, told how to behave, asked what it has counted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.speed.processes import OTHER_CORE, free_port, listening

DRAWN, SEQUENCE, CHAT = range(3)
RIGHT_ANSWER = "7"
"""What most of SEQUENCE's answers are; the first is another."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`delay_ms` before a reply or its first event; `mode`: what is answered, as upstream.c says."""

    delay_ms: float = 0.0
    n_events: int = 17
    event_delay_ms: float = 0.0
    mode: int = DRAWN


@dataclass(frozen=True, slots=True)
class Counters:
    """Since it was last told how to behave. `tokens`: generated, also of replies that were broken off."""

    requests: int
    finished: int
    aborted: int
    running: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Upstream:
    port: int
    http: aiohttp.ClientSession

    async def behave(self, behaviour: Behaviour) -> None:
        """Forgets all counters. Waits for what still runs: a delay cannot change under it."""
        b = behaviour
        numbers = f"{b.delay_ms} {b.n_events} {b.event_delay_ms} {b.mode}"
        async with asyncio.timeout(60):
            while (said := await self._read("POST", "behave", numbers)) != {}:
                if "is_wrong" in said:
                    raise ValueError(f"the upstream does not understand {numbers!r}")
                await asyncio.sleep(0.05)

    async def counters(self) -> Counters:
        return Counters(**await self._read("GET", "counters"))

    async def last(self) -> Any:
        """The body of the last completion that it was asked for."""
        return await self._read("GET", "last")

    async def until_quiet(self, quiet_s: float, timeout_s: float) -> Counters:
        """Its counters once nothing has run and nothing has come for so long."""
        before, calm_s = await self.counters(), 0.0
        async with asyncio.timeout(timeout_s):
            while calm_s < quiet_s:
                await asyncio.sleep(0.05)
                now = await self.counters()
                calm_s = calm_s + 0.05 if now == before and not now.running else 0.0
                before = now
        return before

    async def _read(self, method: str, path: str, data: str | None = None) -> Any:
        async with self.http.request(method, f"http://127.0.0.1:{self.port}/{path}", data=data) as reply:
            return await reply.json(content_type=None)


@asynccontextmanager
async def running_upstream(programs: Path, http: aiohttp.ClientSession) -> AsyncIterator[Upstream]:
    port = free_port()
    command = [str(programs / "upstream"), str(port)]
    async with listening(command, programs / "upstream.log", OTHER_CORE, port):
        yield Upstream(port, http)
