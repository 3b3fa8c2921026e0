"""Measures, and writes what was seen as lines and as JSON."""

import asyncio
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import click

from benchmarks.speed import page
from benchmarks.speed.bench import Bench, Running, benched, ready
from benchmarks.speed.chat import chat
from benchmarks.speed.draws import draws
from benchmarks.speed.hang_ups import hang_up
from benchmarks.speed.peers import ITS_HUB, LITELLM, OPTILLM, PLAIN
from benchmarks.speed.processes import peak_rss_mib
from benchmarks.speed.rates import Pace, columns, line, measure
from benchmarks.speed.results import Result, conditions, save
from benchmarks.speed.scenarios import Scenario, scenarios
from benchmarks.speed.targets import DIRECT, ITS_PROXY, NGINX, Target
from benchmarks.speed.votes import Looked, look

TARGETS = {target.name: target for target in (DIRECT, NGINX, ITS_PROXY, PLAIN, ITS_HUB, LITELLM, OPTILLM)}
OURS = ("direct", "nginx", "its-proxy")
QUICK_DOCS = page.PAGE.parents[1] / "build/bench"
"""A quick run must not take the place of a long one."""
_STARTS = 5
_QUICKLY_STARTED = ("nginx", "its-proxy")
AllLooked: TypeAlias = Mapping[str, Mapping[str, Looked]]
"""target -> kind -> what was seen"""


@dataclass(frozen=True, slots=True)
class Run:
    """What was asked for on the command line."""

    pace: Pace
    scenarios: Sequence[Scenario]
    targets: Sequence[Target]
    parts: Sequence[str]
    is_quick: bool
    out: Path | None
    command: str
    conditions: Result

    def save(self, name: str, figures: Any, **more: Any) -> None:
        if self.out is not None:
            save(self.out, name, self.command, self.conditions, figures, **more)


async def run(wanted: Run) -> list[str]:
    """Measures part after part; one that fails is told of, and the others go on. What went wrong."""
    async with benched(wanted.targets) as bench:
        for name, reason in bench.missing.items():
            print(f"{name}: left out: {reason}", flush=True)
        looked = await look(bench)
        wrong = [
            f"{name}, {kind}: not timed: {seen.wrong}"
            for name, by_kind in looked.items()
            for kind, seen in by_kind.items()
            if seen.wrong
        ]
        if "its-proxy" in bench.missing:
            wrong.append(f"its-proxy: {bench.missing['its-proxy']}")
        print("\n".join(wrong), end="\n" if wrong else "", flush=True)
        for name in PARTS:
            if name in wanted.parts:
                try:
                    await PARTS[name](wanted, bench, looked)
                except Exception as error:  # hours may lie behind, and minutes ahead
                    wrong.append(f"{name}: {type(error).__name__}: {error}")
    return wrong


async def _rates(wanted: Run, bench: Bench, looked: AllLooked) -> None:
    """Written after each scenario: what is there, is there."""
    seen: dict[str, Any] = {}
    told = {name: {kind: asdict(one) for kind, one in by_kind.items()} for name, by_kind in looked.items()}
    for scenario in wanted.scenarios:
        kinds = ("stream", scenario.kind) if scenario.is_stream else (scenario.kind,)
        sound = [running for running in bench.running if _is_sound(looked[running.target.name], kinds)]
        figures = await measure(Bench(bench.programs, bench.upstream, sound), scenario, wanted.pace)
        print(*(line(scenario, name, each) for name, each in figures.items()), sep="\n", flush=True)
        seen[scenario.name] = {name: columns(each) for name, each in figures.items()}
        wanted.save("rates", seen, looked=told, missing=bench.missing)


def _is_sound(looked: Mapping[str, Looked], kinds: Sequence[str]) -> bool:
    return not any(looked[kind].wrong for kind in kinds if kind in looked)


async def _chat(wanted: Run, bench: Bench, looked: AllLooked) -> None:
    if (its_proxy := bench.named("its-proxy")) is not None:
        chatted = await chat(bench, its_proxy, share=0.2 if wanted.is_quick else 1.0)
        wanted.save("chat", {name: asdict(each) for name, each in chatted.items()})


async def _hang_ups(wanted: Run, bench: Bench, looked: AllLooked) -> None:
    left = await hang_up(bench, OURS if wanted.is_quick else None)
    figures = {way: {name: asdict(each) for name, each in by_target.items()} for way, by_target in left.items()}
    wanted.save("hang-ups", figures)


async def _draws(wanted: Run, bench: Bench, looked: AllLooked) -> None:
    wanted.save("draws", draws(rounds=1 if wanted.is_quick else 5))


async def _starts(wanted: Run, bench: Bench, looked: AllLooked) -> None:
    """Of all that are running, and some more of those that start quickly; the most that each held is of the former."""
    started: dict[str, dict[str, Any]] = {}
    for running in bench.running:
        if (pid := running.process.pid) is not None:
            figures = {key: [value] for key, value in _start_of(running).items()}
            started[running.target.name] = {**figures, "peak_mib": round(peak_rss_mib(pid), 1)}
    for name in _QUICKLY_STARTED:
        for _ in range((1 if wanted.is_quick else _STARTS) if name in started else 0):
            for key, value in _start_of(await _started_again(TARGETS[name], bench)).items():
                started[name][key].append(value)
    wanted.save("starts", started)


def _start_of(running: Running) -> dict[str, float]:
    return {"ready_s": running.ready_s, "ready_cpu_s": running.ready_cpu_s, "idle_mib": running.idle_mib}


async def _started_again(target: Target, bench: Bench) -> Running:
    with TemporaryDirectory() as folder:
        async with ready(target, Path(folder), bench.upstream) as running:
            return running


PARTS = {"rates": _rates, "chat": _chat, "hang-ups": _hang_ups, "starts": _starts, "draws": _draws}


@click.command(help=sys.modules["benchmarks.speed"].__doc__)
@click.option("--rounds", default=5, show_default=True, help="Of the quick targets; slow ones go fewer.")
@click.option("--seconds", default=0.7, show_default=True, help="Of each measurement of a quick target, at least.")
@click.option("--quick", is_flag=True, help="One short round, 2 to 3 minutes: whether all works.")
@click.option("--only", multiple=True, help="Scenarios; all by default.")
@click.option(
    "--target", "targets", multiple=True, type=click.Choice(list(TARGETS)), help="All by default; no peers with --only."
)
@click.option(
    "--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="All by default; rates with --only."
)
@click.option("--out", type=click.Path(path_type=Path), help="A folder for JSON files.")
@click.option(
    "--page",
    "with_page",
    is_flag=True,
    help="Write docs/performance.md and what it is made from; quick: into build/bench.",
)
def main(
    rounds: int, seconds: float, quick: bool, only: Sequence[str], targets: Sequence[str], parts: Sequence[str],
    out: Path | None, with_page: bool,
) -> None:  # fmt: skip
    known = scenarios(quick)
    if strange := set(only) - {scenario.name for scenario in known}:
        raise click.BadParameter(f"no such scenario: {', '.join(strange)}; known: {', '.join(s.name for s in known)}")
    if missing := [program for program in ("cc", "taskset") if shutil.which(program) is None]:
        sys.exit(f"its-proxy: the benchmark needs {' and '.join(missing)} (Debian: apt-get install gcc util-linux)")
    began = time.monotonic()
    docs = page.PAGE.parent if not quick else QUICK_DOCS
    chosen = [target for name, target in TARGETS.items() if name in (targets or (OURS if only else TARGETS))]
    pace = Pace(1, 0.3, 1.0) if quick else Pace(rounds, seconds, 60.0)
    told = conditions(target.name for target in chosen)
    wanted = Run(
        pace=pace,
        scenarios=[scenario for scenario in known if not only or scenario.name in only],
        targets=chosen,
        parts=parts or (("rates",) if only else tuple(PARTS)),
        is_quick=quick,
        out=docs / "results/performance" if with_page else out,
        command=" ".join(["python -m benchmarks.speed", *sys.argv[1:]]),
        conditions=told | {"rounds": pace.rounds, "seconds": pace.seconds, "is_quick": quick},
    )
    wrong = asyncio.run(run(wanted))
    print(f"{(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    if with_page:
        page.write(docs / "results/performance", docs / page.PAGE.name)
    if wrong:
        sys.exit("not as it should be:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
