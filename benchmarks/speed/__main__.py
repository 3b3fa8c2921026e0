"""Measures, and writes what was seen as a table and as JSON."""

import asyncio
import json
import os
import platform
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.speed.processes import OTHER_CORE, Loaded, build, free_port, load, rss_mib, running
from benchmarks.speed.scenarios import SCENARIOS, Scenario
from benchmarks.speed.targets import TARGETS, Target

Seen = dict[tuple[str, str], list[Loaded]]
"""(scenario, target) -> a measurement a round"""


async def measure(scenarios: Sequence[Scenario], targets: Sequence[str], rounds: int, seconds: float) -> Seen:
    """Scenarios whose upstream behaves alike are measured before one upstream."""
    seen: Seen = defaultdict(list)
    with TemporaryDirectory() as name:
        programs = Path(name)
        build(programs)
        for number, (behaviour, alike) in enumerate(groupby(scenarios, key=lambda scenario: scenario.upstream)):
            folder = programs / str(number)
            folder.mkdir()
            await _measure_before_one(list(alike), behaviour, targets, rounds, seconds, programs, folder, seen)
    return seen


async def _measure_before_one(
    scenarios: Sequence[Scenario],
    behaviour: tuple[float, int, float],
    targets: Sequence[str],
    rounds: int,
    seconds: float,
    programs: Path,
    folder: Path,
    seen: Seen,
) -> None:
    port = free_port()
    upstream = [str(programs / "upstream"), str(port), *map(str, behaviour)]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(upstream, folder / "upstream.log", OTHER_CORE, port))
        started = [await stack.enter_async_context(TARGETS[name](folder, port)) for name in targets]
        for scenario in scenarios:
            able = [target for target in started if scenario.only is None or target.name in scenario.only]
            for target in able:  # to be warm
                await _load(programs, scenario, target, min(0.3, seconds))
            for _ in range(rounds):
                for target in able:
                    seen[scenario.name, target.name].append(await _load(programs, scenario, target, seconds))
            print(*(_line(scenario, target, seen[scenario.name, target.name]) for target in able), sep="\n", flush=True)


async def _load(programs: Path, scenario: Scenario, target: Target, seconds: float) -> Loaded:
    request = scenario.request(target.name, target.port)
    return await load(programs, target.port, target.pid, scenario.connections, seconds, request)


def _line(scenario: Scenario, target: Target, seen: Sequence[Loaded]) -> str:
    figures = figures_of(seen)
    memory = "" if target.pid is None else f"  {rss_mib(target.pid):5.0f} MiB"
    return (
        f"{scenario.name:18} {target.name:10} {figures['cpu_ms']:8.4f} ms CPU  {figures['per_second']:9.0f}/s"
        f"  p50 {figures['p50_ms']:8.3f}  p99 {figures['p99_ms']:8.3f} ms{memory}"
        + (f"  {figures['failed']} failed" if figures["failed"] else "")
    )


def figures_of(seen: Sequence[Loaded]) -> dict[str, Any]:
    """The middle of all rounds."""
    told = [one.told for one in seen]
    wholes = [one["whole_ms"] or {"p50": 0.0, "p99": 0.0} for one in told]
    firsts = [one["first_ms"] or {"p50": 0.0} for one in told]
    return {
        "cpu_ms": round(median(one.cpu_ms for one in seen), 4),
        "per_second": round(median(one["per_second"] for one in told), 1),
        "p50_ms": median(whole["p50"] for whole in wholes),
        "p99_ms": median(whole["p99"] for whole in wholes),
        "first_byte_p50_ms": median(first["p50"] for first in firsts),
        "failed": sum(one[key] for one in told for key in ("other", "broken", "unconnected", "unfinished")),
    }


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="Of each measurement.")
@click.option("--only", multiple=True, help="Scenarios; all by default.")
@click.option("--target", "targets", multiple=True, type=click.Choice(list(TARGETS)), help="All by default.")
@click.option("--out", type=click.Path(path_type=Path), help="A JSON file for the figures.")
def main(rounds: int, seconds: float, only: Sequence[str], targets: Sequence[str], out: Path | None) -> None:
    scenarios = [scenario for scenario in SCENARIOS if not only or scenario.name in only]
    scenarios.sort(key=lambda scenario: scenario.upstream)
    load_before = os.getloadavg()[0]
    seen = asyncio.run(measure(scenarios, targets or list(TARGETS), rounds, seconds))
    if out is not None:
        document = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "conditions": {"python": platform.python_version(), "cores": os.cpu_count(), "rounds": rounds,
                           "seconds": seconds, "load average before": round(load_before, 1)},
            "figures": {f"{scenario}: {target}": figures_of(each) for (scenario, target), each in seen.items()},
        }  # fmt: skip
        out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
