"""Starts every server, tries every case on it, keeps each result, and writes the report."""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import click
import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks.torture_vllm import files
from benchmarks.torture_vllm.book import Book, Row, row_of
from benchmarks.torture_vllm.case import NO_START, Case, Found, Start, World
from benchmarks.torture_vllm.report import NAME, write_report
from benchmarks.torture_vllm.starts import starts
from benchmarks.torture_vllm.workshop import Workshop
from its_training.quiet import quiet_libraries
from tests.real_vllm.server import VllmError, start_vllm, vllm_command

FOLDER = click.Path(file_okay=False, path_type=Path)
CASE_TIMEOUT_S = 300.0
# By default every server binds itself to the same core, where two of them get half of what the machine has.
UNBOUND = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
START_TIMEOUT_S = 900.0  # a busy machine is no reason to leave a case untried


@click.command()
@click.option("--bases", type=FOLDER, help="What `its-train demo --out` left: bases and the arms on the other base.")
@click.option(
    "--keep", type=FOLDER, default=Path("build/torture-vllm"), show_default=True, help="Results, checkpoints."
)
@click.option("--out", type=FOLDER, default=Path("docs/results"), show_default=True, help="Where the report goes.")
@click.option("--only", multiple=True, help="Servers whose name holds this text; the report then says what is missing.")
@click.option("--at-once", default=2, show_default=True, help="Servers at a time, a core and 2.4 GB each.")
@click.option("--report-only", is_flag=True, help="Writes the report from the results that are there.")
@click.option("--any-code", is_flag=True, help="Keeps what other versions of the code judged right.")
def main(
    bases: Path | None, keep: Path, out: Path, only: tuple[str, ...], at_once: int, report_only: bool, any_code: bool
) -> None:
    """Tries the handshake against real vLLM servers; stopped and started again, it continues."""
    quiet_libraries(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    shop, book = Workshop(keep, bases), Book(keep / "results.jsonl", any_code=any_code)
    known = starts()
    planned = [start for start in known if bases is not None or not start.needs_bases]
    if not report_only:
        try:
            vllm_command()
        except VllmError as error:
            raise click.ClickException(str(error)) from None
        chosen = [start for start in planned if not only or any(part in start.name for part in only)]
        try:
            asyncio.run(Run(shop, book, at_once).all(chosen))
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.exit("torture-vllm: interrupted; the next run continues")
    cases = [*files.cases(), *(case for start in planned for case in start.cases)]
    skipped = [start.name for start in known if start not in planned]
    is_whole = write_report(out, book.rows(), cases, skipped)
    click.echo(f"written: {out}/{NAME}.md" + ("" if is_whole else "; not all is well, it says what"))
    sys.exit(0 if is_whole else 1)


@dataclass(slots=True)
class Run:
    """`n_at_once` servers at a time; a case that was done is not done again."""

    shop: Workshop
    book: Book
    n_at_once: int

    async def all(self, planned: Sequence[Start]) -> None:
        """Ended by SIGTERM, as by Ctrl-C, it stops its servers: one that still loads would outlive it otherwise."""
        this = asyncio.current_task()
        assert this is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
        cases = [*files.cases(), *(case for start in planned for case in start.cases)]
        columns = (TextColumn("{task.description:<60.60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            total = progress.add_task(
                "all cases", total=len(cases), completed=len(cases) - len(self.book.missing(cases))
            )
            for case in self.book.missing(files.cases()):
                await self._try(case, "", World(self.shop))
                progress.advance(total)
            room = asyncio.Semaphore(self.n_at_once)
            async with asyncio.TaskGroup() as group:
                for start in planned:
                    if self.book.missing(start.cases):
                        group.create_task(self._start(start, room, progress, total))

    async def _start(self, start: Start, room: asyncio.Semaphore, progress: Progress, total: TaskID) -> None:
        missing = self.book.missing(start.cases)
        async with room:
            line = progress.add_task(start.name, total=len(missing))
            log = self.shop.folder / "logs" / f"{''.join(c if c.isalnum() else '-' for c in start.name)[:60]}.log"

            def say(text: str) -> None:
                progress.update(line, description=f"{start.name}: {text.partition(': ')[2]}")

            try:
                checkpoint = await asyncio.to_thread(start.checkpoint, self.shop)
                flags = ("--served-model-name", *start.names, *await asyncio.to_thread(start.flags, self.shop))
                async with start_vllm(
                    checkpoint,
                    start.names[0],
                    *flags,
                    log=log,
                    env={**UNBOUND, **start.env},
                    timeout_s=START_TIMEOUT_S,
                    say=say,
                ) as vllm:
                    progress.update(line, description=start.name)
                    for case in missing:
                        await self._try(case, start.name, World(self.shop, vllm))
                        progress.advance(line)
                        progress.advance(total)
            except VllmError as error:
                self._did_not_start(start, missing, error, progress)
            except Exception as error:  # an hour of other servers is not lost for it; its cases stay to be done
                progress.console.print(f"{start.name}: {type(error).__name__}: {str(error)[:300]}")
            progress.remove_task(line)

    async def _try(self, case: Case, start: str, world: World) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(CASE_TIMEOUT_S):
                found = await case.ask(world)
        except (AssertionError, OSError, RuntimeError, aiohttp.ClientError) as error:
            click.echo(f"{case.name}: not tried: {type(error).__name__}: {str(error)[:300]}", err=True)
            return
        self._keep(case, start, found, time.monotonic() - began)

    def _did_not_start(self, start: Start, missing: Sequence[Case], error: VllmError, progress: Progress) -> None:
        """An answer where it may be one; everywhere else the cases stay to be done."""
        last_line = str(error).rpartition("\n")[2].strip()
        progress.console.print(f"{start.name}: no start: {last_line[:300]}")
        for case in missing:
            if NO_START in case.right:
                self._keep(case, start.name, Found(NO_START, last_line[:200]), 0.0)

    def _keep(self, case: Case, start: str, found: Found, seconds: float) -> None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        row: Row = row_of(case, start, found, round(seconds, 2), date)
        self.book.add(row)


if __name__ == "__main__":
    main()
