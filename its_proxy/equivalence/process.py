"""One worker process at a time: started, given a pair at a time, killed when that takes too long, started again."""

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from its_proxy.equivalence.comparisons import Verdict

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_SCRIPT = Path(__file__).with_name("worker.py")
_INHERITED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""Of the environment; the rest, keys for instance, is none of a worker's business."""
_FAILS_AFTER = 3
"""Starts in a row that have failed; one may have been killed by whoever killed the one before it."""
_ABANDONED_S = 0.05
"""What a pair may still take when nobody waits for it any more: mostly a worker is done by then, and need not die."""


@dataclass(slots=True)
class Job:
    """A pair on its way. Its verdict is cancelled when the last one who waited for it has gone."""

    line: bytes
    verdict: asyncio.Future[Verdict]
    n_waiting: int = 0
    has_crashed: bool = False
    """Its worker has ended at work, once: that may have been another's doing, so the pair is given to a second one."""


class Worker:
    """`is_failing`: its process could not be started, the last few times that it was tried."""

    def __init__(self, pair_s: float, start_s: float, backoff_s: tuple[float, ...]) -> None:
        self.process: Process | None = None
        self.is_failing = False
        self._pair_s = pair_s
        self._start_s = start_s
        self._backoff_s = backoff_s

    async def serve(self, jobs: asyncio.Queue[Job]) -> None:
        """Until it is cancelled; no process is left then."""
        n_failed = 0
        while True:
            await asyncio.sleep(self._backoff_s[min(n_failed, len(self._backoff_s) - 1)])
            try:
                process = await _to_its_end(self._start())
                is_ready = await self._word(process, self._start_s) == "ready"
                n_failed = 0 if is_ready else n_failed + 1
                self._tell(n_failed, "it ended, or was not ready in time")
                while is_ready and (job := await _next_job(process, jobs)) is not None:
                    is_ready = await self._work_on(process, job, jobs)
            except (OSError, NotImplementedError) as error:  # no descriptor is left; or a loop without subprocesses
                n_failed += 1
                self._tell(n_failed, str(error))
            finally:
                await self._end()

    def _tell(self, n_failed: int, failure: str) -> None:
        """Once, and not at every try."""
        is_failing = n_failed >= _FAILS_AFTER
        if is_failing and not self.is_failing:
            log.warning("no equivalence worker can be started, so answers are equal by normal form only: %s", failure)
        self.is_failing = is_failing

    async def _start(self) -> Process:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        command = (sys.executable, "-P", str(_SCRIPT), str(os.getpid()))
        self.process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment
        )
        return self.process

    async def _work_on(self, process: Process, job: Job, jobs: asyncio.Queue[Job]) -> bool:
        """Whether the process may go on to another pair."""
        assert process.stdin is not None
        with suppress(ConnectionError):  # then it is about to be found dead
            process.stdin.write(job.line)
        word = await self._word(process, self._pair_s, job.verdict)
        verdict = cast(Verdict, word) if word in get_args(Verdict) else await _how_it_ended(process)
        if verdict == "crashed" and not job.has_crashed:
            job.has_crashed = True
            jobs.put_nowait(job)
        elif not job.verdict.done():
            job.verdict.set_result(verdict)
        return verdict not in ("timeout", "exhausted", "crashed")

    async def _word(self, process: Process, seconds: float, wanted: asyncio.Future[Verdict] | None = None) -> str:
        """What it says, empty where it has ended; `timeout` for one that says nothing while it is `wanted`."""
        assert process.stdout is not None
        reading = asyncio.ensure_future(process.stdout.readline())
        try:
            waited: set[asyncio.Future[Any]] = {reading} if wanted is None else {reading, wanted}
            await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done() and wanted is not None and wanted.done():
                await asyncio.wait({reading}, timeout=_ABANDONED_S)
            if not reading.done():
                return "timeout"
            return "" if reading.exception() is not None else reading.result().decode(errors="replace").strip()
        finally:
            reading.cancel()

    async def _end(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                # Not process.kill(): that polls first, and asyncio then misses the end of a process that is dead.
                os.kill(process.pid, signal.SIGKILL)
        await _to_its_end(process.wait())


async def _how_it_ended(process: Process) -> Verdict:
    """Of one that has closed its output: its own limit of processor time is a deadline, too."""
    with suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            return "timeout" if await process.wait() == -signal.SIGXCPU else "crashed"
    return "crashed"


async def _to_its_end(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Not cut short by a cancellation, which is told after it: a child that is not known, or not waited for, stays."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _next_job(process: Process, jobs: asyncio.Queue[Job]) -> Job | None:
    """A pair that somebody still waits for; None when the idle process ends, which then costs no pair."""
    ended = asyncio.create_task(process.wait())
    try:
        while True:
            getting = asyncio.create_task(jobs.get())
            try:
                await asyncio.wait((ended, getting), return_when=asyncio.FIRST_COMPLETED)
            finally:
                getting.cancel()
            if getting.done() and not getting.cancelled():
                if not (job := getting.result()).verdict.done():
                    return job
            elif ended.done():
                return None
    finally:
        ended.cancel()
