"""What its-proxy does before three real vLLM servers, measured part by part.

    make fleet-vllm                                        # all parts, into docs/results/vllm-fleet.md
    python -m benchmarks.vllm_fleet ensemble many-1        # these parts
    python -m benchmarks.vllm_fleet --stand-in --out build/try.md       # the benchmark itself, without vLLM

A part that has been measured whole is kept in `--keep` and not measured again. Ctrl-C ends every process.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from benchmarks.vllm_fleet import stand_in
from benchmarks.vllm_fleet.ensemble import ensemble
from benchmarks.vllm_fleet.many import many
from benchmarks.vllm_fleet.part import Part, read_part
from benchmarks.vllm_fleet.report import SCRIPTED, TITLES, write_report
from benchmarks.vllm_fleet.roll_over import lose, roll_over
from benchmarks.vllm_fleet.servers import DEMO


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(TITLES)))
@click.option("--keep", type=click.Path(path_type=Path), default=Path("build/vllm-fleet"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/vllm-fleet.md"), show_default=True)
@click.option("--pause-s", default=0.25, show_default=True, help="What a client waits after each reply.")
@click.option("--seconds", default=120.0, show_default=True, help="How long the 64 clients ask.")
@click.option("--anew", is_flag=True, help="Measure parts again that have been measured.")
@click.option("--stand-in", "stands_in", is_flag=True, help="A small program in vLLM's place, to try the benchmark.")
def main(
    names: tuple[str, ...], keep: Path, out: Path, pause_s: float, seconds: float, anew: bool, stands_in: bool
) -> None:
    """Measures the parts that are not kept yet, then writes the report; exit code 1 where something does not hold."""
    with tempfile.TemporaryDirectory() as folder:
        keep = keep / "stand-in" if stands_in else keep
        for name in names or TITLES:
            if anew or read_part(keep / name) is None:
                with _vllm(stand_in.install(Path(folder)) if stands_in or name == SCRIPTED else None):
                    _measure(name, keep / name, pause_s, seconds)
    parts = {name: part for name in TITLES if (part := read_part(keep / name)) is not None}
    write_report(parts, out)
    failed = [name for name, part in parts.items() if not part.holds]
    click.echo(f"written: {out}" + (f"; does not hold: {', '.join(failed)}" if failed else ""))
    sys.exit(1 if failed else 0)


@contextmanager
def _vllm(environment: Path | None) -> Iterator[None]:
    """Another environment than the one that ITS_VLLM names, where one is given."""
    before = dict(os.environ)
    try:
        os.environ |= {"ITS_VLLM": str(environment)} if environment is not None else {}
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def _measure(name: str, folder: Path, pause_s: float, seconds: float) -> None:
    queries = [json.loads(line)["query"] for line in (DEMO / "problems.jsonl").read_text().splitlines()]
    measures: dict[str, Callable[[Part], Awaitable[None]]] = {
        "roll-over": lambda part: roll_over(part, queries, pause_s=pause_s, kills=False),
        "roll-over-kill": lambda part: roll_over(part, queries, pause_s=pause_s, kills=True),
        "lose": lambda part: lose(part, queries, pause_s=pause_s),
        "ensemble": lambda part: ensemble(part, queries, pause_s=pause_s),
        "many-1": lambda part: many(part, queries, n_servers=1, seconds=seconds),
        "many-3": lambda part: many(part, queries, n_servers=3, seconds=seconds),
        SCRIPTED: lambda part: many(part, queries, n_servers=1, seconds=seconds),
    }
    shutil.rmtree(folder, ignore_errors=True)
    part = Part(name, folder)
    asyncio.run(_awaited(measures[name](part)))
    part.keep()


async def _awaited(work: Awaitable[None]) -> None:
    await work


if __name__ == "__main__":
    main()
