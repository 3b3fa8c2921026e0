"""Gates a worse, an equal and a better checkpoint of the demo, by the commands that a person would use.

    python -m benchmarks.demo_gate      # some 15 minutes of two cores, writes docs/results/gate-demo.md

Resumable: candidates files are kept in `--keep`, and what they hold is not asked again.
"""

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click

from benchmarks.demo_cells import serving_demo

ITEMS = Path("its_proxy/demo/problems.jsonl")
RUNS = {
    "in-service": ("--seed", "0"),
    "again": ("--seed", "1"),
    "one-sided": ("--seed", "0", "--strategy", "random"),
}
"""What `demo-none` is asked with; one-sided: with personas, which it was not trained on."""

EXIT_CODES = {0: "pass", 1: "fail", 3: "undecided"}


@dataclass(frozen=True)
class Case:
    """One gate: what it should say, which files it compares, and how."""

    title: str
    may_say: tuple[str, ...]
    new: str
    old: str
    metric: str


CASES = [
    Case("worse", ("fail", "undecided"), "one-sided", "in-service", "maj@8"),
    Case("worse", ("fail", "undecided"), "one-sided", "in-service", "pass@1"),
    Case("equal", ("pass", "undecided"), "again", "in-service", "maj@8"),
    Case("equal", ("pass", "undecided"), "again", "in-service", "pass@1"),
    Case("better", ("pass",), "in-service", "one-sided", "maj@8"),
    Case("better", ("pass",), "in-service", "one-sided", "pass@1"),
]


@click.command()
@click.option("--limit", default=1000, show_default=True, help="Problems of each run.")
@click.option("--keep", type=click.Path(path_type=Path), default=Path("build/demo-gate"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/gate-demo.md"), show_default=True)
def main(limit: int, keep: Path, out: Path) -> None:
    """Asks the three runs, then gates and replays them."""
    keep.mkdir(parents=True, exist_ok=True)
    with serving_demo(1) as (url,):
        for name, options in RUNS.items():
            asked = ("--model", "demo-none", "--url", url, "--limit", str(limit), "--concurrency", "8", *options)
            its_proxy("evaluate", str(ITEMS), "--out", str(keep / f"{name}.jsonl"), *asked)
    rows = [_gated(case, keep) for case in CASES]
    replayed = its_proxy("replay", str(keep / "in-service.jsonl"), "--order", "tokens")[1]
    out.write_text(_page(rows, replayed, limit))
    click.echo(f"written: {out}")


def its_proxy(*arguments: str) -> tuple[int, str]:
    """Exit code and output of one command; anything but a verdict ends the run."""
    done = subprocess.run([sys.executable, "-m", "its_proxy", *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode not in EXIT_CODES or (done.returncode and arguments[0] != "gate"):
        raise click.ClickException(f"its-proxy {arguments[0]} ended with code {done.returncode}")
    return done.returncode, done.stdout


def _gated(case: Case, keep: Path) -> str:
    files = [str(keep / f"{name}.jsonl") for name in (case.new, case.old)]
    options = ("--metric", case.metric, "--margin", "2", "--allow-other-ways")
    code, said = its_proxy("gate", files[0], "--against", files[1], *options)
    if EXIT_CODES[code] not in case.may_say:
        raise click.ClickException(f"{case.title}, {case.metric}: {said}")
    difference = said.splitlines()[0].rpartition("new - old ")[2]
    advice = "".join(said.splitlines()[1:])
    cells = (case.title, case.new, case.old, case.metric, difference, f"{code} {EXIT_CODES[code]}", advice)
    return f"| {' | '.join(cells)} |"


def _page(rows: list[str], replayed: str, limit: int) -> str:
    lines = "\n".join(rows)
    return f"""# The gate and replay on real demo checkpoints

Command: `python -m benchmarks.demo_gate`. Date: {datetime.now(UTC):%Y-%m-%d}.
Versions: its-proxy {version("its-proxy")}, torch {version("torch")}.

`demo-none`, embedded, on a CPU; {limit:,} held-out problems, 8 candidates each at temperature 0.8 and one greedy
reply. Runs: *in-service* as its manifest says, seed 0; *again* the same checkpoint with seed 1, so the truth is 0;
*one-sided* with personas (`random`, forced), which it was not trained on. Margin 2 points; intervals are 95% over
problems and candidates, for this one checkpoint.

| truth | new | against | metric | new - old | exit code | advice |
| --- | --- | --- | --- | --- | --- | --- |
{lines}

The gate refuses the one-sided run unless `--allow-other-ways` is given: its strategy was forced.

## Replay of *in-service*, the shortest candidates first

{replayed}"""


if __name__ == "__main__":
    main()
