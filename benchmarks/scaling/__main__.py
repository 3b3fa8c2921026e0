"""Measures how the proxy's cost grows, into docs/results/scaling.json, and writes docs/scaling.md about it.

python -m benchmarks.scaling                 # all axes and the start, some minutes
python -m benchmarks.scaling keys pool       # some, the others stay as they were measured
python -m benchmarks.scaling --page          # only the page and its picture, from what was measured
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.reliability.results import machine
from benchmarks.scaling import page
from benchmarks.scaling.axes import AXES, Axis, Settings, answer
from benchmarks.scaling.cost import cpu_ms, server_process, steps
from benchmarks.scaling.draws import draws
from benchmarks.scaling.start import start
from tests.scripted import scripted_upstream
from tests.serving import tokens_of

START, DRAWS = "start", "draws"


async def measure(axis: Axis) -> dict[str, Any]:
    """Its sizes, and for each line the CPU time and the steps at each of them; where it matters, of the start, too."""
    with TemporaryDirectory() as folder:
        async with scripted_upstream(answer) as upstream:
            upstream.tokens = lambda body: tokens_of(body["messages"])
            points = []
            for sizes in [axis.sizes] if axis.is_built_once else [[size] for size in axis.sizes]:
                settings = axis.settings(Path(folder), upstream.url, sizes[-1])
                points += await _points(axis, settings, sizes, upstream.forget)
    lines = {
        name: {cost: [point[cost].get(name) for point in points] for cost in ("cpu_ms", "steps")} for name in axis.lines
    }
    start = {name: [point[name] for point in points] for name in ("start_cpu_s", "rss_mib")}
    return {"unit": axis.unit, "sizes": list(axis.sizes), "lines": lines, **({} if axis.is_built_once else start)}


async def _points(
    axis: Axis, settings: Settings, sizes: Sequence[int], forget: Callable[[], None]
) -> list[dict[str, Any]]:
    asks = [{name: ask for name, line in axis.lines.items() if (ask := line(size)) is not None} for size in sizes]
    points: list[dict[str, Any]] = []
    async with server_process(settings) as server:
        held = {"start_cpu_s": round(server.start_cpu_s, 2), "rss_mib": round(server.rss_mib, 1)}
        for size, asked in zip(sizes, asks, strict=True):
            spent = {name: round(await cpu_ms(server, ask), 4) for name, ask in asked.items()}
            print(f"{axis.name} {size}: {spent}", flush=True)
            points.append({"cpu_ms": spent, **held})
            forget()  # the upstream remembers all that it was asked
    is_counted = [axis.most_counted is None or size <= axis.most_counted for size in sizes]
    counted = await steps(settings, [asked if is_in else {} for asked, is_in in zip(asks, is_counted, strict=True)])
    return [{**point, "steps": of_size} for point, of_size in zip(points, counted, strict=True)]


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice([START, DRAWS, *(axis.name for axis in AXES)]))
@click.option("--page", "is_page_only", is_flag=True)
def main(names: tuple[str, ...], is_page_only: bool) -> None:
    document = json.loads(page.RESULTS.read_text()) if page.RESULTS.exists() else {"axes": {}}
    wanted = () if is_page_only else names or (START, DRAWS, *(axis.name for axis in AXES))
    if START in wanted:
        _save(document, {START: asyncio.run(start())})
    if DRAWS in wanted:
        _save(document, {DRAWS: draws()})
    for axis in AXES:
        if axis.name in wanted:
            _save(document, {"axes": {**document["axes"], axis.name: asyncio.run(measure(axis))}})
    page.write(document)


def _save(document: dict[str, Any], found: dict[str, Any]) -> None:
    document |= {**found, "date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    page.RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
