"""How soon does vLLM hold no request any more, after a decided stop, a client that leaves, and a deadline?

Looked at through `/metrics` every few milliseconds: running and waiting requests together. A round
counts only if candidates were still being generated when it was stopped.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random

from benchmarks.vllm_vote.kept import Kept, Record
from benchmarks.vllm_vote.servers import DEADLINE_S, LONG_TOKENS, Servers
from benchmarks.vllm_vote.tables import quantile, table
from benchmarks.vllm_vote.tokens import only_right_ones_end
from its_proxy.candidates import Item
from its_proxy.statistics import wilson

WITHIN_S = 1.0
# Idle is who stays idle: a request may be on its way to the engine while the gauge says 0.
STAYS_S = 0.1
N = 8
LONG = {"max_tokens": LONG_TOKENS, "ignore_eos": True, "its": {"n": N, "vote": "always"}}
SHARES = {"least": 0.0, "median": 0.5, "90%": 0.9, "most": 1.0}


async def _decided(servers: Servers, item: Item, random: Random) -> float:
    """The vote is decided while those with another answer write on."""
    fields = {"its": {"n": N, "vote": "always", "stop": "exact"}, "seed": random.getrandbits(30)}
    reply = await servers.ask(item.query, "long", **fields, **only_right_ones_end(item))
    return reply.received_at


async def _left(servers: Servers, item: Item, random: Random, *, is_stream: bool = False) -> float:
    """The client closes its connection in the middle."""
    asking = asyncio.create_task(servers.ask(item.query, "long", **LONG, stream=is_stream))
    while not asking.done() and await servers.vllm.n_running() < N:
        await asyncio.sleep(0.005)
    await asyncio.sleep(random.uniform(0, 0.5))
    left_at = asyncio.get_running_loop().time()
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    return left_at


async def _left_stream(servers: Servers, item: Item, random: Random) -> float:
    return await _left(servers, item, random, is_stream=True)


async def _deadline(servers: Servers, item: Item, random: Random) -> float:
    """Counted from the deadline itself, not from the reply that tells of it."""
    reply = await servers.ask(item.query, "hurried", **LONG)
    return reply.sent_at + DEADLINE_S


# Each asks, has its request stopped, and returns since when vLLM has nothing to do any more.
ENDS: dict[str, Callable[[Servers, Item, Random], Awaitable[float]]] = {
    "decided stop": _decided,
    "client leaves, plain": _left,
    "client leaves, streamed": _left_stream,
    "deadline": _deadline,
}
SINCE = {"decided stop": "the reply", "deadline": "the deadline"}


async def ask(servers: Servers, item: Item, end: str, number: int) -> Record:
    """One round: seconds until idle, the slowest look among them, and how many candidates were cut off."""
    before = await servers.counters()
    since = await ENDS[end](servers, item, Random(f"{end}:{number}"))
    idle_at, look_s = await _idle_at(servers)
    n_cut = N - ((await servers.counters()).n_finished - before.n_finished)
    return {"end": end, "number": number, "idle_s": idle_at - since, "look_s": look_s, "n_cut": n_cut}


async def _idle_at(servers: Servers) -> tuple[float, float]:
    """When vLLM was first seen idle and stayed so, and how many seconds the slowest look took."""
    clock = asyncio.get_running_loop().time
    idle_at, slowest_s = None, 0.0
    async with asyncio.timeout(60):
        while idle_at is None or clock() < idle_at + STAYS_S:
            began = clock()
            n_running = await servers.vllm.n_running()
            seen_at = clock()
            slowest_s = max(slowest_s, seen_at - began)
            idle_at = None if n_running else idle_at or seen_at
            await asyncio.sleep(0.005)
    return idle_at, slowest_s


def hardest_first(items: Sequence[Item]) -> list[Item]:
    """Longer problems have more steps: of their candidates more are wrong, and are left when the vote is decided."""
    return sorted(items, key=lambda item: len(item.query), reverse=True)


def n_counting(kept: Kept, end: str) -> int:
    """Rounds so far in which something was cut off."""
    return len(_counting(kept, end))


def waiting(kept: Kept, end: str, n_rounds: int) -> bool:
    return n_counting(kept, end) < n_rounds


_INTRO = """
{n_rounds} rounds each of {n} candidates, until `vllm:num_requests_running` and `vllm:num_requests_waiting` were 0
together and stayed so for {stays:.0f} ms. A look at them takes some milliseconds, which are part of what is measured;
on a busy machine it takes longer, so the slowest one stands beside. Rounds in which nothing was left to cut off do not
count: where all candidates had the right answer, they ended together.
"""


def report(kept: Kept, n_rounds: int) -> str:
    if any(waiting(kept, end, n_rounds) for end in ENDS):
        return "Not measured."
    intro = _INTRO.strip().format(n_rounds=n_rounds, n=N, stays=1000 * STAYS_S)
    return intro + "\n\n" + table([_cells(kept, end, n_rounds) for end in ENDS])


def _counting(kept: Kept, end: str) -> list[Record]:
    return [record for record in kept.where(end=end) if record["n_cut"] > 0]


def _cells(kept: Kept, end: str, n_rounds: int) -> dict[str, object]:
    records = _counting(kept, end)[:n_rounds]
    seconds = [record["idle_s"] for record in records]
    n_within = sum(time <= WITHIN_S for time in seconds)
    return {
        "after": end,
        "counted from": SINCE.get(end, "the close"),
        "rounds": len(records),
        "asked": len(kept.where(end=end)),
        "candidates cut off": sum(record["n_cut"] for record in records),
        "idle within 1 s": f"{n_within} of {len(records)}",
        "95% interval of that share": wilson(n_within, len(records)),
        **{f"{name}, ms": f"{1000 * quantile(seconds, share):.0f}" for name, share in SHARES.items()},
        "slowest look, ms": f"{1000 * max(record['look_s'] for record in records):.0f}",
    }
