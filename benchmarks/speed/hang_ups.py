"""Twenty clients ask and leave in the middle: what becomes of the upstream's calls."""

import asyncio
import time
from dataclasses import dataclass

from benchmarks.speed.bench import Bench, Running
from benchmarks.speed.scenarios import QUESTION
from benchmarks.speed.targets import Kind
from benchmarks.speed.upstream import CHAT, Behaviour, Counters, Upstream

CLIENTS = 20
_AT_MOST_S, _STREAMED_S = 60.0, 0.2
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


@dataclass(frozen=True, slots=True)
class Leaving:
    """A reply would take `answer_s`; the clients leave once all calls are open, and after three quarters of it even
    before that; all is over once nothing has come for `calm_s`, and thrice as long where calls are still to come."""

    answer_s: float = 2.0
    calm_s: float = 2.5


_USUAL = Leaving()


async def hang_up(
    bench: Bench, only: tuple[str, ...] | None = None, leaving: Leaving = _USUAL
) -> dict[str, dict[str, Left]]:
    """way -> target -> what was left. Who answers no more is left out."""
    left: dict[str, dict[str, Left]] = {way: {} for way in WAYS}
    for way, (kind, is_stream) in WAYS.items():
        for running in bench.running:
            if kind in running.target.asks and (only is None or running.target.name in only):
                try:
                    found = await _leave(bench.upstream, running, kind, is_stream, leaving)
                except (OSError, TimeoutError) as error:
                    print(f"{way}, {running.target.name}: left out: {error!r}", flush=True)
                else:
                    left[way][running.target.name] = found
    return left


async def _leave(upstream: Upstream, running: Running, kind: Kind, is_stream: bool, leaving: Leaving) -> Left:
    # As CHAT: who asks for a stream and reads a plain reply, to pass on later, waits as long.
    slowly = Behaviour(0, round(50 * leaving.answer_s), 20, CHAT) if is_stream else Behaviour(1000 * leaving.answer_s)
    await upstream.behave(slowly)
    fields = {"messages": [{"role": "user", "content": QUESTION}], **({"stream": True} if is_stream else {})}
    request = running.request(kind, fields)
    writers = []
    for _ in range(CLIENTS):
        _, writer = await asyncio.open_connection("127.0.0.1", running.process.port)
        writer.write(request)
        writers.append(writer)
    n_calls = CLIENTS * (running.target.vote_calls if kind == "vote" else 1)
    before = await _until_open(upstream, n_calls, 0.75 * leaving.answer_s)
    if is_stream:
        await asyncio.sleep(_STREAMED_S)
        before = await upstream.counters()
    for writer in writers:
        writer.close()
    is_slow = before.requests < n_calls
    after = await upstream.until_quiet(leaving.calm_s * (3 if is_slow else 1), _AT_MOST_S)
    return Left(before.running, after.aborted, after.finished, after.requests - before.requests)


async def _until_open(upstream: Upstream, n_calls: int, at_most_s: float) -> Counters:
    late = time.monotonic() + at_most_s
    while (counters := await upstream.counters()).running < n_calls and time.monotonic() < late:
        await asyncio.sleep(0.02)
    return counters
