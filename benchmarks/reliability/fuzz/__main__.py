"""Fuzzing, in its three parts; the figures of each go into fuzz.json when it is over, beside those of the others.

    make fuzz                                     # the short form, some minutes
    make fuzz ARGS="--long --folder fuzz-run"     # 50,000 requests, 200,000 examples, 10 minutes a reader: two hours

`--folder` keeps what was tried: started again, requests go on where they stopped.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.reliability.fuzz import guided, http, properties
from benchmarks.reliability.results import FOLDER, save

DEPLOY = Path(__file__).parents[3] / "deploy"
GOAL = (
    "schemathesis 50,000 requests, hypothesis 200,000 examples, atheris 10 minutes at each reader: no 5xx of "
    "its own making, no crash, nothing over 100 ms on the event loop."
)
COMMAND = 'make fuzz ARGS="--long"'
LIMIT_MS = 100.0


def environment() -> Path:
    """The environment that holds the tools; built first where it is not there."""
    if ready := os.environ.get("ITS_FUZZ"):
        return Path(ready)
    done = subprocess.run(
        [sys.executable, str(DEPLOY / "fuzz_environment.py")], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"its-proxy: no environment for fuzzing: {done.stdout.strip()}")
    return Path(done.stdout.strip())


def requests(folder: Path, is_long: bool) -> tuple[dict[str, Any], bool]:
    figures = asyncio.run(http.fuzz(environment(), folder / "http", 50_000 if is_long else 1_000))
    is_sound = not any(figures[name] for name in ("5xx", "without a reply", "complaints of a check"))
    return figures, is_sound and figures["longest on the event loop, ms of processor time"] <= LIMIT_MS


def readers(folder: Path, is_long: bool) -> tuple[dict[str, Any], bool]:
    figures = guided.fuzz(environment(), folder / "readers", 600 if is_long else 20)
    slowest = max((value for name, value in figures.items() if name.endswith("slowest_ms")), default=0.0)
    return figures, not figures["findings"] and slowest <= LIMIT_MS


def examples(folder: Path, is_long: bool) -> tuple[dict[str, Any], bool]:
    figures = properties.check(folder / "examples", 90 if is_long else 5)
    return figures, not figures["findings"] and (figures["examples"] >= 200_000 or not is_long)


PARTS: dict[str, Callable[[Path, bool], tuple[dict[str, Any], bool]]] = {
    "requests": requests,
    "examples": examples,
    "readers": readers,
}


@click.command(help=__doc__)
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--long", "is_long", is_flag=True)
@click.option("--folder", type=click.Path(path_type=Path), help="[default: a temporary one]")
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(parts: tuple[str, ...], is_long: bool, folder: Path | None, out: Path) -> None:
    with TemporaryDirectory() as temporary:
        ended = {part: PARTS[part](folder or Path(temporary), is_long) for part in parts or PARTS}
    for part, (figures, is_good) in ended.items():
        print(f"{part}: {'good' if is_good else 'NOT GOOD'}\n{json.dumps(figures, indent=1)}")
    if is_long:
        print(_save(ended, out))
    if not all(is_good for _, is_good in ended.values()):
        sys.exit(1)


def _save(ended: dict[str, tuple[dict[str, Any], bool]], out: Path) -> Path:
    """What was found before of the other parts stays."""
    path = out / "fuzz.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    parts = {**before.get("parts", {}), **{part: {"passed": good, **told} for part, (told, good) in ended.items()}}
    figures = {
        f"{part}: {name}": value
        for part, told in parts.items()
        for name, value in told.items()
        if isinstance(value, int | float) and name != "passed"
    }
    passed = set(parts) == set(PARTS) and all(told["passed"] for told in parts.values())
    return save("fuzz", figures, passed, goal=GOAL, command=COMMAND, folder=out, parts=parts)


if __name__ == "__main__":
    main()
