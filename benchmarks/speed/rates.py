"""Measures one scenario: every target in turn in every round, so that whatever else the machine does hits all alike."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.speed.bench import Bench, Running
from benchmarks.speed.processes import OTHER_CORE, cpu_s, on_core
from benchmarks.speed.scenarios import Scenario

_WARM_S = 0.5
_NONE = {"p50": 0.0, "p99": 0.0, "max": 0.0}


@dataclass(frozen=True, slots=True)
class Seen:
    """One measurement. `cpu_ms`: the target's whole process tree, a request answered; times in ms, first: to the first
    byte of the body; gap: between two parts of a paced stream. `failed`: not answered by 200, cut, or never ended."""

    cpu_ms: float
    per_second: float
    p50: float
    p99: float
    first_p50: float
    gap_p99: float
    gap_max: float
    answered: int
    failed: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Of a run: `slow_s`, how long one that takes milliseconds a request is measured at least, if it says so itself."""

    rounds: int
    seconds: float
    slow_s: float

    def seconds_for(self, running: Running) -> float:
        return max(self.seconds, min(self.slow_s, running.target.seconds))


Figures = Mapping[str, Sequence[Seen]]
"""target -> a measurement a round"""


async def measure(bench: Bench, scenario: Scenario, pace: Pace) -> Figures:
    """Streams that last are not warmed up for, and go two rounds, those of a slow target one: each takes its time."""
    able = [running for running in bench.running if scenario.is_for(running.target)]
    await bench.upstream.behave(scenario.upstream)
    if scenario.once is None:
        for running in able:
            await load(bench, scenario, running, min(_WARM_S, pace.seconds))
    seen: dict[str, list[Seen]] = {running.target.name: [] for running in able}
    for number in range(pace.rounds if scenario.once is None else min(2, pace.rounds)):
        for running in able:
            if number < (running.target.rounds if scenario.once is None else running.target.rounds // 2):
                seconds = pace.seconds_for(running)
                seen[running.target.name].append(await load(bench, scenario, running, seconds))
    return seen


async def load(bench: Bench, scenario: Scenario, running: Running, seconds: float) -> Seen:
    """The load generator ends only when all that was asked is answered or given up, so all CPU is that of requests."""
    once = [] if scenario.once is None else ["1", str(scenario.once.ramp_s)]
    limit_s = seconds if scenario.once is None else scenario.once.at_most_s
    arguments = [str(running.process.port), str(scenario.connections), str(limit_s), *once]
    pid = running.process.pid
    before = cpu_s(pid) if pid is not None else 0.0
    process = await asyncio.create_subprocess_exec(
        *on_core(OTHER_CORE, [str(bench.programs / "load"), *arguments]),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, _ = await process.communicate(running.request(scenario.kind, scenario.fields))
    spent_s = cpu_s(pid) - before if pid is not None else 0.0
    return read(json.loads(told), spent_s)


def read(told: Mapping[str, Any], spent_s: float) -> Seen:
    """`told` by the load generator; late replies were served, too."""
    answered = told["ok"] + told["late"]
    first, whole, gap = (told[f"{name}_ms"] or _NONE for name in ("first", "whole", "gap"))
    return Seen(
        cpu_ms=round(1000 * spent_s / max(1, answered), 4),
        per_second=told["per_second"],
        p50=whole["p50"],
        p99=whole["p99"],
        first_p50=first["p50"],
        gap_p99=gap["p99"],
        gap_max=gap["max"],
        answered=answered,
        failed=sum(told[key] for key in ("other", "broken", "cut", "unconnected", "unfinished")),
    )


def columns(seen: Sequence[Seen]) -> dict[str, list[float]]:
    """A figure's values of all rounds, as they are written down."""
    return {name: [asdict(one)[name] for one in seen] for name in asdict(seen[0])} if seen else {}


def line(scenario: Scenario, target: str, seen: Sequence[Seen]) -> str:
    """For who looks on."""

    def middle(name: str) -> float:
        return median(getattr(one, name) for one in seen)

    failed = sum(one.failed for one in seen)
    gap = f"  gap p99 {middle('gap_p99'):6.1f} ms" if scenario.once is not None else ""
    return (
        f"{scenario.name:18} {target:10} {middle('cpu_ms'):8.4f} ms CPU  {middle('per_second'):9.0f}/s"
        f"  p50 {middle('p50'):8.3f}  p99 {middle('p99'):8.3f} ms{gap}" + (f"  {failed} failed" if failed else "")
    )
