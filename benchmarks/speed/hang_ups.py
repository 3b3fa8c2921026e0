"""Twenty clients ask and leave in the middle: what becomes of the upstream's calls."""

import asyncio
from dataclasses import dataclass

from benchmarks.speed.bench import Bench, Running
from benchmarks.speed.scenarios import QUESTION
from benchmarks.speed.targets import Kind
from benchmarks.speed.upstream import Behaviour, Upstream

CLIENTS = 20
_STAY_S, _AT_MOST_S = 0.4, 60.0
WAYS: dict[str, tuple[Kind, bool]] = {
    "JSON": ("passed", False),
    "stream": ("passed", True),
    "vote of 8": ("vote", False),
}


@dataclass(frozen=True, slots=True)
class Left:
    """Upstream calls: `open` when the clients left, and of all, those `aborted`, those that ran to their end for
    nobody (`finished`), those `begun_later`."""

    open: int
    aborted: int
    finished: int
    begun_later: int


async def hang_up(bench: Bench, only: tuple[str, ...] | None = None, calm_s: float = 2.5) -> dict[str, dict[str, Left]]:
    """way -> target -> what was left once nothing had come for `calm_s`. Who answers no more is left out."""
    left: dict[str, dict[str, Left]] = {way: {} for way in WAYS}
    for way, (kind, is_stream) in WAYS.items():
        for running in bench.running:
            if kind in running.target.asks and (only is None or running.target.name in only):
                try:
                    found = await _leave(bench.upstream, running, kind, is_stream, calm_s)
                except (OSError, TimeoutError) as error:
                    print(f"{way}, {running.target.name}: left out: {error!r}", flush=True)
                else:
                    left[way][running.target.name] = found
    return left


async def _leave(upstream: Upstream, running: Running, kind: Kind, is_stream: bool, calm_s: float) -> Left:
    """Every reply would take two seconds; nobody stays for it."""
    await upstream.behave(Behaviour(0, 100, 20) if is_stream else Behaviour(2000))
    fields = {"messages": [{"role": "user", "content": QUESTION}], **({"stream": True} if is_stream else {})}
    request = running.request(kind, fields)
    writers = []
    for _ in range(CLIENTS):
        _, writer = await asyncio.open_connection("127.0.0.1", running.process.port)
        writer.write(request)
        writers.append(writer)
    await asyncio.sleep(_STAY_S)
    before = await upstream.counters()
    for writer in writers:
        writer.close()
    after = await upstream.until_quiet(calm_s, _AT_MOST_S)
    return Left(before.running, after.aborted, after.finished, after.requests - before.requests)
