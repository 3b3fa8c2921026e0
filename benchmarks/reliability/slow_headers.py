"""1,000 clients whose headers dribble in, and 1,000 whose bodies do, while others are served as before.

python -m benchmarks.reliability.slow_headers [--rounds 4] [--clients 1000]

Good clients ask at a steady rate, in turn without a crowd and with one; the crowd is a process of its own.
"""

import asyncio
import json
from pathlib import Path
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
    without: list[Reply] = []
    beside: list[Reply] = []
    outcomes = []
    settings = {"header_s": HEADER_S, "body_s": BODY_S}
    with TemporaryDirectory() as folder:
        async with world(Path(folder), settings) as (proxy, _):
            await good_clients(proxy, 2.0)
            for _ in range(rounds):
                before, under, outcome = await one_round(proxy, kind, n)
                without, beside = without + before, beside + under
                outcomes.append(outcome)
    calm, attacked = (quantile([1000 * reply.lasted_s for reply in replies], 0.99) for replies in (without, beside))
    return {
        f"{kind}: clients opened": min(outcome["opened"] for outcome in outcomes),
        f"{kind}: clients gone": min(outcome["gone"] for outcome in outcomes),
        f"{kind}: last gone after, s": max(outcome["last_gone_s"] for outcome in outcomes),
        f"{kind}: told 408": min(outcome["statuses"].get("408", 0) for outcome in outcomes),
        f"{kind}: good p99 without, ms": round(calm, 1),
        f"{kind}: good p99 beside, ms": round(attacked, 1),
        f"{kind}: good p99 ratio": round(attacked / calm, 3),
        f"{kind}: good requests beside": len(beside),
        f"{kind}: good requests failed": sum(reply.status != 200 for reply in without + beside),
    }


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
@click.option("--rounds", default=4, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(clients: int, rounds: int, out: Path) -> None:
    figures: dict[str, Any] = {}
    for kind, n_rounds in (("headers", rounds), ("bodies", max(1, rounds // 2))):
        figures |= asyncio.run(measure(kind, clients, n_rounds))
    conditions = {"header_s": HEADER_S, "body_s": BODY_S, "good requests a second": PER_SECOND,
                  "their model takes, s": DELAY_S, "rounds": rounds, "clients": clients,
                  "of them opened a second": OPENED_PER_SECOND}  # fmt: skip
    path = save("slow_headers", figures, is_passed(figures, clients), conditions, goal=GOAL, folder=out)
    print(json.dumps(figures, indent=1), path)


if __name__ == "__main__":
    main()
