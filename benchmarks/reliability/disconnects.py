"""10,000 clients that leave, in every phase and every manner: how long their candidates live on at the upstream.

python -m benchmarks.reliability.disconnects [--disconnects 10000] [--at-once 8]
"""

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count, islice
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, time
from typing import Any, get_args

import click

from benchmarks.proxy import Proxy
from benchmarks.reliability.clients import Bare, How, quantile
from benchmarks.reliability.results import FOLDER, save
from benchmarks.reliability.upstream import Running
from benchmarks.reliability.wishes import Wish
from benchmarks.reliability.workers import vote_over_two_spellings, workers_of
from benchmarks.reliability.world import N, world

GOAL = "10,000 disconnects over all phases: no orphan candidate after 1 s, no slot leaked, p99 below 100 ms."
QUERY = "How many eggs are 3 eggs and 4 eggs?"
HOWS: tuple[How, ...] = get_args(How)
P99_MS, ORPHAN_S, WAIT_S = 100.0, 1.0, 10.0
GAUGES = (
    "its_proxy_inflight_requests",
    "its_proxy_target_inflight",
    "its_proxy_candidates_inflight",
    "its_proxy_queued_requests",
)
OTHERS = QUEUED, COMPARING = "queued", "answers being compared"
_STREAM = {"stream": True}
_TALKING = Wish(n_chunks=10**6, chunk_delay_s=0.02, texts=("word ",))


@dataclass(frozen=True, slots=True)
class Phase:
    """Where a request is when its client leaves: `n_running` candidates are open, `reads` has been seen by then.

    `share`: of the body that was sent at all.
    """

    model: str
    wish: Wish
    n_running: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    reads: bytes = b""
    share: float = 1.0

    @property
    def n_finished(self) -> int:
        return min(self.wish.n_answering, N) if self.n_running and self.wish.n_answering < N else 0


PHASES = {
    "body half sent": Phase("voted", Wish(), 0, share=0.5),
    "before the first candidate": Phase("voted", Wish(n_answering=0), N),
    "one candidate received": Phase("voted", Wish(n_answering=1), N - 1),
    "quorum received": Phase("voted", Wish(n_answering=N // 2), N // 2),
    "candidates streaming": Phase("counted", _TALKING, N),
    "voted stream, before its headers": Phase("voted", Wish(n_answering=0), N, _STREAM),
    "voted stream, after its headers": Phase("voted", Wish(n_answering=1), N - 1, _STREAM, b'"role":"assistant"'),
    "passed through, plain": Phase("passed", Wish(n_answering=0), 1),
    "passed through, before its first byte": Phase("passed", Wish(n_answering=0), 1, _STREAM),
    "passed through, in the middle": Phase("passed", _TALKING, 1, _STREAM, b"word"),
}


@dataclass(frozen=True, slots=True)
class Left:
    """One client that left: how long each of its candidates lived on, and how many had not been hung up on at all.

    In the queue there are none: an orphan there is one that was asked for all the same. `ended_ms`: when nothing of
    the request was left, where no candidate is there to tell.
    """

    phase: str
    how: How
    aborts_ms: tuple[float, ...]
    n_orphans: int
    ended_ms: float | None = None


async def leave(proxy: Proxy, upstream: Running, name: str, how: How, request_id: str) -> Left:
    """One request, brought to its phase and left there."""
    phase = PHASES[name]
    client = await Bare.asking(proxy.url, _body(phase), request_id, share=phase.share)
    before = await upstream.calls(request_id, running=phase.n_running, finished=phase.n_finished)
    if (before.n_running, before.n_finished) != (phase.n_running, phase.n_finished):
        raise RuntimeError(f"{name}: {before} where {phase.n_running} should run")
    if phase.reads:
        await client.reads(phase.reads)
    left_at = client.leave(how)
    after = await upstream.calls(request_id, over=before.n_begun)
    is_held = how == "half-close" and not await client.is_let_go(ORPHAN_S)
    client.close()
    aborts_ms = tuple(1000 * (at - left_at) for at in after.aborted_at)
    n_late = sum(ms > 1000 * ORPHAN_S for ms in aborts_ms)
    return Left(name, how, aborts_ms, after.n_running + n_late + is_held)


async def leave_often(proxy: Proxy, upstream: Running, name: str, how: How, n: int, at_once: int) -> list[Left]:
    numbers = iter(range(n))

    async def work() -> list[Left]:
        return [await leave(proxy, upstream, name, how, _request_id(name, how, number)) for number in numbers]

    return [left for lefts in await asyncio.gather(*(work() for _ in range(at_once))) for left in lefts]


def _body(phase: Phase) -> dict[str, Any]:
    messages = [{"role": "user", "content": phase.wish.written(QUERY)}]
    vote = {"its": {"vote": "always"}} if phase.model != "passed" else {}
    return {"model": phase.model, "messages": messages, "seed": 0, **vote, **phase.fields}


def _request_id(name: str, how: str, number: int) -> str:
    return f"{[*PHASES, *OTHERS].index(name)}_{how.replace('-', '_')}_{number}"


async def leave_the_queue(proxy: Proxy, upstream: Running, how: How, n: int, at_once: int) -> list[Left]:
    """Rounds of clients that all wait for room that one other takes up, and leave together."""
    lefts: list[Left] = []
    holder = await Bare.asking(proxy.url, _body(PHASES["before the first candidate"]), f"holder_{how[:3]}")
    await upstream.calls(f"holder_{how[:3]}", running=N)
    while len(lefts) < n:
        ids = [_request_id(QUEUED, how, len(lefts) + number) for number in range(at_once)]
        clients = [await Bare.asking(proxy.url, _body(PHASES["before the first candidate"]), id_) for id_ in ids]
        await _until(proxy, "its_proxy_queued_requests", at_once)
        for client in clients:
            client.leave(how)
        await _until(proxy, "its_proxy_queued_requests", 0)
        for client, id_ in zip(clients, ids, strict=True):
            is_held = how == "half-close" and not await client.is_let_go(ORPHAN_S)
            client.close()
            lefts.append(Left(QUEUED, how, (), (await upstream.calls(id_)).n_begun + is_held))
    holder.close()
    await upstream.calls(f"holder_{how[:3]}", over=N)
    return lefts


async def leave_while_comparing(proxy: Proxy, upstream: Running, how: How, n: int, at_once: int) -> list[Left]:
    """Rounds of clients whose candidates have all come and differ in spelling, before workers that stand still.

    No candidate is left to be cancelled: what ends is the request, and its-proxy's own log tells when.
    """
    lefts: list[Left] = []
    numbers = count(list(HOWS).index(how) * 10**6)
    while len(lefts) < n:
        for worker in workers_of(proxy.pid):
            os.kill(worker, signal.SIGSTOP)
        turn = list(islice(numbers, at_once))
        bodies = [vote_over_two_spellings(number) for number in turn]
        ids = [_request_id(COMPARING, how, number) for number in turn]
        clients = [await Bare.asking(proxy.url, body, id_) for body, id_ in zip(bodies, ids, strict=True)]
        for id_ in ids:
            await upstream.calls(id_, finished=N)
        left_at = [time() for client in clients if client.leave(how)]
        ended = await _ended(proxy, ids)
        for client, id_, at in zip(clients, ids, left_at, strict=True):
            client.close()
            code, ended_at = ended.get(id_, (499, inf))
            if code == 499:  # any other has been answered before its client came to leave, and is none of these
                lefts.append(Left(COMPARING, how, (), int(ended_at - at > ORPHAN_S), 1000 * (ended_at - at)))
    return lefts


async def _ended(proxy: Proxy, ids: Sequence[str]) -> dict[str, tuple[int, float]]:
    """How and when each of the requests ended, by the log; waits a little longer than an orphan may live."""
    waited_until = monotonic() + 2 * ORPHAN_S
    ended: dict[str, tuple[int, float]] = {}
    while len(ended) < len(ids) and monotonic() < waited_until:
        await asyncio.sleep(0.01)
        whole = proxy.log.read_bytes().rpartition(b"\n")[0]  # the last line may be on its way
        lines = (json.loads(line) for line in whole.splitlines() if line.startswith(b"{"))
        ended = {line["id"]: (line["code"], _seconds(line)) for line in lines if line.get("id") in ids}
    return ended


def _seconds(line: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


async def _until(proxy: Proxy, gauge: str, wanted: float) -> None:
    async with asyncio.timeout(WAIT_S):
        while sum(value for _, value in await proxy.samples(gauge)) != wanted:
            await asyncio.sleep(0.005)


async def held(proxy: Proxy) -> float:
    """What its-proxy says is still going on, this look at its metrics included."""
    return sum(value for _, value in await proxy.samples(*GAUGES))


async def until_nothing_is_held(proxy: Proxy, at_rest: float) -> float:
    """What is held beyond the state at rest, after a second at most."""
    for _ in range(20):
        if (leaked := await held(proxy) - at_rest) <= 0:
            return 0
        await asyncio.sleep(ORPHAN_S / 20)
    return leaked


async def measure(n_disconnects: int, at_once: int, folder: Path) -> tuple[list[Left], float]:
    """All that left, and how many slots were leaked."""
    lefts: list[Left] = []
    leaked = 0.0
    each = -(-n_disconnects // ((len(PHASES) + len(OTHERS)) * len(HOWS)))
    async with world(folder / "open") as (proxy, upstream):
        at_rest = await held(proxy)
        for name in PHASES:
            for how in HOWS:
                lefts += await leave_often(proxy, upstream, name, how, each, at_once)
                leaked += await until_nothing_is_held(proxy, at_rest)
            print(f"{name:40} {_row([left for left in lefts if left.phase == name])}", flush=True)
        leaked += (await upstream.counters()).n_running
    full = {"limits": {"candidates": N, "queue": 4 * at_once, "queue_s": 60}}
    for name, leave_all, settings in (
        (COMPARING, leave_while_comparing, {"log_level": "info"}),
        (QUEUED, leave_the_queue, full),
    ):
        async with world(folder / name, settings) as (proxy, upstream):
            at_rest = await held(proxy)
            for how in HOWS:
                lefts += await leave_all(proxy, upstream, how, each, at_once)
                leaked += await until_nothing_is_held(proxy, at_rest)
            leaked += (await upstream.counters()).n_running
        print(f"{name:40} {_row([left for left in lefts if left.phase == name])}", flush=True)
    return lefts, leaked


def _row(lefts: Sequence[Left]) -> dict[str, Any]:
    aborts = [ms for left in lefts for ms in left.aborts_ms]
    ended = aborts + [left.ended_ms for left in lefts if left.ended_ms is not None]
    times = {f"p{share}_ms": round(quantile(ended, share / 100), 1) for share in (50, 99)} if ended else {}
    most = {"max_ms": round(max(ended), 1)} if ended else {}
    n_orphans = sum(left.n_orphans for left in lefts)
    return {"disconnects": len(lefts), "candidates_cancelled": len(aborts), **times, **most, "orphans": n_orphans}


def figures_of(lefts: Sequence[Left], leaked: float) -> dict[str, Any]:
    return {**_row(lefts), "slots_leaked": int(leaked)}


def has_passed(figures: Mapping[str, Any]) -> bool:
    return figures["orphans"] == figures["slots_leaked"] == 0 and figures["p99_ms"] < P99_MS


@click.command(help=__doc__)
@click.option("--disconnects", default=10_000, show_default=True)
@click.option("--at-once", default=8, show_default=True, help="Clients at a time.")
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(disconnects: int, at_once: int, out: Path) -> None:
    before = os.getloadavg()[1]
    with TemporaryDirectory() as folder:
        lefts, leaked = asyncio.run(measure(disconnects, at_once, Path(folder)))
    figures = figures_of(lefts, leaked)
    conditions = {
        "clients at once": at_once,
        "candidates of a vote": N,
        "load average before": round(before, 1),
        "measured": "at the upstream, from the client's leaving to the end of each candidate's connection",
    }
    phases = {name: _row([left for left in lefts if left.phase == name]) for name in [*PHASES, *OTHERS]}
    manners = {how: _row([left for left in lefts if left.how == how]) for how in HOWS}
    times = sorted(round(ms, 2) for left in lefts for ms in left.aborts_ms)
    path = save("disconnects", figures, has_passed(figures), conditions, goal=GOAL, folder=out,
                phases=phases, manners=manners, abort_ms_by_permille=times[:: max(1, len(times) // 1000)])  # fmt: skip
    print(json.dumps(figures), path)


if __name__ == "__main__":
    main()
