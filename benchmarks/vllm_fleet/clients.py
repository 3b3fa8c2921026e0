"""Clients that ask one query after the other, and what each of them was told."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

REPLY_TIMEOUT_S = 900.0  # beyond every time limit of its-proxy: a client that hangs shall show as what it is
REQUEST = "fleet-"


@dataclass(frozen=True, slots=True)
class Reply:
    """One query's end. Seconds count from the start of the load; `status` 0: no reply came.

    The request's id is `fleet-<number>`, and `number` tells which query was asked.
    """

    number: int
    began_s: float
    ended_s: float
    status: int
    message: str | None = None
    pair_id: str | None = None
    target: str | None = None
    n: int = 0
    lost: int = 0
    degraded: str | None = None
    members: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_answered(self) -> bool:
        return self.status == 200


@dataclass(slots=True)
class Load:
    """Clients at work; `replies` grows. `now` is the clock of their times."""

    url: str
    model: str
    queries: Sequence[str]
    pause_s: float
    replies: list[Reply] = field(default_factory=list)
    n_asked: int = 0
    _began: float = field(default_factory=time.monotonic)
    _is_over: bool = False

    def now(self) -> float:
        return round(time.monotonic() - self._began, 3)

    async def until_answered(self, n: int, timeout_s: float = 300.0) -> None:
        """Returns when `n` more queries have been answered."""
        enough = self.n_answered + n
        async with asyncio.timeout(timeout_s):
            while self.n_answered < enough:
                await asyncio.sleep(0.05)

    @property
    def n_answered(self) -> int:
        return sum(reply.is_answered for reply in self.replies)

    async def work(self, http: aiohttp.ClientSession) -> None:
        while not self._is_over:
            number = self.n_asked
            self.n_asked += 1
            self.replies.append(await self._ask(http, number))
            await asyncio.sleep(self.pause_s)

    def end(self) -> None:
        """What is in flight is still waited for; nothing more is asked."""
        self._is_over = True

    async def _ask(self, http: aiohttp.ClientSession, number: int) -> Reply:
        query = self.queries[number % len(self.queries)]
        body = {"model": self.model, "messages": [{"role": "user", "content": query}]}
        headers = {"x-request-id": f"{REQUEST}{number}"}
        began_s = self.now()
        try:
            async with http.post(f"{self.url}/chat/completions", json=body, headers=headers) as reply:
                status, document = reply.status, json.loads(await reply.read())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return Reply(number, began_s, self.now(), 0, type(error).__name__)
        if status != 200:
            return Reply(number, began_s, self.now(), status, document["error"]["message"])
        its = document["its"]
        told = {name: its[name] for name in ("pair_id", "target", "n", "lost", "degraded")}
        return Reply(number, began_s, self.now(), status, members=its["members"] or [], **told)


@asynccontextmanager
async def clients(n: int, url: str, model: str, queries: Sequence[str], *, pause_s: float = 0.0) -> AsyncIterator[Load]:
    """`n` clients that ask as long as the block runs; each `pause_s` after its last reply."""
    load = Load(url, model, queries, pause_s)
    timeout, connector = aiohttp.ClientTimeout(total=REPLY_TIMEOUT_S), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http, asyncio.TaskGroup() as group:
        for _ in range(n):
            group.create_task(load.work(http))
        yield load
        load.end()


def write_replies(replies: Sequence[Reply], path: Path) -> None:
    """One line a reply, in the order in which they came."""
    path.write_text("".join(json.dumps(asdict(reply)) + "\n" for reply in replies))
