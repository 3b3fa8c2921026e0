"""How few tokens does a vote need? Writes docs/results/cheaper-votes.json, docs/cheaper-votes.md and its pictures.

    make results-votes                         # votes again over the recorded candidates; minutes, no model
    make results-votes ARGS="--only record"    # asks the embedded demo models anew: 32 candidates of every item
    make results-votes ARGS="--only vllm"      # wall times before a real vLLM; wants a quiet machine, six minutes
    make results-votes ARGS="--only crowd"     # the same with eight queries at a time
    make results-votes ARGS="--only chat"      # what chat costs there; tokens alone, so any machine
    make results-votes ARGS="--only page"      # the page and the pictures again, from the JSON

Resumable: what stands in `--keep` is not asked again, and each part replaces its own section of the JSON alone.
"""

import asyncio
import json
import os
import platform
import signal
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, pstdev
from time import monotonic
from typing import Any

import aiohttp
import click

from benchmarks.cheaper_votes import chat, frontier, halves, page, pictures, recorded, walls
from benchmarks.cheaper_votes.replayed import STEPS, Clock
from benchmarks.cheaper_votes.ways import Way
from benchmarks.vllm_vote.kept import Kept
from benchmarks.vllm_vote.servers import DEMO, Servers, start_servers
from its_proxy.candidates import Row, read_items
from its_proxy.codesign.errors import ItsError
from its_proxy.replay import tokens_of
from its_proxy.statistics import clustered_interval, wilson

PARTS = ("record", "replay", "vllm", "crowd", "chat", "page")
AT_ONCE = {"vllm": 1, "crowd": 8}
SPREADS = (0.0, 0.3, 0.6)
N_ORDERS_OF_MODELS = 2
RESULTS = page.ROOT / "docs/results/cheaper-votes.json"
PAGE = page.ROOT / "docs/cheaper-votes.md"


@click.command(context_settings={"show_default": True})
@click.option("--only", type=click.Choice(PARTS), default="replay", help="Which part; each ends with the page.")
@click.option("--limit", default=1000, help="Items of `record` and `replay`.")
@click.option("--queries", default=200, help="Queries of `vllm` and `crowd`, each in every way.")
@click.option(
    "--minutes", default=5.0, help="After these `vllm` and `crowd` begin no further query; the next run goes on."
)
@click.option("--keep", type=click.Path(path_type=Path), default=Path("build/cheaper-votes"), help="What was asked.")
def main(only: str, limit: int, queries: int, minutes: float, keep: Path) -> None:
    """Measures one part, then writes the page over everything that has been measured."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Also where a shell in the background has them ignored: what was started is to be ended.
        signal.signal(number, signal.default_int_handler)
    sections: dict[str, Any] = {}
    try:
        match only:
            case "record":
                asyncio.run(recorded.record(read_items(DEMO / "problems.jsonl")[:limit], keep))
            case "replay":
                sections = replay(limit, read_results())
            case "vllm" | "crowd" | "chat":
                sections = asyncio.run(_on_vllm(only, queries, minutes, keep))
    except (RuntimeError, ItsError, aiohttp.ClientError) as error:
        raise click.ClickException(f"{error}\nWhat has been asked is kept: the same command goes on.") from None
    # Read at the end: another part may have ended meanwhile.
    write(read_results() | sections)


def read_results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def write(results: dict[str, Any], file: Path = RESULTS, text: Path = PAGE) -> None:
    """The page names pictures beside the results."""
    if not results:
        return
    file.write_text(json.dumps(results, indent=1) + "\n")
    pictures.draw_all(results, file.with_suffix(""))
    text.write_text(page.page(results))
    click.echo(f"written: {file}, {text}", err=True)


# --- votes again over recorded candidates ----------------------------------------------------


def replay(limit: int, results: dict[str, Any]) -> dict[str, Any]:
    """Sections `replays`, `models` and `advice`; where real wall times stand in `results`, their clock is used, too."""
    clocks = {"a batch costs no time": STEPS}
    if "vllm" in results:
        clocks["this machine's, as measured"] = Clock(**results["vllm"]["clock"])
    sections: dict[str, Any] = {"replays": {}, "models": [], "advice": {}}
    for workload in recorded.WORKLOADS:
        rows = recorded.read(workload.file, limit)
        click.echo(f"{workload.name}: {len(rows)} items", err=True)
        sections["replays"][workload.name] = _head(workload, rows) | {
            "points": _points(rows, frontier.ways(), STEPS, 0.0, frontier.N_ORDERS)
        }
        for name, clock in clocks.items():
            # Without a spread and a price of a batch it is the replay above.
            for spread in SPREADS[clock is STEPS :]:
                shown = _points(rows, frontier.staged_ways(), clock, spread, N_ORDERS_OF_MODELS)
                conditions = {"workload": workload.name, "clock": name, **asdict(clock), "spread": spread}
                sections["models"].append(conditions | {"points": shown})
        sections["advice"][workload.name] = asdict(halves.check(rows, halves.SIZES))
    return sections | {"replayed": _conditions() | {"n_orders": frontier.N_ORDERS}}


def _points(rows: Sequence[Row], ways: Sequence[Way], clock: Clock, spread: float, n_orders: int) -> list[Any]:
    all_runs = [frontier.run_way(way, rows, clock, spread, n_orders) for way in ways]
    return [asdict(point) for point in frontier.points(all_runs, frontier.greedy_of(rows))]


def _head(workload: recorded.Workload, rows: Sequence[Row]) -> dict[str, Any]:
    greedy = frontier.greedy_of(rows)
    lengths = [[tokens_of(row, one) for one in row.candidates] for row in rows]
    return {
        "title": workload.title,
        "n_items": len(rows),
        "n_candidates": len(rows[0].candidates),
        "recorded": rows[0].date,
        "pass_at_1": clustered_interval([row.share_right for row in rows]),
        "greedy": wilson(int(greedy.is_right.sum()), len(rows)),
        "greedy_tokens": float(greedy.n_tokens.mean()),
        "tokens": fmean(map(fmean, lengths)),
        # How unequal the candidates of one item are: the mean over items of deviation by mean.
        "spread": fmean(pstdev(one) / fmean(one) for one in lengths),
    }


# --- before a real vLLM ----------------------------------------------------------------------


async def _on_vllm(part: str, queries: int, minutes: float, keep: Path) -> dict[str, Any]:
    kept = Kept(keep / f"{part}.jsonl")
    items = read_items(DEMO / "problems.jsonl")[:queries]
    async with start_servers(walls.MODEL, keep, walls.settings) as servers:
        conditions = _conditions() | {"vllm": await _version(servers)}
        if part == "chat":
            await chat.measure(servers, kept)
        elif not await walls.measure(servers, kept, items, AT_ONCE[part], monotonic() + 60 * minutes):
            click.echo("time is up: the same command goes on", err=True)
        conditions |= {"load": _conditions()["load"]}
    if part == "chat":
        costs = [asdict(cost) for cost in chat.costs(kept.records)]
        return {"chat": conditions | {"n_prompts": len(chat.PROMPTS), "costs": costs}}
    found = walls.found(kept.records)
    if found is None:
        return {}
    points, clock = found
    asked = {"at_once": AT_ONCE[part], "n_items": walls.n_items(kept.records), "clock": asdict(clock)}
    return {part: conditions | asked | {"points": [*map(asdict, points)]}}


async def _version(servers: Servers) -> str:
    async with servers.http.get(f"{servers.vllm.root}/version") as reply:
        return str((await reply.json())["version"])


def _conditions() -> dict[str, Any]:
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "its_proxy": version("its-proxy"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
    }


if __name__ == "__main__":
    main()
