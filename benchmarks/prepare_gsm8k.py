"""Prepares real GSM8K rows with planted test questions among them, and writes docs/results/prepare-gsm8k.md.

    ITS_TEST_DATA=folder make results-prepare

The folder holds gsm8k-train.jsonl, gsm8k-test.jsonl, math500-test.jsonl and aime24-test.jsonl; their texts stay there.
"""

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

BENCHMARKS = ("gsm8k-test", "math500-test", "aime24-test")
PAGE = Path("docs/results/prepare-gsm8k.md")
N_PLANTED_EACH = 40
ARMS = "none,similar,dissimilar,random,mixed"


def _as_it_is(question: str, frame: str) -> str:
    return question


def _other_case(question: str, frame: str) -> str:
    return question.swapcase() if "\\" not in question else question.lower()


def _respelled(question: str, frame: str) -> str:
    plain = question.replace("$", "").replace("\\left", "").replace("\\right", "").replace("\\frac", "\\dfrac")
    return plain.replace(" ", "\n ")


def _framed(question: str, frame: str) -> str:
    return f"{frame} {question} Show every step."


PLANTS: Mapping[str, Callable[[str, str], str]] = {
    "verbatim": _as_it_is,
    "other letter case": _other_case,
    "LaTeX and spaces respelled": _respelled,
    "inside a longer text": _framed,
}


@dataclass(frozen=True)
class Run:
    """One `its-train prepare`, measured from outside."""

    sidecar: Mapping[str, Any]
    dropped: Sequence[Mapping[str, Any]]
    seconds: float
    cpu_seconds: float
    peak_mb: float


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), envvar="ITS_TEST_DATA", required=True)
@click.option("--out", type=click.Path(path_type=Path), default=PAGE)
def main(data: Path, out: Path) -> None:
    """Three runs: 1,000 rows; the same with planted questions; all rows."""
    with TemporaryDirectory() as folder:
        work = Path(folder)
        planted = _plant(data, work / "planted.jsonl")
        thousand = _prepare(data, data / "gsm8k-train.jsonl", work / "thousand", "--n", "1000")
        caught = _prepare(data, work / "planted.jsonl", work / "caught")
        everything = _prepare(data, data / "gsm8k-train.jsonl", work / "all")
    text = _page(thousand, caught, everything, planted)
    out.write_text(text, encoding="utf-8")
    click.echo(text)


def _plant(data: Path, target: Path) -> dict[int, tuple[str, str]]:
    """Writes all training rows with planted ones in between; returns (benchmark, kind) by row number."""
    chance = random.Random(3)
    train = [json.loads(line) for line in (data / "gsm8k-train.jsonl").read_text("utf-8").splitlines()]
    rows: list[tuple[dict[str, str], tuple[str, str] | None]] = [(row, None) for row in train]
    for benchmark in BENCHMARKS:
        questions = [json.loads(line) for line in (data / f"{benchmark}.jsonl").read_text("utf-8").splitlines()]
        for n in range(N_PLANTED_EACH):
            row = chance.choice(questions)
            question = row.get("question") or row["problem"]
            kind = list(PLANTS)[n % len(PLANTS)]
            text = PLANTS[kind](question, chance.choice(train)["question"])
            rows.append(({"question": text, "answer": "planted\n#### 1"}, (benchmark, kind)))
    chance.shuffle(rows)
    target.write_text("".join(json.dumps(row) + "\n" for row, _ in rows), encoding="utf-8")
    return {number: what for number, (_, what) in enumerate(rows, start=1) if what is not None}


def _prepare(data: Path, source: Path, out: Path, *options: str) -> Run:
    against = [part for name in BENCHMARKS for part in ("--against", str(data / f"{name}.jsonl"))]
    code = "from its_training.cli import main; main()"
    command = [sys.executable, "-c", code, "prepare", str(source), "--out", str(out), "--layout", "gsm8k",
               "--arms", ARMS, *against, *options]  # fmt: skip
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(
        sidecar=json.loads((out / "dataset.json").read_text("utf-8")),
        dropped=[json.loads(line) for line in (out / "dropped.jsonl").read_text("utf-8").splitlines()],
        seconds=time.monotonic() - started,
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        peak_mb=after.ru_maxrss / 1024,  # of the largest child so far
    )


def _page(thousand: Run, caught: Run, everything: Run, planted: Mapping[int, tuple[str, str]]) -> str:
    steps = "; ".join(
        f"{step['name']} kept {step['kept']:,}, dropped {step['dropped']:,}" for step in thousand.sidecar["steps"]
    )
    return f"""# `its-train prepare` on real GSM8K

Command: `ITS_TEST_DATA=... make results-prepare`. {datetime.now(UTC):%Y-%m-%d}, 2 cores, shared with other work (load
{os.getloadavg()[0]:.0f}), Python {sys.version.split()[0]}. Against GSM8K test (1,319), MATH-500 and AIME 2024 (30):
8-grams, equal words, and short texts contained in one another. Five arms: {ARMS}.

| run | rows written | seconds | CPU seconds | peak memory, MB |
| --- | --- | --- | --- | --- |
{_measured("1,000 rows of 7,473", thousand)}
{_measured("all rows", everything)}

Steps of the 1,000 rows: {steps}.

{_planted(caught, planted)}

{_shared(everything)}
"""


def _measured(name: str, run: Run) -> str:
    rows = run.sidecar["rows"]
    return f"| {name} | {rows:,} | {run.seconds:.0f} | {run.cpu_seconds:.0f} | {run.peak_mb:.0f} |"


def _planted(caught: Run, planted: Mapping[int, tuple[str, str]]) -> str:
    hits = {line["row"]: line for line in caught.dropped if line["row"] in planted}
    by_kind = {kind: [row for row, what in planted.items() if what[1] == kind] for kind in PLANTS}
    lines = [f"| {kind} | {len(rows)} | {sum(row in hits for row in rows)} |" for kind, rows in by_kind.items()]
    steps = Counter(line["step"] for line in hits.values())
    return "\n".join(
        [
            "## Planted test questions\n",
            f"{len(planted)} benchmark questions among the training rows ({N_PLANTED_EACH} of each), seed 3:",
            f"**{len(hits)} of {len(planted)} dropped** ({', '.join(f'{n} by {step}' for step, n in steps.items())}; "
            "a question planted twice is a duplicate).\n",
            "| planted | rows | dropped |",
            "| --- | --- | --- |",
            *lines,
        ]
    )


def _shared(everything: Run) -> str:
    found = [line for line in everything.dropped if line["step"] == "decontamination"]
    grams = Counter(line["text"] for line in found).most_common(4)
    benchmarks = Counter(line["benchmark"] for line in found)
    return "\n".join(
        [
            "## What the real rows share\n",
            f"{len(found)} of 7,473 real training rows are dropped",
            f"({', '.join(f'{n} for {name}' for name, n in benchmarks.items())}). A few are test problems with other",
            "names and numbers (a train for a plane); most share a turn of phrase only:",
            f"{'; '.join(f'{gram!r} ({n})' for gram, n in grams)}. An 8-gram rule drops both, and `dropped.jsonl`",
            "says why; at 1.3% of the rows that costs less than an argument about a leak.",
        ]
    )


if __name__ == "__main__":
    main()
