"""Has the persona writer face an endpoint that misbehaves, at length: bad personas, second runs, kills, two at once.

    python -m benchmarks.persona_writer --queries gsm8k-train.jsonl    # some minutes; docs/results/persona-writer.md

The endpoint is tests/training/personas/crooked_writer.py; what was accepted is judged by independent.py beside it,
which shares no rule with the code under test. Queries: GSM8K's layout (question, answer), or made ones without a file.
"""

import asyncio
import json
import os
import platform
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from random import Random
from shutil import rmtree
from tempfile import mkdtemp

import click

from its_proxy import __version__
from its_training.personas.ledger import Totals, open_ledger
from its_training.personas.tasks import Query
from tests.training.personas.crooked_writer import HONEST, TRANSPORT, CrookedWriter, crooked_writer
from tests.training.personas.independent import complaint
from tests.training.personas.small_work import answers, queries, select, write_file

ROOT = Path(__file__).resolve().parent.parent
STRATEGIES = ("similar", "dissimilar", "random")
CONCURRENCY, N_ASKS = 16, 8


@dataclass
class Figures:
    """What the parts measured."""

    n_tasks: int = 0
    seconds: float = 0.0
    totals: Totals | None = None
    deeds: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    n_requests: int = 0
    second_run: int = 0
    kills: list[tuple[int, int, int]] = field(default_factory=list)
    killed_end: str = ""
    pair: str = ""


@click.command()
@click.option("--queries", "file", type=click.Path(path_type=Path), help="GSM8K's training file; else made queries.")
@click.option("--limit", default=1_000, show_default=True, help="Queries; each is asked for three strategies.")
@click.option("--kills", default=10, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs/results/persona-writer.md")
def main(file: Path | None, limit: int, kills: int, out: Path) -> None:
    """Runs every part and writes the page."""
    some = _read(file, limit) if file is not None else queries(limit)
    work = Path(mkdtemp(prefix="persona-writer-"))
    try:
        figures = asyncio.run(_measure(work, some, kills))
    finally:
        rmtree(work)
    source = f"the first {len(some)} of GSM8K's training questions" if file is not None else f"{len(some)} made ones"
    out.write_text(_page(figures, source))
    click.echo(f"written: {out}")


def _read(file: Path, limit: int) -> list[Query]:
    with file.open() as lines:
        rows = [json.loads(line) for line in islice(lines, limit)]
    return [Query(f"gsm8k {n}", row["question"], row["answer"].rpartition("####")[2].strip())
            for n, row in enumerate(rows)]  # fmt: skip


async def _measure(work: Path, some: list[Query], kills: int) -> Figures:
    figures = Figures(n_tasks=len(some) * len(STRATEGIES))
    right = answers(some)
    file = write_file(work / "queries.jsonl", some)
    await _quality(work / "quality", file, right, figures)
    await _kill(work / "killed", file, right, kills, figures)
    await _pair(work / "pair", file, right, figures)
    return figures


async def _quality(work: Path, file: Path, right: dict[str, str], figures: Figures) -> None:
    async with crooked_writer(1, right) as server:
        started = time.monotonic()
        await _finish(await _start(server, file, work))
        figures.seconds = time.monotonic() - started
        figures.n_requests, figures.deeds = server.n_requests, server.deeds
        await _finish(await _start(server, file, work))
        figures.second_run = server.n_requests - figures.n_requests
    with open_ledger(work) as ledger:
        figures.totals = ledger.totals()
        for one in ledger.accepted():
            said = complaint(one.text, one.strategy, one.domain, one.query, right[one.query])
            if said is not None:
                figures.complaints.append(f"{said}: {one.text}")
    click.echo(f"accepted {figures.totals.n_accepted} in {figures.seconds:.0f} s, bad: {figures.complaints}")


async def _kill(work: Path, file: Path, right: dict[str, str], kills: int, figures: Figures) -> None:
    """Kills at random numbers of requests; each kill: (rows before, replies that the endpoint finished, rows added)."""
    random = Random(7)
    async with crooked_writer(2, right, delay_s=0.01) as server:
        for _ in range(kills):
            finished, rows = server.n_finished, _n_rows(work)
            process = await _start(server, file, work)
            goal = server.n_requests + random.randrange(1, 400)
            while server.n_requests < goal and process.returncode is None:
                await asyncio.sleep(0.0005)
            if process.returncode is not None:
                break  # it was done before: fewer queries than kills need
            process.send_signal(signal.SIGKILL)
            await process.communicate()
            figures.kills.append((rows, server.n_finished - finished, _n_rows(work) - rows))
            click.echo(f"killed: {figures.kills[-1]}")
        await _finish(await _start(server, file, work))
    figures.killed_end = _state(work, figures.n_tasks)


async def _pair(work: Path, file: Path, right: dict[str, str], figures: Figures) -> None:
    """Two processes at once on one ledger."""
    async with crooked_writer(3, right) as server:
        for process in [await _start(server, file, work) for _ in range(2)]:
            await _finish(process)
        twice = server.n_finished - _n_rows(work)
    figures.pair = f"{_state(work, figures.n_tasks)}; {twice} replies came for calls that the other had made already"


async def _start(server: CrookedWriter, file: Path, work: Path) -> asyncio.subprocess.Process:
    strategies = [part for name in STRATEGIES for part in ("--strategy", name)]
    arguments = ("write", "--queries", file, *strategies, "--endpoint", server.url, "--model", "crooked",
                 "--concurrency", CONCURRENCY, "--asks", N_ASKS, "--failures", 500, "--out", work)  # fmt: skip
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from its_training.cli import main; main()", "personas", *map(str, arguments)),
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'training'}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def _finish(process: asyncio.subprocess.Process) -> None:
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise click.ClickException(out.decode())


def _n_rows(work: Path) -> int:
    if not (work / "calls.sqlite").exists():
        return 0
    with open_ledger(work) as ledger:
        return ledger.totals().n_calls


def _state(work: Path, n_tasks: int) -> str:
    with open_ledger(work) as ledger:
        totals = ledger.totals()
        n_keys = len({(one.id, one.strategy) for one in ledger.accepted()})
    ((sound,),) = select(work, "PRAGMA integrity_check")
    told = f"{totals.n_accepted} accepted for {n_keys} of {n_tasks} tasks, {totals.n_unwritten} told as unwritten"
    return f"{told}, `PRAGMA integrity_check`: {sound}"


def _page(figures: Figures, source: str) -> str:
    totals = figures.totals
    assert totals is not None
    n_bad = len(figures.complaints)
    lost = [finished - added for _, finished, added in figures.kills]
    parts = [
        "# The persona writer before an endpoint that misbehaves",
        f"`its-train personas write` as a process of its own, {CONCURRENCY} calls at once, at most {N_ASKS} calls a "
        f"task, before a scripted endpoint on loopback (tests/training/personas/crooked_writer.py) of which "
        f"{_share(figures.deeds, HONEST)} of the replies are honest, {_share(figures.deeds, TRANSPORT)} fail as HTTP "
        f"and the rest lie. Queries: {source}, for each of {', '.join(STRATEGIES)}: {figures.n_tasks} tasks. The "
        "endpoint writes by a script, so these figures say nothing about how well a language model writes.",
        "Command: `python -m benchmarks.persona_writer --queries gsm8k-train.jsonl`. "
        f"Date: {datetime.now(UTC):%Y-%m-%d}. Versions: its-proxy {__version__}, Python {platform.python_version()}. "
        f"Machine: {os.cpu_count()} cores, shared with other work: times are upper bounds.",
        "## Bad personas",
        f"**{n_bad} bad personas among {totals.n_accepted} accepted**, by a checker that shares no rule with ours "
        f"(tests/training/personas/independent.py). {totals.n_unwritten} tasks got no good persona in {N_ASKS} calls "
        f"and were told as such. {figures.n_requests} requests, {totals.n_calls} whole replies, {totals.n_again} of "
        f"them to re-asks, {figures.seconds:.0f} s. **The second run made {figures.second_run} calls.**",
        _table(("refused as", "replies"), totals.rejected),
        "What the endpoint did:",
        _table(("deed", "requests"), dict(figures.deeds.most_common())),
        "## Killed",
        f"SIGKILL at {len(lost)} random moments, then once to the end. Lost: replies that the endpoint finished and "
        f"the ledger does not hold; with {CONCURRENCY} calls in flight it may be {CONCURRENCY} each time. "
        f"**Most lost at once: {max(lost)}; in all: {sum(lost)}.**",
        "\n".join(["| rows before | replies finished | rows added | lost |", "| --- | --- | --- | --- |"]
                  + [f"| {rows} | {done} | {added} | {done - added} |" for rows, done, added in figures.kills]),
        f"After the last run: {figures.killed_end}.",
        "## Two processes on one ledger",
        f"Both started together and both ended well: {figures.pair}. The ledger stays "
        "sound, but equal lists are paid for twice: give each process queries of its own.",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _share(deeds: Counter[str], some: tuple[str, ...]) -> str:
    return f"{100 * sum(deeds[deed] for deed in some) / deeds.total():.0f}%"


def _table(columns: tuple[str, str], counts: dict[str, int]) -> str:
    rows = [f"| {name} | {n} |" for name, n in counts.items()]
    return "\n".join([f"| {columns[0]} | {columns[1]} |", "| --- | --- |", *rows])


if __name__ == "__main__":
    main()
