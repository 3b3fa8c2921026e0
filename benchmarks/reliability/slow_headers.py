"""1,000 clients whose headers dribble in, and 1,000 whose bodies do, while others are served as before.

python -m benchmarks.reliability.slow_headers [--rounds 5] [--clients 1000]

Good clients ask at a steady rate, in turn without a crowd and with one; the crowd is a process of its own.
"""

import asyncio
import json
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.proxy import Proxy
from benchmarks.reliability.clients import Reply, quantile, steady_load
from benchmarks.reliability.crowd import crowd
from benchmarks.reliability.results import FOLDER, save
from benchmarks.reliability.wishes import Wish
from benchmarks.reliability.world import world

GOAL = "1,000 slow-header clients are gone in 12 s, and good clients' p99 is at most 1.2 times that without them."
HEADER_S, BODY_S, GONE_S, RATIO = 10.0, 30.0, 12.0, 1.2
PER_SECOND, DELAY_S = 40.0, 0.1
OPENED_PER_SECOND = 200.0
"""As attack tools do; all at once they would be a queue for the processor, which others wait in for its own sake."""
BODIES_GONE_S = BODY_S + 2.0


async def one_round(proxy: Proxy, kind: str, n: int) -> tuple[list[Reply], list[Reply], dict[str, Any]]:
    """Replies without a crowd, replies from its first client until the last has connected and is timed out, and what
    became of it."""
    seconds = n / OPENED_PER_SECOND + HEADER_S
    before = await good_clients(proxy, seconds)
    async with crowd(proxy.url, kind, n, seconds + 30.0, per_second=OPENED_PER_SECOND) as attackers:
        beside = await good_clients(proxy, seconds)
        opened = await attackers.opened()
        outcome = await attackers.outcome()
    return before, beside, {"opened": opened, **outcome}


async def good_clients(proxy: Proxy, seconds: float) -> list[Reply]:
    messages = [{"role": "user", "content": Wish(delay_s=DELAY_S).written("How many are 3 + 4?")}]
    body = {"model": "passed", "messages": messages}
    return await steady_load(proxy.url, PER_SECOND, seconds, lambda number: body)


async def measure(kind: str, n: int, rounds: int) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        async with world(Path(folder), {"header_s": HEADER_S, "body_s": BODY_S}) as (proxy, _):
            await good_clients(proxy, 2.0)
            done = [await one_round(proxy, kind, n) for _ in range(rounds)]
    befores, besides, outcomes = zip(*done, strict=True)
    # The median of the rounds: whatever else the machine did in one of them is not what is measured.
    calm, attacked = (median(map(p99_ms, replies)) for replies in (befores, besides))
    good = [reply for replies in (*befores, *besides) for reply in replies]
    return {
        f"{kind}: clients opened": min(outcome["opened"] for outcome in outcomes),
        f"{kind}: clients gone": min(outcome["gone"] for outcome in outcomes),
        f"{kind}: last gone after, s": max(outcome["last_gone_s"] for outcome in outcomes),
        f"{kind}: told 408": min(outcome["statuses"].get("408", 0) for outcome in outcomes),
        f"{kind}: good p99 without, ms": round(calm, 1),
        f"{kind}: good p99 beside, ms": round(attacked, 1),
        f"{kind}: good p99 ratio": round(attacked / calm, 3),
        f"{kind}: good requests beside": sum(map(len, besides)),
        f"{kind}: good requests failed": sum(reply.status != 200 for reply in good),
        f"{kind}: p99 of each round without and beside, ms": [
            [round(p99_ms(replies), 1) for replies in pair] for pair in zip(befores, besides, strict=True)
        ],
    }


def p99_ms(replies: list[Reply]) -> float:
    return quantile([1000 * reply.lasted_s for reply in replies], 0.99)


def is_passed(figures: dict[str, Any], n: int) -> bool:
    return all(
        figures[f"{kind}: clients gone"] == figures[f"{kind}: clients opened"] == n
        and figures[f"{kind}: last gone after, s"] <= limit_s
        and figures[f"{kind}: good p99 ratio"] <= RATIO
        and figures[f"{kind}: good requests failed"] == 0
        for kind, limit_s in (("headers", GONE_S), ("bodies", BODIES_GONE_S))
    )


@click.command(help=__doc__)
@click.option("--clients", default=1000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(clients: int, rounds: int, out: Path) -> None:
    figures: dict[str, Any] = {}
    for kind in ("headers", "bodies"):
        figures |= asyncio.run(measure(kind, clients, rounds))
    conditions = {"header_s": HEADER_S, "body_s": BODY_S, "good requests a second": PER_SECOND,
                  "their model takes, s": DELAY_S, "rounds": rounds, "clients": clients,
                  "of them opened a second": OPENED_PER_SECOND}  # fmt: skip
    path = save("slow_headers", figures, is_passed(figures, clients), conditions, goal=GOAL, folder=out)
    print(json.dumps(figures, indent=1), path)


if __name__ == "__main__":
    main()
