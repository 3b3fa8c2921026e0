"""A crowd of clients that only cost, as a process of its own; says on stdout, as JSON, what became of them.

python -m benchmarks.reliability.crowd URL headers 1000 45 [--per-second 200]

    headers   begin a request, and go on a byte a second
    bodies    say how long the body is, and send a byte of it a second
    readers   ask for a stream, and never read
    idle      connect, and say nothing
"""

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any, cast
from urllib.parse import urlsplit

import click
import uvloop

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n"
LONG = b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
FIRST = {"headers": HEAD + b"X-A: ", "bodies": HEAD + LONG + b"{", "idle": b""}
DROP = {"headers": b"a", "bodies": b" "}


@dataclass(slots=True)
class Member(asyncio.Protocol):
    """One client. `lived_s` is told when the server has ended its connection."""

    first: bytes
    opened_at: float = 0.0
    lived_s: float | None = None
    status: str = "none"
    transport: asyncio.Transport | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.opened_at = monotonic()
        self.transport.write(self.first)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1."):
            self.status = data[9:12].decode()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lived_s = monotonic() - self.opened_at
        self.transport = None
        self.gone.set()


def hold(url: str, n: int, seconds: float, body: bytes) -> dict[str, Any]:
    """Readers who do not: their end cannot be seen without reading."""
    place = urlsplit(url)
    held = [socket.socket() for _ in range(n)]
    for each in held:
        # Before it connects, or the kernel reads some megabytes for it.
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        each.connect((place.hostname or "", place.port or 80))
        each.sendall(HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    print(json.dumps({"opened": n}), flush=True)
    sleep(seconds)
    return {}


async def attack(url: str, kind: str, n: int, seconds: float, per_second: float) -> dict[str, Any]:
    """Opens them all, keeps them busy until all are gone or the time is over."""
    place = urlsplit(url)
    loop = asyncio.get_running_loop()
    members = [Member(FIRST[kind]) for _ in range(n)]
    dripping = asyncio.ensure_future(drip(members, DROP.get(kind, b"")))
    n_refused, began = 0, monotonic()
    for number, member in enumerate(members):
        await asyncio.sleep(max(0.0, began + number / per_second - monotonic()))
        try:
            await loop.create_connection(lambda member=member: member, place.hostname, place.port)  # type: ignore[misc]
        except OSError:
            n_refused += 1
    print(json.dumps({"opened": n - n_refused}), flush=True)
    await asyncio.wait([asyncio.ensure_future(member.gone.wait()) for member in members], timeout=seconds)
    dripping.cancel()
    lived = [member.lived_s for member in members if member.lived_s is not None]
    return {
        "gone": len(lived),
        "first_gone_s": round(min(lived, default=0), 2),
        "last_gone_s": round(max(lived, default=0), 2),
        "statuses": dict(Counter(member.status for member in members)),
    }


async def drip(members: list[Member], drop: bytes) -> None:
    """Spread over the second, as so many strangers would be."""
    while drop:
        for number, member in enumerate(members):
            if member.transport is not None:
                member.transport.write(drop)
            if number % 50 == 49:
                await asyncio.sleep(50 / len(members))
        await asyncio.sleep(0.01)


# -- from outside ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Crowd:
    """A running crowd. `opened`, then `outcome`, each once."""

    _process: asyncio.subprocess.Process

    async def opened(self) -> int:
        """How many could connect, when all have tried."""
        return int((await self._told())["opened"])

    async def outcome(self) -> dict[str, Any]:
        """When all are gone, or their time is over."""
        return await self._told()

    async def _told(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return dict(json.loads(await self._process.stdout.readline()))


@asynccontextmanager
async def crowd(
    url: str, kind: str, n: int, seconds: float, body: bytes = b"", per_second: float = 1e6
) -> AsyncIterator[Crowd]:
    """Begins with the block, when its process is up and costs no time any more; ended with it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.reliability.crowd", url, kind, str(n), str(seconds)),
        *("--per-second", str(per_second)),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        process.stdin.write(body)
        process.stdin.close()
        yield Crowd(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@click.command(help=__doc__)
@click.argument("url")
@click.argument("kind", type=click.Choice([*FIRST, "readers"]))
@click.argument("n", type=int)
@click.argument("seconds", type=float)
@click.option("--per-second", default=1e6, help="How fast they connect.")
def main(url: str, kind: str, n: int, seconds: float, per_second: float) -> None:
    print("up", flush=True)
    body = sys.stdin.buffer.read()
    if kind == "readers":
        outcome = hold(url, n, seconds, body)
    else:
        outcome = uvloop.run(attack(url, kind, n, seconds, per_second))
    print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
